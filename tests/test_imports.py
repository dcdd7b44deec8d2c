"""What programs import before they have done anything: nothing that takes seconds and is not needed for every use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("folds", "predict", "ensemble", "report", "submit", "kaggle_client", "studio", "notebooks")
# torch alone takes one to two seconds; these compute with it, or read what was computed with it
WITH_TORCH = {
    "ensemble.depth", "ensemble.export", "ensemble.fit", "ensemble.photographs", "ensemble.rounds", "ensemble.ship",
    "ensemble.tta_gain", "folds.augment",
    "folds.offer", "folds.train", "report.activations", "report.composites",
    "report.disagreement", "report.group_labels", "report.pseudo",
    "report.suspects", "report.write", "submit.make", "submit.plan",
}  # fmt: skip
# they start a cluster's parts
WITH_DASK = {"folds.offer", "folds.scheduler"}
# imported where a network is built or trained, a blend fitted or a picture drawn, and never before
LATE = ("torchvision", "timm", "segmentation_models_pytorch", "lightning", "sklearn", "openvino", "tensorboard")
DRAWING = ("matplotlib.pyplot",)

IMPORT = """
import importlib, json, sys
found = {}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    found[name] = [each for each in json.loads(sys.argv[2]) if each in sys.modules]
print(json.dumps(found))
"""


def programs() -> list[str]:
    """Every module that is run by its name; those without torch first, then those that draw last."""
    found = {
        f"{path.parent.name}.{path.stem}"
        for package in PACKAGES
        for path in (ROOT / package).glob("*.py")
        if re.search(r"^@program$", path.read_text(), re.MULTILINE)
    }
    assert found >= WITH_TORCH | WITH_DASK and len(found) > 20
    return sorted(found, key=lambda name: (name in WITH_DASK, name.startswith("report"), name in WITH_TORCH, name))


def test_no_program_imports_at_its_start_what_takes_seconds() -> None:
    # one process for all: what is loaded by one stays, so what may load more comes later
    names = programs()
    plain = [name for name in names if name not in WITH_TORCH]
    others = [name for name in names if name in WITH_TORCH]
    watched = json.dumps(["torch", "distributed", *LATE, *DRAWING])
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, json.dumps([*plain, *others]), watched],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    for name, loaded in json.loads(done.stdout.splitlines()[-1]).items():
        assert not set(loaded) & set(LATE), f"{name} imports {loaded}"
        assert "torch" not in loaded or name in WITH_TORCH, f"{name} imports torch"
        drawing = set(loaded) & set(DRAWING)
        assert not drawing or name.startswith("report") or name in WITH_DASK, f"{name} imports {loaded}"


def test_the_cure_of_torchvision_runs_before_whatever_imports_it() -> None:
    importing = re.compile(
        r"^ *(?:import|from) (?:torchvision|timm|segmentation_models_pytorch|lightning)\b", re.MULTILINE
    )
    cure = re.compile(r"^ *import models\.torchvision_compat\b", re.MULTILINE)
    for path in (
        path for package in ("models", *PACKAGES, "benchmarks", "tests") for path in (ROOT / package).rglob("*.py")
    ):
        text = path.read_text()
        first, cured = importing.search(text), cure.search(text)
        if first is not None and path.name != "torchvision_compat.py":
            assert cured is not None and cured.start() < first.start(), f"{path} imports {first[0].split()[1]} uncured"
