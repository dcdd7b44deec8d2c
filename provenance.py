"""Where a result came from: the git commit and library versions in every manifest. Standard library only."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_LIBRARIES = (
    "torch",
    "timm",
    "segmentation-models-pytorch",
    "lightning",
    "albumentations",
    "numpy",
    "numba",
    "opencv-python-headless",
    "zarr",
)


@functools.cache
def git_commit() -> str:
    """The checked-out commit, with `+changes` where tracked files differ from it; `unknown` outside a checkout."""

    def git(*words: str) -> str:
        run = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "absent"
    return found
