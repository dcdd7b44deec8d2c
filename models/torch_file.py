"""Files that `torch.save` wrote, read without unpickling anything but tensors and plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read(path: Path, *, mapped: bool = False) -> Any:
    """The content of a file, on the CPU; None where it is nothing that `torch.save` wrote.

    Args:
        path: of the file.
        mapped: tensors stay on the disk until they are used.

    Raises:
        OSError: the file cannot be opened.
        MemoryError: its tensors do not fit the memory.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # torch unpacks and unpickles what it finds, and stumbles over foreign content in ever other ways
        if "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        return None
