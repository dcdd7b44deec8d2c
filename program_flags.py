"""The flags that most programs take, told once, and where they lead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from competition import Competition, find_competition

CompetitionName = Annotated[str, arg(help="a name from competition.py.")]
DataFolder = Annotated[Path | None, arg(help="the competition's files; data/<competition> by default.")]
RunsFolder = Annotated[Path, arg(help="where trained variants and blends are.")]
BlendName = Annotated[str, arg(help="of the blend (ensemble.fit).")]
Folds = Annotated[str, arg(help="0, or 0,2, or 0..4, or all.")]
Jobs = Annotated[int, arg(help="processes, as joblib counts them.")]


def files_of(competition: str, data: Path | None) -> tuple[Competition, Path]:
    """The competition of that name and the folder of its files; UserError of an unknown name.

    >>> str(files_of("carvana", None)[1])
    'data/carvana'
    """
    facts = find_competition(competition)
    return facts, data or facts.default_data()


def places(competition: str, data: Path | None, runs: Path) -> tuple[Competition, Path, Path]:
    """The competition of that name, the folder of its files, and `runs/<competition>`; UserError of an unknown name.

    >>> [str(folder) for folder in places("carvana", None, Path("elsewhere"))[1:]]
    ['data/carvana', 'elsewhere/carvana']
    """
    facts, data = files_of(competition, data)
    return facts, data, runs / facts.name
