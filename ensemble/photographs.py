"""`python -m ensemble.photographs`: masks and cut-outs of any photographs, by a blend or a variant; `make predict`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

import atomic
from command_line import UserError, program
from competition import find_competition
from ensemble.blend import find_blend
from ensemble.mask_agreement import logits_of
from ensemble.photograph_files import CUTOUT_SUFFIX, MASK_SUFFIX, cut_out, list_photographs, write_png
from ensemble.photograph_table import TABLE_FILE, PhotographTable, read_told, warning_of
from folder_lock import fill
from folds.contents import CONTENTS_FILE, read_contents, renew
from json_file import Schema
from models.image_file import decode
from models.precision import native
from models.runtimes import Backend, choose_runtime
from predict.blocks import Place, places, raise_unreadable
from predict.photographs import PhotographLogits, load, network_logits
from predict.pipeline import overlapped
from predict.predictor import DECODERS
from predict.replicas import ReplicaPool
from program_flags import Batch, RunsFolder

# what the folder's masks were made with
STATE_FILE = "made_with.json"
_STATE = Schema(dict[str, Any], "choose another folder (OUT=...), or empty it")


@program
def main(
    images: Path,
    out: Path,
    competition: str = "carvana",
    blend: str = "blend",
    variant: str = "",
    cutout: bool = False,
    runs: RunsFolder = Path("runs"),
    batch: Batch = 0,
    backend: Backend = "auto",
) -> None:
    """Masks (PNG, 0 and 255) of photographs, each at its own size; run again, only what is missing is done.

    A table says how far the networks agree on each, by which those can be found that are of a kind they do not know.

    Args:
        images: a folder of photographs of any sizes, or one file.
        out: folder for `<name>_mask.png` and, with --cutout, `<name>_cutout.png`.
        competition: whose trained networks; a name from competition.py.
        blend: a fitted blend (ensemble.fit).
        variant: one trained variant instead of the blend.
        cutout: also write the photographs with their background transparent.
        batch: photographs a forward pass; 0 chooses.
        backend: what computes the networks on a CPU: torch, or OpenVINO (requirements-cpu.txt), which is up to twice as
            fast; auto takes it where it is installed and the photographs are many.
    """
    facts = find_competition(competition)
    chosen = find_blend(runs / facts.name, blend, variant)
    folder, names, too_long = list_photographs(images)
    chosen = chosen.on(choose_runtime(backend, len(names))).within(native())
    if out.resolve() == folder.resolve():
        raise UserError(f"{out} holds the photographs themselves: choose another folder for the masks (OUT=...).")
    fill(out)
    if (out / STATE_FILE).exists() and _STATE.read(out / STATE_FILE) != chosen.state():
        raise UserError(f"{out} holds masks of another blend or variant: {_STATE.hint}.")
    atomic.write_json(out / STATE_FILE, chosen.state())

    def outputs(name: str) -> list[Path]:
        stem = Path(name).stem
        return [out / (stem + MASK_SUFFIX), *([out / (stem + CUTOUT_SUFFIX)] if cutout else [])]

    table = PhotographTable(out, read_told(out), chosen.agreement_limit)

    def drop(others: Collection[str]) -> int:
        of_before = [name for name in others if table.told.pop(name, None) is not None]
        for name in others:
            for path in (out / (Path(name).stem + suffix) for suffix in (MASK_SUFFIX, CUTOUT_SUFFIX)):
                path.unlink(missing_ok=True)
        return len(of_before)

    record = out / CONTENTS_FILE
    if stale := renew(record, read_contents(folder, names, record), drop):
        print(f"{stale} photographs are not those that the masks in {out} are of: their masks are made again")
    missing = [name for name in names if name not in table.told or not all(path.exists() for path in outputs(name))]
    faults: list[tuple[Place, UserError]] = []
    if missing:
        pool = ReplicaPool(chosen.members)

        def keep(result: PhotographLogits) -> None:
            logits = logits_of(chosen, result)
            paths = outputs(result.name)
            if cutout:
                write_png(paths[1], cut_out(decode(folder / result.name), logits))
            write_png(paths[0], (logits > 0).astype(np.uint8) * np.uint8(255))
            agreement = result.poll.agreement if result.poll is not None else None
            if agreement == 0 and facts.empty_masks and result.poll is not None and not result.poll.votes.any():
                # there an empty mask is as ordinary as any, and all agree on it
                agreement = 1.0
            table.add(result.name, agreement, np.count_nonzero(logits > 0) / logits.size)

        with tqdm(total=len(missing), desc="mask", unit="image", disable=None) as bar, pool.running():
            faults = overlapped(
                places(names, missing, batch or min(pool.batch(m.variant) for m in chosen.members)),
                load=lambda place: load(folder / place.name, chosen.frames, chosen.image_frames),
                forward=lambda photographs: network_logits(pool, photographs, polled=True),
                keep=keep,
                advance=bar.update,
                replicas=pool.count,
                decoders=DECODERS,
                writers=2 if cutout else 1,
                thread_setup=pool.set_up,
            )
    # also where no mask is new: the blend's limit may be
    table.write()
    unreadable = [*too_long, *((place.name, fault) for place, fault in faults)]
    done = len(names) - len(faults)
    print(f"{out}: {done} mask{'' if done == 1 else 's'}, {len(names) - len(missing)} of them from before")
    if any(name in table.told for name in names):
        print(warning_of(table.told, names, out / TABLE_FILE))
    raise_unreadable(unreadable, len(names) + len(too_long), "done")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
