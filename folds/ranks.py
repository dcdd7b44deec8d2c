"""One function in several processes of this machine that know of each other, as distributed training needs them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from command_line import UserError


@dataclass(frozen=True)
class Rank:
    """Which process this is.

    Attributes:
        index: 0 .. count - 1.
        count: of processes.
        port: at which rank 0 brings them together.
    """

    index: int
    count: int
    port: int


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def end_with_parent() -> None:
    """From now on, end this process as soon as the one that started it has ended, however it did.

    A rank that outlived a killed fold would go on writing where the fold, started again, writes too; and one that loads
    images would wait for ever for a request.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _serve(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], rank: Rank) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(rank.port),
        "WORLD_SIZE": str(rank.count),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank.index),
    }
    end_with_parent()
    try:
        outcome = function(*arguments, rank)
    except UserError as error:
        outcome = error
    except KeyboardInterrupt:
        return
    pipe.send(outcome)


def run_ranks(function: Callable[..., Any], *arguments: Any, count: int) -> Any:
    """Call `function(*arguments, rank)` in `count` new processes, with the environment that torch and Lightning read.

    Args:
        function, arguments: picklable.
        count: of processes.

    Returns:
        What rank 0 returned.

    Raises:
        UserError: a rank raised one; or a process died, which the message says. The other ranks are ended.
    """
    if multiprocessing.current_process().daemon:
        raise UserError(
            "a process started by dask's nanny may not start others, as several devices a fold need: start the workers "
            "with `make worker`, or train without --devices."
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # spawned rather than forked from here, where threads have run
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    processes, pipes = [], []
    outcomes: dict[int, Any] = {}
    try:
        for index in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(theirs, function, arguments, Rank(index, count, port)))
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        while len(outcomes) < count:
            waiting = [pipe for index, pipe in enumerate(pipes) if index not in outcomes]
            for ready in wait(waiting):
                index = pipes.index(ready)  # type: ignore[arg-type]
                try:
                    outcome = pipes[index].recv()
                except EOFError:
                    processes[index].join()
                    raise UserError(
                        f"training process {index} of {count} ended with exit status {processes[index].exitcode} (what "
                        "it said stands above): run the same command again to go on from the last completed epoch."
                    ) from None
                if isinstance(outcome, UserError):
                    raise outcome
                outcomes[index] = outcome
        return outcomes[0]
    finally:
        for process in processes:
            # after success they are about to end; after a failure they would wait for the rank that failed
            process.join(5 if len(outcomes) == count else 0)
            if process.is_alive():
                process.kill()
                process.join()
