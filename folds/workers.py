"""Where tasks run: in processes of this machine (joblib's loky), or on a dask cluster.

What a task has done lies on disk, whole or not at all, so a task whose process was killed is simply done again.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

import provenance
from command_line import UserError
from cores import core_count

if TYPE_CHECKING:
    from models.precision import Precision

Task = TypeVar("Task")
Result = TypeVar("Result")

# what a worker offers, and a task takes, where there are GPUs
GPU = "GPU"
# for the scheduler's answer, and for the first worker
_CONNECT_S = 20
# what this process, and what is forked from it, has imported: files may change later
_CODE = provenance.code_digest()
# rounds in a row in which a process died and no task was completed
_DEATHS = 3
_START = "start workers with `make worker SCHEDULER={0}`, in this folder or a copy of it"


def process_count(jobs: int) -> int:
    """Processes that `--jobs` asks for, as joblib counts them: -1 is one a core.

    Raises:
        UserError: 0, which joblib has no meaning for.
    """
    if jobs == 0:
        raise UserError("--jobs 0 means nothing: give a number of processes, or -1 for one a core.")
    return jobs if jobs > 0 else max(1, core_count() + 1 + jobs)


def check_address(cluster: str) -> None:
    """Raise UserError unless it is a dask scheduler's address.

    >>> check_address("tcp://10.0.0.7:8786")
    """
    match = re.fullmatch(r"(?:(?:tcp|tls)://)?(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", cluster)
    if match is None or not 0 < int(match[1]) < 1 << 16:
        raise UserError(f"{cluster!r} is no address of a dask scheduler: give one as tcp://host:8786.")


@contextmanager
def connected(cluster: str) -> Iterator[Any]:
    """A `distributed.Client` of the dask scheduler at an address.

    Raises:
        UserError: it is no address, or none answers there.
    """
    check_address(cluster)
    # seconds to import, and only needed here
    from distributed import Client

    try:
        client = Client(cluster, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no dask scheduler answers at {cluster} ({error or type(error).__name__}): start one with `make "
            "scheduler`, and give its address as tcp://host:8786."
        ) from None
    with client:
        yield client


def _native() -> frozenset[Precision]:
    # torch takes seconds to import, and a scheduler needs none
    from models.precision import native

    return native()


def _state(paths: Sequence[str]) -> tuple[list[str], dict[str, str], frozenset[Precision]]:
    """Of the process that calls it: which paths it does not see, what it runs, and what its device computes in."""
    versions = {name: version.partition("+")[0] for name, version in provenance.versions().items()}
    # 3.11.4 and 3.11.9 give the same results, as do builds of a library for CPU and GPU
    versions["python"] = ".".join(versions["python"].split(".")[:2])
    return [path for path in paths if not Path(path).exists()], {"code": _CODE, **versions}, _native()


def _wait_for_workers(client: Any, cluster: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_CONNECT_S)
    except TimeoutError:
        raise UserError(f"the dask scheduler at {cluster} has no worker: {_START.format(cluster)}.") from None


def available_precisions(cluster: str = "") -> frozenset[Precision]:
    """The precisions that this machine's device computes in itself; or that any worker of a cluster does, of which
    `run_all` then refuses those that do not.

    Raises:
        UserError: the scheduler cannot be reached, or has no worker.
    """
    if not cluster:
        return _native()
    with connected(cluster) as client:
        _wait_for_workers(client, cluster)
        answers = client.run(_native, on_error="return")
    # what is wrong with a worker that cannot answer is said when it is to work
    return frozenset[Any]().union(*(each for each in answers.values() if isinstance(each, frozenset)))


def _check_workers(client: Any, cluster: str, shared: Sequence[Path], precisions: Collection[Precision]) -> None:
    _wait_for_workers(client, cluster)
    answers = client.run(_state, [os.fspath(path) for path in shared], on_error="return")
    # one that has just died cannot be asked
    answers = {worker: answer for worker, answer in answers.items() if not isinstance(answer, OSError)}
    for worker, answer in answers.items():
        if isinstance(answer, BaseException):
            raise UserError(
                f"the worker {worker} of {cluster} does not run this code ({answer}): {_START.format(cluster)}."
            )
    ours = _state([])[1]
    for worker, (unseen, theirs, available) in answers.items():
        if unseen:
            raise UserError(
                f"the worker {worker} of {cluster} does not see {unseen[0]}: images and runs must lie in a folder that "
                "all machines share, at the same path."
            )
        other = next((name for name in ours if theirs.get(name) != ours[name]), "")
        if other == "code":
            raise UserError(
                f"the worker {worker} of {cluster} runs other code than is here: bring both to the same state, "
                "and start the worker again (make worker)."
            )
        if other:
            raise UserError(
                f"the worker {worker} of {cluster} has {other} {theirs.get(other)}, and {ours[other]} is here: make "
                "setup installs the same on both; then start the worker again (make worker)."
            )
        if lacking := sorted(set(precisions) - available):
            raise UserError(
                f"the worker {worker} of {cluster} does not compute in {lacking[0]} itself, as other machines here do: "
                "end that worker, or compute in float32 on all (train with --precision float32, predict with --backend "
                "torch-float32)."
            )


def check_room(client: Any, cluster: str, gpus: int, alone: bool) -> dict[str, Any]:
    """What dask must be asked for, for each task: `gpus` and `alone` as `run_all` takes them.

    Raises:
        UserError: no worker has it, or one would share a process that must not be shared.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    offers = {worker: int(facts["resources"].get(GPU, 0)) for worker, facts in workers.items()}
    with_gpus = any(offers.values())
    if with_gpus and max(offers.values()) < gpus:
        raise UserError(
            f"no worker of {cluster} has {gpus} GPUs: start workers that have with `make worker SCHEDULER={cluster} "
            f"ARGS='--gpus {gpus}'`, or train without --devices."
        )
    for worker, facts in workers.items():
        at_once = min(facts["nthreads"], offers[worker] // gpus) if with_gpus else facts["nthreads"]
        if alone and at_once > 1:
            raise UserError(
                f"the worker {worker} of {cluster} would train {at_once} folds in one process, where they change each "
                f"other's random numbers: {_START.format(cluster)}."
            )
    return {"resources": {GPU: gpus}} if with_gpus else {}


def _call(packed: bytes) -> Any:
    call, task = pickle.loads(packed)
    return call(task)


def _results(
    call: Callable[[Task], Result],
    tasks: Sequence[Task],
    cluster: str,
    shared: Sequence[Path],
    gpus: int,
    alone: bool,
    precisions: Collection[Precision],
) -> Iterator[Result]:
    """What `call` returns for each task, on a cluster, in the order in which they end."""
    with connected(cluster) as client:
        # dask's own need
        import cloudpickle
        from distributed import as_completed

        _check_workers(client, cluster, shared, precisions)
        needs = check_room(client, cluster, gpus, alone)
        # packed, as the scheduler would otherwise open them, and import all that is needed for it; and not by joblib,
        # which waits for ever for a task that dask has given up since its workers died
        packed = [cloudpickle.dumps((call, task)) for task in tasks]
        futures = client.map(_call, packed, pure=False, **needs)
        done = 0
        for future, result in as_completed(futures, loop=client.loop, with_results=True):
            if future.cancelled():
                break
            yield result
            done += 1
        if done < len(tasks):
            # when the connection is lost, dask cancels what is not done, or takes it for done
            raise UserError(
                f"the dask scheduler at {cluster} has ended: start it and its workers again (make scheduler, make "
                "worker), and run the same command again to go on from here."
            )


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
    gpus: int = 1,
    alone: bool = False,
    precisions: Collection[Precision] = (),
) -> Iterator[Result]:
    """Call a function on every pending task, in processes; what a killed process was at is done again.

    Args:
        call: done once a task, or more often where processes die; must pickle, and leave its work on disk.
        pending: the tasks whose work is not on disk yet; asked again after a process has died.
        jobs: processes of this machine, as joblib counts them; 1 is this process itself.
        cluster: address of a dask scheduler (`tcp://host:8786`) whose workers do all instead; empty for this machine.
        shared: absolute paths that every worker of the cluster must see.
        gpus: that a task takes, where the cluster's workers offer GPUs (`make worker`); otherwise it takes a thread.
        alone: a task needs a process to itself.
        precisions: that every worker of the cluster must compute in itself.

    Yields:
        What `call` returns, in any order, for the tasks whose process lived.

    Raises:
        UserError: processes keep dying. Or the scheduler cannot be reached, has no worker, or ends; a worker lacks a
            path, a precision or enough GPUs, runs other code or libraries than this process, or would run tasks side by
            side that need a process to themselves. What `call` raises is passed on.
    """
    tasks = pending()
    deaths, fewest = 0, len(tasks)
    while tasks:
        processes = process_count(jobs)
        # the last task, too, is done in a process of its own: it may be the one that has them killed
        count = 1 if processes == 1 else max(2, min(processes, len(tasks)))
        try:
            if cluster:
                yield from _results(call, tasks, cluster, shared, gpus, alone, precisions)
            else:
                pool = joblib.Parallel(n_jobs=count, return_as="generator_unordered", batch_size=1)
                yield from pool(joblib.delayed(call)(task) for task in tasks)
            return
        except _deaths():
            tasks = pending()
            deaths = 0 if len(tasks) < fewest else deaths + 1
            fewest = min(fewest, len(tasks))
            if deaths >= _DEATHS:
                fewer = "start workers with fewer --processes (make worker)" if cluster else "run with fewer --jobs"
                raise UserError(
                    f"processes keep dying, most often for want of memory: {fewer}; what is done is kept."
                ) from None
            print(f"a process was killed; {len(tasks)} tasks remain and are done again")
