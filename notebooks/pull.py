"""`python -m notebooks.pull`: fetch what pushed jobs made on Kaggle into the runs folder; `make notebook-pull`."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import tyro

import atomic
from command_line import UserError, program
from competition import find_competition
from folder_lock import fill
from folds.run_layout import JOBS_DIR
from kaggle_client.credentials import find_credentials
from notebooks.merge import merge
from notebooks.record import Pushed, read_all
from notebooks.remote import Remote
from program_flags import CompetitionName, Seconds


def pull(job: Pushed, remote: Remote, runs: Path, competition: str) -> None:
    """Wait for a job, fetch its results and merge them.

    Raises:
        UserError: it failed on Kaggle, its results cannot be fetched, or they do not fit what is here.
    """
    remote.wait(job.kernel)
    root = runs / competition
    atomic.make_folder(root / JOBS_DIR)
    folder = atomic.temporary_beside(root / JOBS_DIR / job.kernel.rpartition("/")[2])
    try:
        finished = merge(remote.fetch(job.kernel, folder), runs, competition)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    dataclasses.replace(job, fetched=True).write(root)
    for path in finished:
        print(f"{path} is fetched")


@program
def main(
    competition: CompetitionName = "carvana", runs: Path = Path("runs"), kernel: str = "", poll_s: Seconds = 30.0
) -> None:
    """Fetch the results of pushed jobs.

    Args:
        runs: the folder they go to.
        kernel: its name, or owner/name; by default every pushed job that was not fetched yet.
        poll_s: time between two looks at a job that still runs.
    """
    facts = find_competition(competition)
    credentials = find_credentials()
    jobs = read_all(runs / facts.name)
    if kernel:
        wanted = [job for job in jobs if kernel in (job.kernel, job.kernel.rpartition("/")[2])]
        if not wanted and "/" in kernel:
            # pushed from another machine
            wanted = [Pushed(kernel, when="", git_commit="unknown", code_sha256="")]
        if not wanted:
            known = ", ".join(job.kernel for job in jobs) or "none"
            raise UserError(f"no kernel {kernel} was pushed from here (known: {known}): name it as owner/name.")
    else:
        wanted = [job for job in jobs if not job.fetched]
        if not wanted:
            raise UserError("no pushed job waits to be fetched: push one first (make notebook-push V=... F=...).")
    fill(runs / facts.name / JOBS_DIR)
    for job in wanted:
        pull(job, Remote(credentials, poll_s), runs, facts.name)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
