"""Where tasks run: in processes of this machine (joblib's loky), or on a dask cluster (joblib's dask backend).

What a task has done lies on disk, whole or not at all, so a task whose process was killed is simply done again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from command_line import UserError
from cores import core_count

Task = TypeVar("Task")
Result = TypeVar("Result")

_CONNECT_S = 20
_GPU = "GPU"
# rounds in a row in which a process died and no task was completed
_DEATHS = 3


def process_count(jobs: int) -> int:
    """Processes that `--jobs` asks for, as joblib counts them: -1 is one a core.

    Raises:
        UserError: 0, which joblib has no meaning for.
    """
    if jobs == 0:
        raise UserError("--jobs 0 means nothing: give a number of processes, or -1 for one a core.")
    return jobs if jobs > 0 else max(1, core_count() + 1 + jobs)


@contextmanager
def parallel(jobs: int = 1, cluster: str = "", shared: Sequence[Path] = ()) -> Iterator[joblib.Parallel]:
    """A joblib.Parallel whose results come as they are ready, in any order.

    Args:
        jobs: processes of this machine, as joblib counts them; with a cluster, all its workers are taken.
        cluster: address of a dask scheduler (`tcp://host:8786`); empty for this machine.
        shared: absolute paths that every worker of the cluster must see.

    Raises:
        UserError: the scheduler cannot be reached, has no worker, or a worker lacks this code or a path.
    """
    if not cluster:
        yield joblib.Parallel(n_jobs=process_count(jobs), return_as="generator_unordered", batch_size=1)
        return
    # seconds to import, and only needed here
    from distributed import Client

    try:
        client = Client(cluster, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no dask scheduler answers at {cluster} ({error}): start one with `dask scheduler`, and workers from the "
            "repository's folder with `python -m distributed.cli.dask_worker ADDRESS`."
        ) from None
    with client:
        _check_workers(client, cluster, shared)
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        # where workers offer GPUs (dask worker --resources GPU=1), a task takes one; otherwise one task a thread
        with_gpus = any(_GPU in worker["resources"] for worker in workers)
        needs: dict[str, Any] = {"resources": {_GPU: 1}} if with_gpus else {}
        with joblib.parallel_config(backend="dask", client=client, **needs):
            yield joblib.Parallel(n_jobs=-1, return_as="generator_unordered", batch_size=1)


def _check_workers(client: Any, cluster: str, shared: Sequence[Path]) -> None:
    try:
        seen = client.run(_unseen, [os.fspath(path) for path in shared])
    except ModuleNotFoundError as error:
        raise UserError(
            f"a worker of {cluster} cannot import {error.name}: start the workers from the repository's folder, in its "
            "environment, with `python -m distributed.cli.dask_worker ADDRESS`."
        ) from None
    if not seen:
        raise UserError(f"the dask scheduler at {cluster} has no worker: start some in the repository's folder.")
    for worker, unseen in seen.items():
        if unseen:
            raise UserError(
                f"the worker {worker} of {cluster} does not see {unseen[0]}: images and runs must lie in a folder that "
                "all machines share, at the same path."
            )


def _unseen(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _deaths() -> tuple[type[BaseException], ...]:
    try:
        from distributed import KilledWorker
    except ImportError:
        return (BrokenProcessPool,)
    return (BrokenProcessPool, KilledWorker)


def run_all(
    call: Callable[[Task], Result],
    pending: Callable[[], Sequence[Task]],
    *,
    jobs: int = 1,
    cluster: str = "",
    shared: Sequence[Path] = (),
) -> Iterator[Result]:
    """Call a function on every pending task, in processes; what a killed process was at is done again.

    Args:
        call: done once a task, or more often where processes die; must pickle, and leave its work on disk.
        pending: the tasks whose work is not on disk yet; asked again after a process has died.
        jobs, cluster, shared: as `parallel` takes them.

    Yields:
        What `call` returns, in any order, for the tasks whose process lived.

    Raises:
        UserError: processes keep dying; or as `parallel`. What `call` raises is passed on.
    """
    tasks = pending()
    deaths, fewest = 0, len(tasks)
    while tasks:
        count = min(process_count(jobs), len(tasks))
        try:
            with parallel(count, cluster, shared) as pool:
                yield from pool(joblib.delayed(call)(task) for task in tasks)
            return
        except _deaths() as error:
            tasks = pending()
            deaths = 0 if len(tasks) < fewest else deaths + 1
            fewest = min(fewest, len(tasks))
            if deaths >= _DEATHS:
                raise UserError(
                    f"processes keep dying ({str(error).splitlines()[0]}), most often for want of memory: run with "
                    "fewer --jobs; what is done is kept."
                ) from None
            print(f"a process was killed; {len(tasks)} tasks remain and are done again")
