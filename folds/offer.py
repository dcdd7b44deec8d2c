"""`python -m folds.offer`: this machine's GPUs, or its cores, for a dask cluster; `make worker` calls it.

A GPU, or a core, has a process of its own, as folds cannot share one; a process that dies is started again.
"""

from __future__ import annotations

import os

import torch
import tyro

from command_line import UserError, program
from cores import core_count, thread_count
from folds.workers import GPU, connected
from program_flags import NonNegative, Positive


def worker_arguments(scheduler: str, processes: int, gpus: int, host: str) -> list[str]:
    """What `dask worker` is called with.

    Args:
        scheduler: its address.
        processes: how many; 0 is one for every `gpus` GPUs, or on a machine without GPUs one for every core.
        gpus: that each process offers.
        host: address of this machine to be reached at; empty listens at all.

    Raises:
        UserError: this machine has not so many GPUs.
    """
    available = torch.cuda.device_count()
    if processes < 0 or gpus < 1:
        raise UserError("--processes must be at least 0, and --gpus at least 1.")
    if available and max(processes, 1) * gpus > available:
        raise UserError(
            f"this machine has {available} GPUs, too few for {max(processes, 1)} processes of {gpus}: ask for fewer."
        )
    count = processes or available // gpus or core_count()
    # a memory limit would be a share of the machine's memory for each thread, far below what a fold needs
    words = ["--nworkers", str(count), "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
    words += ["--dashboard-address", f"{host or '127.0.0.1'}:0"]
    words += ["--resources", f"{GPU}={gpus}"] if available else []
    return [scheduler, *words, *(["--host", host] if host else [])]


def _share_cores(processes: int) -> None:
    """Give each process its share of the cores, by variables that it inherits."""
    share = max(1, core_count() // processes)
    threads = min(share, thread_count())
    os.environ |= {"LOKY_MAX_CPU_COUNT": str(share), "OMP_NUM_THREADS": str(threads)}
    for name in ("OPENCV_FOR_THREADS_NUM", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


@program
def main(scheduler: str, processes: NonNegative = 0, gpus: Positive = 1, host: str = "") -> None:
    """Work for a dask scheduler until it ends, or Ctrl-C.

    Args:
        scheduler: its address, as tcp://host:8786.
        processes: how many; 0 is one a GPU, or on a machine without GPUs one a core.
        gpus: that each process has: as many as a fold's --devices.
        host: address of this machine at which the others reach it; found out by default.
    """
    if not scheduler:
        raise UserError("no scheduler is named: make worker SCHEDULER=tcp://host:8786 (make scheduler starts one).")
    words = worker_arguments(scheduler, processes, gpus, host)
    with connected(scheduler):
        pass
    _share_cores(int(words[2]))
    # seconds to import, so only after all that can be refused
    import dask
    from distributed.cli import dask_worker
    from distributed.utils import get_mp_context

    dask.config.set(
        {
            # folds start processes of their own, which dask's worker processes may not by default
            "distributed.worker.daemon": False,
            # forked from one that has everything imported, they share its memory and are there at once
            "distributed.worker.multiprocessing-method": "forkserver",
        }
    )
    get_mp_context().set_forkserver_preload(["distributed", "folds.fold", "folds.workers"])
    dask_worker.main(words)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
