"""`python -m benchmarks.survival`: a small competition from images to submission, killed and its disk filled at random
moments, against one that was left in peace.

Each attempt is a process of its own that does all that is left: render, train, fit, predict, submit. It is killed
(SIGKILL, the program or one of its workers) at a moment drawn by chance, or finds only so many bytes free on its disk
as chance has drawn. Whenever a pipeline is through, its bytes are compared, and the next one begins from nothing. Disks
are filled on a tmpfs where this process may mount one; otherwise only kills are tried.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tyro

import atomic
import ensemble.fit
import folds.train
import submit.make
from command_line import UserError, program
from ensemble.blend_file import BLEND_FILE, SUBMISSION_FILE
from folds.run_layout import CURVES_FILE, FOLDS_FILE, METRICS_FILE, STORE_METADATA_FILE, WEIGHTS_FILE
from program_flags import NonNegative, Processes, Seed
from studio.render import render_competition

# of what is compared: everything that a later step, or a user, takes
_RESULTS = (
    WEIGHTS_FILE,
    METRICS_FILE,
    CURVES_FILE,
    FOLDS_FILE,
    STORE_METADATA_FILE,
    "c.*.0",
    BLEND_FILE,
    SUBMISSION_FILE,
)
_DISK_BYTES = 256 << 20
# what a pipeline writes in all is about this much; a drawn part of it is left free
_FREE_BYTES = 24 << 20


def _pipeline(root: Path, jobs: int) -> None:
    """All steps, in this process; those that are done say so and are passed over."""
    render_competition(root / "data", cars=6, test_cars=2, seed=1, views=2, jobs=1)
    where = {"competition": "studio", "data": root / "data", "runs": root / "runs"}
    variants = "average-mask,a-cnn-128"
    folds.train.main(**where, variant=variants, folds=3, epochs=3, batch=2, jobs=jobs)  # type: ignore[arg-type]
    ensemble.fit.main(**where, jobs=1)  # type: ignore[arg-type]
    submit.make.main(**where, jobs=1)  # type: ignore[arg-type]


def _begin(root: Path, jobs: int, log: Path) -> int:
    """Begin the pipeline in a process forked from this one, which has imported everything and computed nothing."""
    process = os.fork()
    if process:
        return process
    try:
        os.setpgid(0, 0)
        words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(words, 1)
        os.dup2(words, 2)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        program(_pipeline)(root, jobs)
    except SystemExit as error:
        print(error.code, flush=True)
        os._exit(1)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(2)
    os._exit(0)


def _children(process: int) -> list[int]:
    try:
        return [int(n) for each in Path(f"/proc/{process}/task").glob("*/children") for n in each.read_text().split()]
    except OSError:
        return []


def results(root: Path) -> dict[str, bytes]:
    """What a pipeline leaves, by path."""
    found = {path for pattern in _RESULTS for path in (root / "runs").rglob(pattern)}
    return {str(path.relative_to(root)): path.read_bytes() for path in found if atomic.TEMPORARY not in str(path)}


@contextmanager
def _small_disk() -> Iterator[Path | None]:
    """A folder on a disk of its own; None where none may be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=False)


@dataclass
class Tally:
    """What became of the attempts: of the pipelines that ended, those with other bytes; of the faults, those that ended
    in anything else than a sentence."""

    killed: int = 0
    workers_killed: int = 0
    filled: int = 0
    through: int = 0
    other_bytes: int = 0
    no_sentence: list[str] = field(default_factory=list)


def _ended(process: int) -> int | None:
    done, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def _killed(root: Path, log: Path, jobs: int, rng: random.Random, whole_s: float, tally: Tally) -> int:
    """One attempt with a kill; returns the exit status."""
    process = _begin(root, jobs, log)
    until = time.monotonic() + rng.uniform(0, whole_s)
    status = None
    while status is None and time.monotonic() < until:
        time.sleep(0.005)
        status = _ended(process)
    if status is not None:
        return status
    workers = _children(process)
    if workers and rng.random() < 0.5:
        os.kill(rng.choice(workers), signal.SIGKILL)
        tally.workers_killed += 1
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    tally.killed += 1
    return -signal.SIGKILL


def _filled(root: Path, log: Path, jobs: int, rng: random.Random, tally: Tally) -> int:
    """One attempt on a disk that is nearly full; returns the exit status."""
    ballast = root.parent / "ballast"
    free = atomic.free_bytes(root.parent) or 0
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - rng.randrange(_FREE_BYTES)))
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(_begin(root, jobs, log), 0)[1])
    finally:
        ballast.unlink()
    tally.filled += status != 0
    return status


@program
def main(kills: NonNegative = 20, full_disks: NonNegative = 10, jobs: Processes = 1, seed: Seed = 0) -> None:
    """Disturb a pipeline again and again, and compare what it leaves in the end.

    Args:
        kills: how often a process is killed.
        full_disks: how often the disk is full.
        jobs: folds trained at once; with more than one, workers are killed too.
        seed: of the moments.
    """
    rng, tally = random.Random(seed), Tally()
    with _small_disk() as disk, tempfile.TemporaryDirectory() as elsewhere:
        base, log = disk or Path(elsewhere), Path(elsewhere) / "log"
        root = base / "pipeline"
        start = time.monotonic()
        if os.waitpid(_begin(root, jobs, log), 0)[1]:
            raise UserError(f"the undisturbed pipeline failed: {log.read_text()[-500:]}")
        whole_s, expected = time.monotonic() - start, results(root)
        print(f"undisturbed: {whole_s:.0f} s, {len(expected)} files", flush=True)
        shutil.rmtree(root / "runs")
        while tally.killed + tally.workers_killed < kills or (disk and tally.filled < full_disks):
            kill = tally.killed + tally.workers_killed < kills
            if disk and tally.filled < full_disks and (not kill or rng.random() < full_disks / (kills + full_disks)):
                status = _filled(root, log, jobs, rng, tally)
            else:
                status = _killed(root, log, jobs, rng, whole_s, tally)
            words = log.read_text()
            if "Traceback" in words or status not in (0, 1, -signal.SIGKILL):
                tally.no_sentence.append(words[-2000:])
            if status == 0:
                tally.through += 1
                tally.other_bytes += results(root) != expected
                shutil.rmtree(root / "runs")
                if rng.random() < 0.5:
                    shutil.rmtree(root / "data")
            print(f"  status {status}, {tally.killed} + {tally.workers_killed} kills, {tally.filled} full", flush=True)
        if os.waitpid(_begin(root, jobs, log), 0)[1]:
            raise UserError(f"the last pipeline failed: {log.read_text()[-500:]}")
        tally.through += 1
        tally.other_bytes += results(root) != expected
        left = list(root.rglob(f"{atomic.TEMPORARY}*"))
    print(
        f"{tally.killed} programs and {tally.workers_killed} workers killed, {tally.filled} disks full; "
        f"{tally.through} pipelines ended, {tally.other_bytes} with other bytes; {len(tally.no_sentence)} faults "
        f"without a sentence; {len(left)} leftovers"
    )
    for words in tally.no_sentence[:3]:
        print(words)
    if tally.other_bytes or tally.no_sentence or left:
        raise UserError("kills or full disks change what is made, or are not told in a sentence: that is a bug.")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
