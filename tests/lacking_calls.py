"""A file system that lacks calls, as the kernel itself says it; importing this takes no time."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Mapping

# numbers of calls, which the kernel never changes; by machine
_NUMBERS: dict[str, dict[str, tuple[int, ...]]] = {
    "x86_64": {"fallocate": (285,), "fsync": (74,), "flock": (73,), "link": (86, 265)},
    "aarch64": {"fallocate": (47,), "fsync": (82,), "flock": (32,), "link": (37,)},
}
CALLS = ("fallocate", "fsync", "flock", "link")
# what a kernel, an emulation of a call or a network file system says where there is no such call
REFUSALS = ("ENOSYS", "EOPNOTSUPP", "EBADF", "EINVAL")
CAN_LACK = platform.system() == "Linux" and platform.machine() in _NUMBERS

_NO_NEW_PRIVILEGES, _SECCOMP, _BY_FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000


def lack(refusals: Mapping[str, str]) -> None:
    """From now on the kernel refuses calls of this process, and of all that it starts; there is no way back.

    Args:
        refusals: names of errors, by the call of `CALLS` that is refused with it.
    """
    steps = [(_LOAD, 0, 0, 0)]
    for call, name in refusals.items():
        for number in _NUMBERS[platform.machine()][call]:
            steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE | getattr(errno, name))]
    steps.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or prctl(_SECCOMP, _BY_FILTER, ctypes.c_void_p(ctypes.addressof(program))):
        raise OSError(ctypes.get_errno(), "this kernel filters no calls")
