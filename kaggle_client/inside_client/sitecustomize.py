"""Imported by Python itself at the start of Kaggle's client (kaggle_client/cli.py puts this folder on its path).

The client's own words leave out with which status a server refused, and it waits for ever for one that has died. So it
tells on a pipe what happens: `here` at once; `status 0` when it asks for something and `status 503`, or whatever it is,
when that is answered; and an empty line now and then while bytes move.
Standard library only, and nothing here may disturb the client.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import socket
import time
from collections.abc import Callable
from typing import Any

_PIPE = os.environ.pop("KAGGLE_CLIENT_PIPE", "")
_EVERY_S = 0.5
_last = [0.0]


def _tell(line: bytes) -> None:
    # where nobody listens any more, there is nothing to tell
    with contextlib.suppress(OSError):
        os.write(int(_PIPE), line)


def _moved() -> None:
    now = time.monotonic()
    if now - _last[0] > _EVERY_S:
        _last[0] = now
        _tell(b"\n")


def _noted(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which tells when it has moved bytes."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        _moved()
        return result

    return wrapper


def _putrequest(
    connection: Any, *args: Any, putrequest: Callable[..., None] = http.client.HTTPConnection.putrequest, **kwargs: Any
) -> None:
    # what was answered before says nothing of this request
    _tell(b"status 0\n")
    putrequest(connection, *args, **kwargs)


def _begin(response: Any, *, begin: Callable[[Any], None] = http.client.HTTPResponse.begin) -> None:
    begin(response)
    _tell(b"status %d\n" % response.status)


if _PIPE.isdecimal():
    _tell(b"here\n")
    # what requests and urllib3 do all their work with
    http.client.HTTPConnection.send = _noted(http.client.HTTPConnection.send)  # type: ignore[method-assign]
    socket.SocketIO.readinto = _noted(socket.SocketIO.readinto)  # type: ignore[method-assign]
    http.client.HTTPConnection.putrequest = _putrequest  # type: ignore[assignment,method-assign]
    http.client.HTTPResponse.begin = _begin  # type: ignore[assignment,method-assign]
