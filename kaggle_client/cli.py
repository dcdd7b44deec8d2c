"""Kaggle's own command-line client, run as a subprocess, with its answers read for what they mean.

The client exits 0 on several failures, so its exit status alone says nothing; and importing it prints and exits
where there are no credentials, so it is never imported.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from command_line import UserError, plain
from competition import Competition
from kaggle_client.credentials import Credentials
from kaggle_client.fault import KaggleError, fault

T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
# without a byte to or from Kaggle, after which the other end is taken for dead
SILENCE_S = 50.0
_LAST_WORDS_S = 1.0
# what the client imports at its start
_INSIDE = Path(__file__).parent / "inside_client"


def find_slug(competition: Competition) -> str:
    """Kaggle's name for the competition.

    Raises:
        UserError: Kaggle does not hold it.
    """
    if competition.slug is None:
        raise UserError(f"Kaggle does not hold the {competition.name} competition: choose one that it holds (C=...).")
    return competition.slug


def executable() -> Path:
    """The client: beside the running Python, else on PATH.

    Raises:
        UserError: it is not installed.
    """
    beside = Path(sys.executable).parent / "kaggle"
    found = str(beside) if beside.exists() else shutil.which("kaggle")
    if found is None:
        raise UserError("Kaggle's client is not installed: pip install kaggle six (make setup does it).")
    return Path(found)


class _Reader(threading.Thread):
    """Collects one stream of the client; shows its progress on our own error stream where a person watches."""

    def __init__(self, stream: IO[bytes], credentials: Credentials, *, show: bool, full: threading.Event) -> None:
        super().__init__(daemon=True)
        self._stream, self._credentials, self._show, self._full = stream, credentials, show, full
        self._parts: list[bytes] = []
        self.moved = time.monotonic()
        self.start()

    def run(self) -> None:
        pending = b""
        while chunk := self._stream.read1(4096):  # type: ignore[attr-defined]
            *whole, pending = re.split(rb"(?<=[\r\n])", pending + chunk)
            for part in whole:
                self._take(part)
        self._take(pending)

    def _take(self, part: bytes) -> None:
        # a bar's intermediate states are worth showing but not keeping
        if not part.endswith(b"\r"):
            self._parts.append(part)
        if b"No space left on device" in part:
            self._full.set()
        self.moved = time.monotonic()
        if self._show and sys.stderr.isatty():
            sys.stderr.write(self._credentials.redact(plain(part.decode(errors="replace"))))
            sys.stderr.flush()

    def text(self) -> str:
        self.join()
        # without controls first: they could part a secret, and come from the other end
        return self._credentials.redact(plain(b"".join(self._parts).decode(errors="replace")))


class _Watch(threading.Thread):
    """Listens to what `inside_client` tells: when bytes moved last, and with which status a server answered last."""

    def __init__(self, end: int) -> None:
        super().__init__(daemon=True)
        self._end = end
        self.moved = time.monotonic()
        self.status = 0
        # importing all that the client needs may take long, and says nothing of the other end
        self.asking = True
        self.start()

    def run(self) -> None:
        with os.fdopen(self._end, "rb") as told:
            for line in told:
                self.moved = time.monotonic()
                self.asking = line != b"here\n"
                if line.startswith(b"status "):
                    self.status = int(line.split()[1])


def refuse_secrets(words: Sequence[str], credentials: Credentials, *, doing: str) -> None:
    """Raise UserError if a word that others would see, or a record would keep, holds a secret."""
    if any(credentials.are_in(word.encode()) for word in words):
        raise UserError(f"{doing} failed: a message or a path holds a Kaggle key; others could read it; take it out.")


def run(
    words: Sequence[str], credentials: Credentials, *, doing: str, slug: str | None = None, progress: bool = False
) -> str:
    """Run the client once.

    Args:
        words: its arguments, without the program's name. None may hold a secret: others can see them.
        credentials: whose secrets are kept out of everything that is returned or shown.
        doing: the action, as the subject of the sentence that reports its failure.
        slug: the competition, where there is one.
        progress: show the client's progress bar.

    Returns:
        What it printed on its output stream, without secrets.

    Raises:
        KaggleError: it failed, whether or not its exit status says so.
        KeyboardInterrupt: Ctrl-C; the client has been stopped too.
    """
    refuse_secrets(words, credentials, doing=doing)
    # unbuffered, so that a full disk is seen when it happens: the client itself tries again for a minute
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for name in ("VERBOSE", "VERBOSE_OUTPUT"):  # it would print its requests, credentials and all
        environment.pop(name, None)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_INSIDE), environment.get("PYTHONPATH"))))
    listening, telling = os.pipe()
    environment["KAGGLE_CLIENT_PIPE"] = str(telling)
    for name, value in credentials.environment.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    watch = _Watch(listening)
    try:
        process = subprocess.Popen(
            [str(executable()), "-W", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(telling,),
        )
    finally:
        os.close(telling)
    assert process.stdout is not None and process.stderr is not None
    full = threading.Event()
    out = _Reader(process.stdout, credentials, show=False, full=full)
    err = _Reader(process.stderr, credentials, show=progress, full=full)
    silent = False
    try:
        while process.poll() is None and not full.is_set():
            silent = watch.asking and time.monotonic() - max(watch.moved, out.moved, err.moved) > SILENCE_S
            if silent:
                break
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    finally:
        # also on Ctrl-C, which may have reached this process alone
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    printed, errors = out.text(), err.text()
    if silent:
        raise KaggleError(
            f"{doing} failed: Kaggle has neither taken nor sent a byte for {SILENCE_S:.0f} s; look to the network and "
            "run the same command again.",
            "network",
            f"{printed}\n{errors}",
        )
    if process.returncode or full.is_set() or "User cancelled operation" in printed:
        # the pipe ends with the client, and with what it has started
        watch.join(_LAST_WORDS_S)
        raise fault(doing, f"{printed}\n{errors}", credentials, slug, status=watch.status)
    # what it printed as errors counts where a caller finds no success in the answer
    return printed if printed.strip() else errors


def patiently(call: Callable[[], T]) -> T:
    """Call until it succeeds, with growing pauses, at most ATTEMPTS times.

    Raises:
        KaggleError: the last failure, or the first that waiting cannot mend.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except KaggleError as error:
            if not error.passing or attempt == ATTEMPTS:
                raise
            wait(error, attempt)
    raise AssertionError("unreachable")


def wait(error: KaggleError, attempt: int) -> None:
    """Say that a try failed, and pause: twice as long each time, up to a limit, with some chance in it."""
    pause = min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
    print(f"{error}\n  try {attempt + 1} of {ATTEMPTS} in {pause:.0f} s", file=sys.stderr)
    time.sleep(pause)


def json_list(output: str) -> list[dict[str, Any]]:
    """The JSON list in a `--format json` answer, which warnings may precede; empty where there is none."""
    start = re.search(r"^\[", output, re.MULTILINE)
    if start is None:
        return []
    try:
        value, _ = json.JSONDecoder().raw_decode(output[start.start() :])
    except ValueError:
        return []
    return [_plain(entry) for entry in value if isinstance(entry, dict)]


def _plain(value: Any) -> Any:
    """JSON whose texts hold no control characters: they were escaped while it was text."""
    if isinstance(value, dict):
        return {plain(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return plain(value) if isinstance(value, str) else value


def username(credentials: Credentials) -> str:
    """The account's name, asked of Kaggle where only a token is known.

    Raises:
        KaggleError: Kaggle does not accept the token or cannot be reached.
    """
    if credentials.username:
        return credentials.username
    doing = "asking for the account's name"
    output = patiently(lambda: run(["config", "view"], credentials, doing=doing))
    match = re.search(r"^- username: (\S+)$", output, re.MULTILINE)
    if match is None or match[1] == "None":
        raise fault(doing, "401 Client Error", credentials)
    return match[1]
