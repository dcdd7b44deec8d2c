"""Whether an error says that something ran out, memory or room on a disk, whatever library raised it.

One predicate each, which is all that anything here decides by. Standard library only: the libraries are recognised by
what they say.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

# what the system says when no more bytes fit
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# and how libraries pass it on that do not keep its number: safetensors, NumPy, torch
_DISK_FULL_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Not enough free space",
    "PytorchStreamWriter failed writing",
    "iostream error",
)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
# tensors that processes share lie in memory under names of files, which "no space left" is said of, too
_SHARED_MEMORY = re.compile(r"/torch_\d|/dev/shm|shared memory", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(
    # CUDA, HIP, MPS, cuDNN, NCCL, OpenCL, zlib; Python's, torch's, NumPy's, OpenCV's, ONNX Runtime's and C++'s own
    r"out of (?:shared )?memory|OutOfMemory|(?:can't|cannot|unable to|failed to) allocate"
    r"|(?:not enough|insufficient) memory"
    r"|bad_alloc|bad allocation|ALLOC(?:ATION)?_FAIL|failed to cuda \w*alloc|CL_OUT_OF_(?:RESOURCES|HOST_MEMORY)"
    # cuBLAS and cuDNN make their workspace first, and cuDNN looks for a way that fits
    r"|CUBLAS_STATUS_NOT_INITIALIZED|CUDNN_STATUS_NOT_INITIALIZED|unable to find a valid cuDNN algorithm"
    # a thread needs a stack
    r"|can't start new thread|thread creation failed|insufficient shared memory",
    re.IGNORECASE,
)
_DETAIL_CHARACTERS = 160


def _and_causes(error: BaseException | None) -> Iterator[tuple[BaseException, str]]:
    """An error and those that it came of, each with its words."""
    while error is not None:
        yield error, str(error)
        error = error.__cause__ or error.__context__


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is a full disk or an exhausted quota."""
    for each, words in _and_causes(error):
        if _SHARED_MEMORY.search(words):
            continue
        if isinstance(each, OSError) and (each.errno in _DISK_FULL or _SHORT_WRITE.search(words)):
            return True
        if isinstance(each, Exception) and any(known in words for known in _DISK_FULL_WORDS):
            return True
    return False


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is memory that ran out: a machine's, a GPU's, what processes share, or
    what threads and processes are started with."""
    return _out_of_memory(error) is not None


def detail(error: BaseException) -> str:
    """What an error that is memory that ran out says of it, in one line; empty where it says nothing.

    >>> detail(MemoryError("Unable to allocate 9.31 GiB for an array")), detail(MemoryError())
    ('Unable to allocate 9.31 GiB for an array', '')
    """
    found = (_out_of_memory(error) or "").strip()
    return found.splitlines()[0][:_DETAIL_CHARACTERS].rstrip(" .") if found else ""


def _out_of_memory(error: BaseException | None) -> str | None:
    """The words of the first error that says so."""
    for each, words in _and_causes(error):
        if isinstance(each, MemoryError) or "OutOfMemory" in type(each).__name__:
            return words
        if isinstance(each, OSError) and each.errno is not None:
            # the name of a file may hold any words
            if each.errno == errno.ENOMEM or (each.errno in _DISK_FULL and _SHARED_MEMORY.search(words)):
                return words
        elif isinstance(each, Exception):
            full = any(known in words for known in _DISK_FULL_WORDS) and _SHARED_MEMORY.search(words)
            if full or _OUT_OF_MEMORY.search(words):
                return words
    return None
