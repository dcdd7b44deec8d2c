"""Folds in parallel on a dask cluster, one on each worker's GPU."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import joblib

from command_line import UserError
from folds.fold import run_fold
from folds.task import FoldTask

_CONNECT_S = 10
_RESOURCE = "GPU"


def train_on_cluster(tasks: Sequence[FoldTask], address: str) -> list[dict[str, Any]]:
    """Train folds on the workers of a dask cluster.

    Where workers offer the resource GPU (`dask worker --resources GPU=1`), each fold takes one, so a worker trains as
    many folds at once as it has GPUs; otherwise one fold a thread. The workers must see the same files under the same
    paths and run from the repository's root.

    Args:
        tasks: with absolute paths.
        address: of the scheduler, as `tcp://host:8786`.

    Returns:
        The manifests, in the order of the tasks.

    Raises:
        UserError: the scheduler does not answer, it has no workers, or a fold failed.
    """
    # takes a second, and only clusters need it
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"no dask scheduler answers at {address} ({type(error).__name__}): start one with `dask scheduler`, and "
            "give its address as --cluster tcp://host:8786."
        ) from error
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if not workers:
            raise UserError(
                f"the dask scheduler at {address} has no workers: start some with "
                f"`dask worker {address} --resources {_RESOURCE}=1 --nthreads 1`."
            )
        needs: dict[str, Any] = {}
        if any(_RESOURCE in worker["resources"] for worker in workers):
            needs = {"resources": {_RESOURCE: 1}}
        # only some machines may answer here, so no bar: each fold's lines stand in its worker's log
        calls = [joblib.delayed(run_fold)(replace(task, bar=False)) for task in tasks]
        with joblib.parallel_config(backend="dask", client=client, **needs):
            manifests: list[dict[str, Any]] = joblib.Parallel(n_jobs=-1, batch_size=1, pre_dispatch="all")(calls)
    return manifests
