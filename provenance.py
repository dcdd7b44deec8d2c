"""Where a result came from: git commit, library versions, a digest of the code. Standard library only."""

from __future__ import annotations

import functools
import hashlib
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


_ROOT = Path(__file__).parent
# whose files no result depends on
_NO_PART = ("benchmarks", "notebooks", "tests")


def code_digest() -> str:
    """Identifies this repository's own code as it is on disk, committed or not."""
    packages = [path.parent for path in _ROOT.glob("*/__init__.py") if path.parent.name not in _NO_PART]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted([*_ROOT.glob("*.py"), *(path for package in packages for path in package.rglob("*.py"))]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_ROOT).as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()


@functools.cache
def git_commit() -> str:
    """The checked-out commit, with `+changes` where tracked files differ from it; `unknown` outside a checkout."""

    def git(*words: str) -> str:
        run = ["git", "-C", str(_ROOT), *words]
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
