"""Memory that a process which trains on a CPU keeps for its next step.

Each step takes and gives back the same large blocks. By default glibc maps and unmaps every one of them, so the kernel
clears their pages again in every step; at full size that takes longer than the optimiser does
(`benchmarks.host_memory`).
"""

from __future__ import annotations

import ctypes
import platform

# mallopt(3): parameters, and what they are set to
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _AT_ONCE, _NONE = -1, 256 << 20, 0


def keep_freed() -> bool:
    """Have the C library keep what is freed for what is asked for next, until the process ends.

    The most that is taken at once grows by a few percent, and stays taken. No result changes.

    Returns:
        Whether it will: only glibc's allocator does.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, _NONE), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _AT_ONCE))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
