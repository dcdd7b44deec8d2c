"""`python -m benchmarks.stream [--masks FOLDER]`: 100,064 rows to a submission, from masks in memory.

Each measurement runs in a process of its own, whose peak memory the operating system (Linux) reports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.mask_pool import load_masks
from command_line import UserError, program
from competition import COMPETITIONS
from ensemble.blend_file import SHARDS_DIR, SUBMISSION_FILE
from program_flags import Positive
from submit import spool, writer
from submit import stream as stream_module
from submit.check import check
from submit.stream import SubmissionStream


def _peak_kb() -> int:
    """Peak memory of this process so far. Not ru_maxrss: Linux lets a child begin with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise UserError("this system's /proc/self/status does not tell the peak memory: run the benchmark on Linux.")


class Clock:
    """Seconds spent in named steps, over all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted to the step."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - begin
                with self._lock:
                    self.seconds[step] = self.seconds.get(step, 0) + took

        return wrapper


def measure(pool: Path, rows: int, workers: int, packed: bool) -> None:
    """Write one submission and print what it took: run in a process of its own."""
    masks = np.load(pool)
    carvana = COMPETITIONS["carvana"]
    names = [f"{k // 16:012x}_{k % 16 + 1:02}.jpg" for k in range(rows)]
    clock = Clock()
    # the steps are told apart where the stream calls them
    spool.row_text = clock.timed("encode", spool.row_text)  # type: ignore[attr-defined]
    stream_module.atomic.os.fsync = clock.timed("disk (fsync)", os.fsync)  # type: ignore[attr-defined,assignment]
    SubmissionStream.write_shard = clock.timed("shards", SubmissionStream.write_shard)  # type: ignore[method-assign]
    writer.igzip.IGzipFile.write = clock.timed("gzip", writer.igzip.IGzipFile.write)  # type: ignore[attr-defined]
    writer.sha256 = clock.timed("SHA-256", writer.sha256)
    size = masks[0].shape
    # compiled, and the pool's pages read, before the clock runs
    for mask in masks:
        stream_module.row_text(mask, size=size, order="row")
    before_kb = _peak_kb()
    with tempfile.TemporaryDirectory(dir=pool.parent) as scratch:
        folder = Path(scratch)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        stream = SubmissionStream(folder / SHARDS_DIR, names, header=carvana.header, size=size, fingerprint={})
        given: Iterable[tuple[str, np.ndarray]] = ((name, masks[k % len(masks)]) for k, name in enumerate(names))
        spool.write_all(stream, given, workers=workers)
        shards_s = time.perf_counter() - begin
        path = folder / (SUBMISSION_FILE if packed else SUBMISSION_FILE.removesuffix(".gz"))
        manifest = stream.join(path, {})
        total_s, cpu_s = time.perf_counter() - begin, time.process_time() - begin_cpu
        peak_kb = _peak_kb()
        content_bytes = sum(stream.shard_path(k).stat().st_size for k in range(stream.shard_count))
        # a sample of what was written is right
        few = check(path, competition=carvana, names=names) if rows <= 20_000 else None
        if few is not None and not few.ok:
            raise UserError(f"the stream wrote faults: {few}")
    spent = clock.seconds
    spent["disk (fsync)"] = spent.get("disk (fsync)", 0.0)
    spent["shards"] -= spent["disk (fsync)"]
    print(
        f"  {workers} worker{'s' * (workers > 1)}, {path.suffix[1:]}: {rows / total_s:,.0f} rows/s, {total_s:.1f} s, "
        f"CPU {cpu_s:.1f} s "
        f"(rows to shards {shards_s:.1f}, join {total_s - shards_s:.1f}); {content_bytes / 1e6:.0f} MB of text, "
        f"{manifest['bytes'] / 1e6:.0f} MB file"
    )
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{step} {seconds:.1f} s ({seconds / total_s:.0%})" for step, seconds in ordered)
    print(f"    thread seconds: {shares}")
    print(f"    peak memory {peak_kb / 1024:.0f} MiB, of which {before_kb / 1024:.0f} before the first row", flush=True)


def _cases(rows: int) -> Iterator[tuple[int, int, bool]]:
    yield rows, 1, True
    yield rows, 2, True
    # does memory grow with the rows?
    yield rows // 10, 2, True


@program
def main(
    masks: Path | None = None, rows: Positive = 100_064, count: Positive = 48, scratch: Path | None = None
) -> None:
    """Measure the submission stream.

    Args:
        masks: a folder of *_mask.gif; without it the studio renders two cars.
        rows: of the submission.
        count: masks in the pool, which the rows go round.
        scratch: folder for what is written (about twice 1 GB for 100,064 rows); the system's temporary one by default.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        pool = Path(folder) / "pool.npy"
        np.save(pool, np.stack(load_masks(masks, count)))
        print(f"{rows:,} rows from {count} masks in memory")
        for case in _cases(rows):
            call = f"measure(Path({str(pool)!r}), *{case})"
            code = f"from pathlib import Path; from benchmarks.stream import measure; {call}"
            done = subprocess.run([sys.executable, "-c", code], check=False)
            if done.returncode:
                raise UserError(f"the measurement of {case} failed: see above.")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
