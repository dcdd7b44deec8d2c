"""A blend on disk, `runs/<competition>/<blend>/`: the names of its files, and reading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command_line import UserError

BLEND_FILE = "blend.json"
SCORES_FILE = "oof_dice.csv"
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


def table_lines(blend: dict[str, Any]) -> list[str]:
    """The out-of-fold figures of a blend (the content of blend.json), its members and its rivals, as lines of text."""
    head = "out-of-fold Dice at full size"
    lines = [f"{head:36}    mean  95 % interval    worst"]

    def row(label: str, figures: dict[str, Any]) -> str:
        low, high = figures["interval"]
        return f"{label:36}  {figures['dice']:.4f}  {low:.4f}..{high:.4f}  {figures['worst']:.4f}"

    lines += [row(label, figures) for label, figures in blend["member_cv"].items()]
    lines.append("nested cross-validation of the ways of blending")
    lines += [row(f"  {label}", figures) for label, figures in blend["candidates"].items()]
    lines.append(row(f"{blend['name']} = {blend['kind']}", blend["cv"]))
    for other, figures in blend.get("gains", {}).items():
        if other == blend["kind"]:
            continue
        low, high = figures["interval"]
        lines.append(f"{f'  above {other}':36} {figures['gain']:+.5f}  {low:+.5f}..{high:+.5f}")
    expected = blend.get("expected")
    if expected:
        low, high = expected["interval"]
        lines.append(f"{'  to be expected on the test set':36}          {low:.4f}..{high:.4f}")
    weights = ", ".join(f"{w:.3f} {name}" for name, w in zip(blend["members"], blend["weights"], strict=True))
    fit = blend["threshold_fit"]
    lines.append(f"weights: {weights}; threshold {blend['threshold']:g}")
    if fit is not None:
        verdict = "kept" if fit["kept"] else "not kept, as its interval is not above 0"
        lines.append(f"a fitted threshold ({fit['fitted']:g}) gains {fit['nested_gain']:+.6f}: {verdict}")
    for step, figures in blend.get("postprocess", {}).items():
        verdict = "kept" if figures["kept"] else "not kept, as its interval is not above 0"
        lines.append(f"{step} ({figures['size_px']} px) gains {figures['nested_gain']:+.6f}: {verdict}")
    return lines
