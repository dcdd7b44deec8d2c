"""Rows of a submission in an order of their own: kept until their shard is complete, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from command_line import UserError
from folder_lock import alone_with
from submit.stream import Row, SubmissionStream, row_text
from submit.writer import explained

# rows held in memory before they are put down
_BUFFER_BYTES = 128 << 20


class _Spool:
    """Finished rows waiting for the rest of their shard: in memory up to a limit, then appended to files."""

    def __init__(self, stream: SubmissionStream) -> None:
        self._stream = stream
        self._shard_of = {name: i // stream.shard_rows for i, name in enumerate(stream.names)}
        self._missing = set(stream.missing())
        self._rows: dict[int, list[tuple[str, bytes]]] = {}
        self._counts: dict[int, int] = {}
        self._bytes = 0
        for leftover in stream.folder.glob("spool-*.csv"):
            leftover.unlink()

    def wants(self, name: str) -> bool:
        if name not in self._shard_of:
            raise UserError(f"{name} is not an image of the submission in {self._stream.folder}.")
        return self._shard_of[name] in self._missing

    def _path(self, shard: int) -> Path:
        return self._stream.folder / f"spool-{shard:05}.csv"

    def add(self, name: str, text: bytes) -> None:
        shard = self._shard_of[name]
        self._rows.setdefault(shard, []).append((name, text))
        self._counts[shard] = self._counts.get(shard, 0) + 1
        self._bytes += len(text)
        if self._counts[shard] == len(self._stream.shard_names(shard)):
            self._finish(shard)
        elif self._bytes > _BUFFER_BYTES:
            self._put_down()

    def _put_down(self) -> None:
        for shard, rows in self._rows.items():
            path = self._path(shard)
            with explained(path), path.open("ab") as file:
                file.writelines(b"%s,%s\n" % (name.encode(), text) for name, text in rows)
        self._rows.clear()
        self._bytes = 0

    def _finish(self, shard: int) -> None:
        rows = self._rows.pop(shard)
        self._bytes -= sum(len(text) for _, text in rows)
        spooled = self._path(shard)
        if spooled.exists():
            for line in spooled.read_bytes().splitlines():
                name, _, text = line.partition(b",")
                rows.append((name.decode(), text))
        self._stream.write_shard(shard, rows)
        spooled.unlink(missing_ok=True)
        self._missing.discard(shard)


def write_all(stream: SubmissionStream, rows: Iterable[Row], *, workers: int = 2) -> None:
    """Write the missing shards from rows in any order, encoding in threads, in bounded memory.

    Rows of shards that are whole already are passed over, so a killed run may simply be fed again.

    Args:
        stream: the submission.
        rows: (name, value), values as `row_text` takes them; arrays are encoded in threads, which the compiled loops
            allow, and must not change after they are given.
        workers: threads.

    Raises:
        UserError: a name that is not in the submission, or that comes twice; another process is at it; the disk is
            full or refuses.
        ValueError: as `row_text`.
    """
    with (
        alone_with(stream.folder, f"the submission in {stream.folder}", name="spool.lock"),
        ThreadPoolExecutor(workers) as pool,
    ):
        spool = _Spool(stream)
        waiting: deque[tuple[str, Future[bytes]]] = deque()
        for name, value in rows:
            if not spool.wants(name):
                continue
            waiting.append((name, pool.submit(row_text, value, size=stream.size, order=stream.order)))
            if len(waiting) > 4 * workers:
                ready, future = waiting.popleft()
                spool.add(ready, future.result())
        for ready, future in waiting:
            spool.add(ready, future.result())
