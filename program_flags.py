"""The flags that most programs take, told once, and where they lead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from competition import Competition, find_competition

CompetitionName = Annotated[str, arg(help="a name from competition.py.")]
DataFolder = Annotated[Path | None, arg(help="the competition's files; data/<competition> by default.")]
RunsFolder = Annotated[Path, arg(help="where trained variants and blends are.")]
Jobs = Annotated[int, arg(help="processes, as joblib counts them.")]


def places(competition: str, data: Path | None, runs: Path) -> tuple[Competition, Path, Path]:
    """The competition of that name, the folder of its files, and `runs/<competition>`; UserError of an unknown name.

    >>> [str(folder) for folder in places("carvana", None, Path("elsewhere"))[1:]]
    ['data/carvana', 'elsewhere/carvana']
    """
    facts = find_competition(competition)
    return facts, data or facts.default_data(), runs / facts.name
