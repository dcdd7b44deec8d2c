"""A blend on disk, `runs/<competition>/<blend>/`: the names of its files, and reading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command_line import UserError

BLEND_FILE = "blend.json"
SCORES_FILE = "oof_dice.csv"
SUBMISSION_FILE = "submission.csv.gz"
# written where the test truth is known
SCORE_FILE = "test_score.json"
CONTACT_SHEET_FILE = "contact_sheet.png"


def read_blend(folder: Path) -> dict[str, Any]:
    """The blend that `ensemble.fit` wrote.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / BLEND_FILE
    try:
        blend: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: choose the blend first (make fit).") from None
    except json.JSONDecodeError:
        raise UserError(f"{path} is damaged: choose the blend again (make fit).") from None
    return blend


def table_lines(blend: dict[str, Any]) -> list[str]:
    """The out-of-fold figures of a blend (the content of blend.json) and its members, as lines of text."""
    lines = [f"{'out-of-fold Dice at full size':32}    mean  95 % interval    worst"]
    for label, figures in (*blend["member_cv"].items(), (f"{blend['name']} (nested CV)", blend["cv"])):
        low, high = figures["interval"]
        lines.append(f"{label:32}  {figures['dice']:.4f}  {low:.4f}..{high:.4f}  {figures['worst']:.4f}")
    return [*lines, f"{blend['name']} = mean of the logits of {', '.join(blend['members'])}"]
