"""`python -m benchmarks.render`: images a second of the studio, masks and files included."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import tyro

from command_line import program
from competition import COMPETITIONS
from cores import core_count
from program_flags import Positive
from studio.render import render_competition


@program
def main(cars: Positive = 4, rounds: Positive = 3) -> None:
    """Render whole cars with one process and with all cores, in turns.

    Args:
        cars: training cars a round; one test car is rendered with them.
        rounds: measurements of each; medians are printed.
    """
    views = 16
    images = (cars + 1) * views
    cores = core_count()
    rates: dict[int, list[float]] = {jobs: [] for jobs in sorted({1, cores})}
    with tempfile.TemporaryDirectory() as scratch:
        # compiled loops are loaded, and worker processes started, before anything is timed
        render_competition(Path(scratch) / "warm", cars=1, test_cars=cores, views=1, jobs=cores)
        render_competition(Path(scratch) / "warm1", cars=1, test_cars=1, views=1, jobs=1)
        for turn in range(rounds):
            for jobs, seen in rates.items():
                out = Path(scratch) / f"{turn}-{jobs}"
                start = time.perf_counter()
                render_competition(out, cars=cars, test_cars=1, seed=turn, jobs=jobs)
                seen.append(images / (time.perf_counter() - start))
    height, width = COMPETITIONS["studio"].size
    print(f"{images} images of {width}x{height} with masks, {cores} cores, median of {rounds}")
    for jobs, seen in rates.items():
        print(f"  {jobs} process{'es' if jobs > 1 else '  '}  {statistics.median(seen):6.2f} images/s")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
