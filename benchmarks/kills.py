"""`python -m benchmarks.kills`: prediction killed at random moments and resumed, against one that never was.

Each process is killed (SIGKILL) when a number of images drawn by chance is stored, and a moment drawn by chance later,
so that the kills fall into reading, passing, packing and writing alike. Then one and two processes are compared.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from benchmarks.predict import SMALL, random_member
from command_line import UserError, program
from competition import Size
from models.image_file import ImageFile
from models.variants import find_variant
from predict.members import Member
from predict.predictor import predict
from program_flags import NonNegative, Positive, Seed

# a forward pass and the writing of its images take about as long
_LATER_S = 0.3

_CHILD = """
import sys
from pathlib import Path
from predict.replicas import ReplicaPool
from predict.members import find_members
from predict.predictor import predict
root, folder, store, height, width = *map(Path, sys.argv[1:4]), int(sys.argv[4]), int(sys.argv[5])
member = find_members(root, [sys.argv[6]], 1)[0]
pool = ReplicaPool([member])
print("ready", flush=True)
predict(member, sorted(p.name for p in folder.iterdir()), folder, (height, width), pool=pool, store=store)
"""


def chunks(store: Path) -> dict[str, bytes]:
    """The finished chunks of a store by name."""
    return {path.name: path.read_bytes() for path in store.glob("c.*.0")}


def killed_at(member: Member, folder: Path, store: Path, size: Size, goal: int, delay_s: float) -> bool:
    """Predict in a process of its own and kill it so long after it has stored `goal` images in all; False if it was
    through before."""
    words = [str(member.folder.parent), str(folder), str(store), *map(str, size), member.name]
    home = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, *words], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            raise UserError("the process that is to be killed did not start: run python -m submit.plan to see why.")
        while child.poll() is None and sum(1 for _ in store.glob("c.*.0")) < goal:
            time.sleep(0.001)
        time.sleep(delay_s)
        alive = child.poll() is None
        child.send_signal(signal.SIGKILL)
    return alive


@program
def main(
    images: Path = Path("data/studio/test"), count: Positive = 400, kills: NonNegative = 10, seed: Seed = 0
) -> None:
    """Kill a prediction again and again, and compare what it stores in the end.

    Args:
        images: a folder of JPEGs of one size.
        count: images, links to those of the folder in turn.
        kills: how often a process is killed.
        seed: of the moments.
    """
    paths = sorted(images.glob("*.jpg")) if images.is_dir() else []
    if not paths:
        raise UserError(f"{images} holds no .jpg image: name a folder of images (--images), or make data C=studio.")
    size = ImageFile(paths[0]).size
    with tempfile.TemporaryDirectory() as temporary:
        root, folder = Path(temporary), Path(temporary) / "images"
        folder.mkdir()
        names = [f"{k:06}.jpg" for k in range(count)]
        for k, name in enumerate(names):
            (folder / name).symlink_to(paths[k % len(paths)].resolve())
        member = random_member(root, find_variant(SMALL[0]))
        expected = chunks(predict(member, names, folder, size, store=root / "whole.zarr").path)

        rng = random.Random(seed)
        store, done = root / "killed.zarr", [0]
        for left in range(kills, 0, -1):
            goal = done[-1] + rng.randint(0, (count - done[-1]) // (left + 1))
            alive = killed_at(member, folder, store, size, goal, rng.uniform(0, _LATER_S))
            done.append(len(chunks(store)))
            if not alive:
                raise UserError(f"the prediction was through after {len(done)} processes: take more images (--count).")
        predict(member, names, folder, size, store=store)
        same = chunks(store) == expected
        print(f"killed {kills} times, with {', '.join(map(str, done[1:]))} of {count} images stored; resumed: ", end="")
        print("the same bytes" if same else "OTHER BYTES")
        shutil.rmtree(store)
        two = chunks(predict(member, names, folder, size, store=root / "two.zarr", jobs=2).path) == expected
        print(f"two processes and one: {'the same bytes' if two else 'OTHER BYTES'}")
        if not (same and two):
            raise UserError("what is stored depends on kills or on the number of processes: that is a bug.")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
