"""Rounds of self-training and what was found of them: a run that learned from pseudo-labels is a member only once it
was held against the run before it, and gained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from command_line import UserError
from folds.outputs import WEIGHTS_DIGEST
from folds.run_layout import ROUND_FILE, finished_folds
from folds.task import read_manifest
from json_file import FolderName, Interval, Schema, extensible

_HINT = "judge the round again (make verdict)"


@extensible
class Verdict(TypedDict):
    """The content of round.json; FORMATS.md tells each field."""

    before: FolderName
    gain: float
    interval: Interval
    kept: bool
    optimistic: bool
    weights: list[str]
    weights_before: list[str]
    rounds: list[dict[str, Any]]


VERDICT = Schema(Verdict, _HINT)


def rounds_of(run: Path) -> list[dict[str, Any]]:
    """The rounds of self-training that a run's weights come from, the last one last; none for most runs."""
    folds = finished_folds(run)
    manifest = read_manifest(folds[0]) if folds else None
    return list((manifest or {}).get("rounds", []))


def weights_of(run: Path) -> list[str]:
    """The digests of the weights of a run's finished folds."""
    return [str((read_manifest(folder) or {}).get(WEIGHTS_DIGEST)) for folder in finished_folds(run)]


def read_verdict(run: Path) -> Verdict | None:
    """What was found of a run as it is now; None where nothing was, or it was trained again since, or the file is
    damaged."""
    try:
        verdict = VERDICT.read_if_there(run / ROUND_FILE)
    except UserError:
        # judging again is the remedy
        return None
    return verdict if verdict is not None and verdict["weights"] == weights_of(run) else None


def why_left_out(run: Path) -> str:
    """Why a run may be no member unless it is named; empty where it may."""
    if not rounds_of(run):
        return ""
    verdict = read_verdict(run)
    if verdict is None:
        return "it learned from pseudo-labels and was not judged (make verdict)"
    if not verdict["kept"]:
        return f"its round gains {verdict['gain']:+.5f} over {verdict['before']}, with an interval not above 0"
    return ""
