"""A blend on disk, `runs/<competition>/<blend>/`: the names of its files, and reading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command_line import UserError
from kernels.metrics import Metric, metric_in
from path_names import inside

BLEND_FILE = "blend.json"
# of a convolutional stacker: its weights, and what it is
STACKER_WEIGHTS_FILE = "conv_stacker.safetensors"
STACKER_FILE = "conv_stacker.json"
SUBMISSION_FILE = "submission.csv.gz"
# its parts while it is made
SHARDS_DIR = "shards"
# written where the test truth is known
SCORE_FILE = "test_score.json"
CONTACT_SHEET_FILE = "contact_sheet.png"
REPORT_FILE = "report.html"
# the large pictures that the page links to
REPORT_PICTURES_DIR = "report"
# of test images, where networks disagree
DISAGREEMENT_FILE = "disagreement.csv"
DISAGREEMENT_PAGE_FILE = "disagreement.html"
DISAGREEMENT_PICTURES_DIR = "disagreement"


def blend_folder(root: Path, name: str) -> Path:
    """Where the blend `name` is in `runs/<competition>`; UserError where that is no name of a folder."""
    return inside(root, name, "the name of the blend")


def scores_file(metric: Metric) -> str:
    """The name of the file that has every training image's score.

    >>> from kernels.metrics import DICE
    >>> scores_file(DICE)
    'oof_dice.csv'
    """
    return f"oof_{metric.name}.csv"


def read_blend(folder: Path) -> dict[str, Any]:
    """The blend that `ensemble.fit` wrote.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / BLEND_FILE
    try:
        blend: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        blend["members"]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: choose the blend first (make fit).") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: choose the blend again (make fit).") from None
    return blend


# what a figure says of the choice that it belongs to; blends of before there was an outer loop nested weights alone
_NESTED_BEFORE = ("weights",)


def nested_in(figures: dict[str, Any]) -> str:
    """What was chosen without the fold that is scored, in words, for a `cv` of blend.json."""
    return ", ".join(figures.get("nested", _NESTED_BEFORE))


def averaged_folds_note(expected: dict[str, Any]) -> str:
    """What an `expected` of blend.json is not about, as a sentence; empty for blends that do not say."""
    folds = expected.get("submission_averaged_folds", 1)
    if folds == 1:
        return ""
    return f"of networks of one fold each, as they were scored; the submission averages the networks of {folds}"


def table_lines(blend: dict[str, Any]) -> list[str]:
    """The out-of-fold figures of a blend (the content of blend.json), its members and its rivals, as lines of text."""
    metric = metric_in(blend["cv"])
    head = f"out-of-fold {metric.label} at full size"
    lines = [f"{head:36}    mean  95 % interval    worst"]

    def row(label: str, figures: dict[str, Any]) -> str:
        low, high = figures["interval"]
        return f"{label:36}  {figures[metric.name]:.4f}  {low:.4f}..{high:.4f}  {figures['worst']:.4f}"

    lines += [row(label, figures) for label, figures in blend["member_cv"].items()]
    lines.append("ways of blending, each with weights fitted without the fold that is scored")
    lines += [row(f"  {label}", figures) for label, figures in blend["candidates"].items()]
    lines.append(f"the blend, chosen without the fold that is scored: {nested_in(blend['cv'])}")
    lines.append(row(f"{blend['name']} = {blend['kind']}", blend["cv"]))
    others = {decision["kind"] for decision in blend.get("chosen_without", {}).values()} - {blend["kind"]}
    if others:
        lines.append(f"  without some fold, another way was chosen: {', '.join(sorted(others))}")
    for other, figures in blend.get("gains", {}).items():
        low, high = figures["interval"]
        if low == high == 0:
            continue
        lines.append(f"{f'  above {other}':36} {figures['gain']:+.5f}  {low:+.5f}..{high:+.5f}")
    expected = blend.get("expected")
    if expected:
        low, high = expected["interval"]
        lines.append(f"{'  to be expected on the test set':36}          {low:.4f}..{high:.4f}")
        if note := averaged_folds_note(expected):
            lines.append(f"    ({note})")
    weights = ", ".join(f"{w:.3f} {name}" for name, w in zip(blend["members"], blend["weights"], strict=True))
    fit = blend["threshold_fit"]
    lines.append(f"weights: {weights}; threshold {blend['threshold']:g}")
    if fit is not None:
        verdict = "kept" if fit["kept"] else "not kept, as its interval is not above 0"
        lines.append(f"a fitted threshold ({fit['fitted']:g}) gains {fit['nested_gain']:+.6f}: {verdict}")
    for step, figures in blend.get("postprocess", {}).items():
        verdict = "kept" if figures["kept"] else "not kept, as its interval is not above 0"
        lines.append(f"{step} ({figures['size_px']} px) gains {figures['nested_gain']:+.6f}: {verdict}")
    lines.append("intervals: over groups of images; not over seeds, trainings or the choice of the best epoch")
    return lines
