"""The flags that most programs take, told once, and where they lead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from command_line import SEEDS, Range
from competition import Competition, find_competition

CompetitionName = Annotated[str, arg(help="a name from competition.py.")]
DataFolder = Annotated[Path | None, arg(help="the competition's files; data/<competition> by default.")]
RunsFolder = Annotated[Path, arg(help="where trained variants and blends are.")]
BlendName = Annotated[str, arg(help="of the blend (ensemble.fit).")]
Folds = Annotated[str, arg(help="0, or 0,2, or 0..4, or all.")]

# numbers: what no machine or data has is a slip of the hand, and `command_line.program` refuses it
Seed = Annotated[int, Range(0, SEEDS - 1)]
Positive = Annotated[int, Range(1, 10**9)]
NonNegative = Annotated[int, Range(0, 10**9)]
Fraction = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 1000)]
# 0 takes the recipe's, or chooses
Batch = Annotated[int, Range(0, 65536)]
Epochs = Annotated[int, Range(0, 100_000)]
LearningRate = Annotated[float, Range(0, 100)]
# 0 takes as many as there are
FoldCount = Annotated[int, Range(0, 1000)]
# (height, width), or (row, column)
SizePx = Annotated[tuple[int, int], Range(0, 65536)]
# below 0 it is chosen
LeastScore = Annotated[float, Range(-1, 1)]
ErrorRatio = Annotated[float, Range(1, 10**6)]
Seconds = Annotated[float, Range(0.01, 86400)]
# 0 is any free one
Port = Annotated[int, Range(0, 65535)]
DeviceCounts = Annotated[tuple[int, ...], Range(1, 4096)]
ImageCounts = Annotated[tuple[int, int], Range(1, 10**9)]
# of data loaders; -1 chooses
Workers = Annotated[int, Range(-1, 4096)]
# joblib counts from the cores down where they are below 0: -1 is all of them, -2 all but one
Processes = Annotated[int, Range(-4096, 4096, but=0)]
ProcessesOrChosen = Annotated[int, Range(-4096, 4096)]
Jobs = Annotated[Processes, arg(help="processes, as joblib counts them.")]


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
