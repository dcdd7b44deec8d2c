"""`python -m folds.scheduler`: brings the workers of a dask cluster together; `make scheduler` calls it."""

from __future__ import annotations

import tyro
from distributed.cli import dask_scheduler

from command_line import UserError, program
from program_flags import Port


@program
def main(port: Port = 8786, host: str = "", file: str = "") -> None:
    """Pass work on to workers (make worker) until Ctrl-C.

    Whoever reaches the port can run programs on the workers: only for networks whose every machine is trusted.

    Args:
        port: to be reached at; 0 is any free one.
        host: address of this machine to be reached at; empty listens at all.
        file: where to write the address to, as JSON.
    """
    # no dashboard, as bokeh, which draws it, is not among what is installed; its server is there anyway, at any port
    words = ["--no-dashboard", "--dashboard-address", f"{host or '127.0.0.1'}:0", "--port", str(port)]
    words += [*(["--host", host] if host else []), *(["--scheduler-file", file] if file else [])]
    try:
        dask_scheduler.main(words)
    except RuntimeError as error:
        raise UserError(
            f"no scheduler can listen at {host or 'this machine'}, port {port} ({error.__cause__ or error}): is one "
            "there already? ARGS='--port 8790' takes another port."
        ) from None


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
