"""What messages tell the reader to do next: commands for the competition at hand, and shipped folders got again.

A message says "make fit", and means the competition at hand: without it the reader's next command would be for another
one. Standard library only.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# verbs of the Makefile that take C=, and of those the ones that take DATA= and ARGS='--runs ...'
OF_COMPETITIONS = (
    "activations", "classify", "data", "disagreement", "ensemble", "explore", "export", "fit", "fold", "folds",
    "import-member", "notebook-pull", "notebook-push", "plan", "predict", "pseudo", "report", "ship",
    "submission", "submit", "suspects", "verdict",
)  # fmt: skip
_WITHOUT_DATA = ("activations", "predict")
_WITHOUT_RUNS = ("data",)
# of a folder that was handed on
CARD_FILE = "README.md"
_DEFAULTS = {"competition": "carvana", "runs": Path("runs")}

_VALUE = r"(?:'[^']*'|[^\s'(),;:]*[^\s'(),;:.])"
_COMMAND = re.compile(
    rf"\bmake ({'|'.join(sorted(OF_COMPETITIONS, key=len, reverse=True))})(?![\w-])((?: [A-Z]+={_VALUE})*)"
)
_QUOTE = "'"
_SETTING = re.compile(rf" ([A-Z]+)=({_VALUE})")


def completed(message: str, arguments: Mapping[str, Any]) -> str:
    """A message whose `make` commands are for the competition, data and runs folder that a program was called with.

    Args:
        message: of a `UserError`.
        arguments: of the program, by name; `competition`, `data` and `runs` are looked at where they are there.

    >>> completed("choose the blend first (make fit).", {"competition": "salt", "runs": Path("elsewhere")})
    "choose the blend first (make fit C=salt ARGS='--runs elsewhere')."
    >>> completed("train it again: make fold V=a F=0.", {"competition": "carvana", "runs": Path("runs")})
    'train it again: make fold V=a F=0.'
    """
    competition, data, runs = (arguments.get(name) for name in ("competition", "data", "runs"))

    def complete(match: re.Match[str]) -> str:
        verb, settings = match[1], dict(_SETTING.findall(match[2]))
        added = {}
        if competition and competition != _DEFAULTS["competition"] and "C" not in settings:
            added["C"] = shlex.quote(str(competition))
        if data and data != Path("data") / str(competition) and "DATA" not in settings and verb not in _WITHOUT_DATA:
            added["DATA"] = shlex.quote(str(data))
        if (
            runs
            and runs != _DEFAULTS["runs"]
            and verb not in _WITHOUT_RUNS
            and "--runs" not in settings.get("ARGS", "")
        ):
            flags = f"--runs {shlex.quote(str(runs))} {settings.pop('ARGS', '').strip(_QUOTE)}".strip()
            settings["ARGS"] = f'"{flags}"' if _QUOTE in flags else f"'{flags}'"
        return f"make {verb}" + "".join(f" {name}={value}" for name, value in {**added, **settings}.items())

    return _COMMAND.sub(complete, message)


def is_shipped(run: Path) -> bool:
    """Whether a run was handed on (`make ship`): it lies beside a model card, and not beside a split."""
    return (run.parent / CARD_FILE).exists() and not (run.parent / "folds.csv").exists()


def made_again_by(fold: Path) -> str:
    """What makes the files of a trained fold again, as the end of a sentence.

    >>> made_again_by(Path("runs/carvana/a-unet-128/fold3"))
    'put it back, or train the fold again (make fold V=a-unet-128 F=3)'
    """
    run = fold.parent
    if is_shipped(run):
        return f"it came with {run.parent}: get that folder again"
    return f"put it back, or train the fold again (make fold V={run.name} F={fold.name.removeprefix('fold')})"
