"""What a fit leaves out of a blend that was there before it, and what it replaces: nothing of either goes unsaid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from command_line import UserError
from ensemble.blend_file import BLEND, BLEND_FILE, FittedBlend
from ensemble.oof_data import OofData
from folds.run_layout import begun_folds, finished_folds, trained_runs
from folds.verdict import why_left_out
from kernels.metrics import metric_in, score_in


def earlier_blend(folder: Path, data_digest: str, folds_digest: str) -> FittedBlend | None:
    """The blend in a folder, if it was chosen on the same images and split; None where none was, or it is damaged."""
    try:
        blend = BLEND.read_if_there(folder / BLEND_FILE)
    except UserError:
        # choosing again is the remedy
        return None
    same = blend is not None and (blend["data_digest"], blend["folds_digest"]) == (data_digest, folds_digest)
    return blend if same else None


def unfinished(root: Path, folds: int) -> dict[str, int]:
    """How many folds are trained, by name, of the runs in `runs/<competition>` that are begun and not finished."""
    done = {run.name: len(finished_folds(run)) for run in sorted(root.glob("*")) if begun_folds(run)}
    return {name: count for name, count in done.items() if count < folds}


def check_left_out(earlier: FittedBlend | None, oof: OofData, root: Path, folder: Path) -> None:
    """Say which unfinished networks a fit of all of them leaves out.

    Args:
        earlier: the blend that would be replaced.
        oof: of the networks that are there.
        root: `runs/<competition>`.
        folder: of the blend.

    Raises:
        UserError: the blend that is there was chosen with a network that is left out.
    """
    folds = len(oof.members[0].folds)
    trained = unfinished(root, folds)
    for name in earlier["member_cv"] if earlier else ():
        if name not in oof.names:
            raise UserError(
                f"{folder / BLEND_FILE} was chosen with {name}, of which {trained.get(name, 0)} of {folds} folds are "
                f"trained now: train the others (make folds V={name}), name the networks to choose from "
                f"(V={','.join(oof.names)}), or another blend (ARGS='--name ...')."
            )
    for run in trained_runs(root):
        if run.name not in oof.names and (reason := why_left_out(run)):
            print(f"left out: {run.name}, as {reason}")
    for name, count in trained.items():
        print(f"left out: {name}, as {count} of its {folds} folds are trained (make folds V={name})")


def poorer_lines(earlier: FittedBlend | None, blend: FittedBlend) -> Sequence[str]:
    """What is to be said of a blend that scores less than the one that it replaces; nothing of a better one."""
    if earlier is None or score_in(earlier["cv"]) <= score_in(blend["cv"]):
        return ()
    label = metric_in(blend["cv"]).label
    was, now = (f"{score_in(each['cv']):.6f} of {', '.join(each['member_cv'])}" for each in (earlier, blend))
    return (f"warning: this replaces a better blend: {label} {was}; now {now}",)
