"""Pushing a job and fetching its results with the real Kaggle client; the script of the job itself is run here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from command_line import UserError
from kaggle_client import cli as kaggle_cli
from kaggle_client.credentials import Credentials
from notebooks import on_kaggle, pack, pull, push
from tests.kaggle_server import CANARY, USER, Fault, KaggleServer, leaks
from tests.synthetic_runs import fitted_blend

KERNEL = f"{USER}/carvana-a-cnn-128-fold-0"
DATASET = f"{KERNEL}-code"
SPLIT = "image,group,fold,area_px\n00000000000a_01.jpg,00000000000a,0,5\n"
# stands in for training: a store with one chunk, and a fold
TRAINER = """
import json, pathlib, sys
runs = pathlib.Path(sys.argv[sys.argv.index("--runs") + 1]) / "carvana"
assert (runs / "folds.csv").exists() and "--variant" in sys.argv
data = pathlib.Path(sys.argv[sys.argv.index("--data") + 1])
assert len(list((data / "train").iterdir())) == 12
for name, text in {
    "a-cnn-128/oof.zarr/zarr.json": "{}", "a-cnn-128/oof.zarr/c.0.0.0.0": "chunk",
    "a-cnn-128/fold0/weights.safetensors": "w",
    "cache/frames.bin": "large", "a-cnn-128/fold0/manifest.json": json.dumps({"fold": 0, "git_commit": "unknown"}),
}.items():
    (runs / name).parent.mkdir(parents=True, exist_ok=True)
    (runs / name).write_text(text)
"""


@dataclass
class Desk:
    """A runs folder, an account and a Kaggle."""

    server: KaggleServer
    runs: Path
    capture: Callable[[], Any]

    def _said(self, program: Callable[..., None], **flags: Any) -> str:
        try:
            program(runs=self.runs, poll_s=0.01, **flags)
        except SystemExit as end:
            assert end.code not in (0, None)
            return str(end.code)
        return ""

    def push(self, **flags: Any) -> str:
        """Run the program; returns what it said as an error, empty if it succeeded."""
        return self._said(push.main, **{"variant": "a-cnn-128", "fold": "0", "wait": False, **flags})

    def pull(self, **flags: Any) -> str:
        """The same, of fetching."""
        return self._said(pull.main, **flags)

    def job(self) -> dict[str, Any]:
        """The job in the script that was pushed."""
        scope: dict[str, Any] = {"__name__": "pushed"}
        exec(compile(self.server.kernels[KERNEL]["text"], "on_kaggle.py", "exec"), scope)
        return dict(scope["JOB"])

    def code(self) -> bytes:
        """The newest version of the attached archive."""
        return self.server.blobs[self.server.datasets[DATASET][-1][0]]

    def results(self) -> None:
        """Put a finished fold into the kernel's output."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("carvana/a-cnn-128/fold0/weights.safetensors", b"w")
            archive.writestr("carvana/a-cnn-128/fold0/manifest.json", b"{}")
        whole = buffer.getvalue()
        self.server.output[on_kaggle.RESULTS_FILE] = whole
        digest = __import__("hashlib").sha256(whole).hexdigest()
        self.server.output[on_kaggle.INVENTORY_FILE] = json.dumps({"sha256": digest}).encode()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    for name in ("KAGGLE_CONFIG_DIR", "KAGGLE_API_TOKEN", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", CANARY)
    monkeypatch.setattr(kaggle_cli, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(kaggle_cli, "ATTEMPTS", 2)
    runs = tmp_path / "runs"
    (runs / "carvana").mkdir(parents=True)
    (runs / "carvana" / "folds.csv").write_text(SPLIT)
    with KaggleServer() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield Desk(server, runs, capfd.readouterr)
        assert leaks(server, runs) == []
        assert CANARY not in "".join(capfd.readouterr())


def test_from_push_to_runs(desk: Desk, tmp_path: Path, ellipses: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Push; run the very script and the very archive that were pushed; fetch what they made."""
    inputs, working, scratch = (tmp_path / name for name in ("input", "working", "scratch"))
    monkeypatch.setattr(push, "FOLDERS", {"input": str(inputs), "working": str(working), "scratch": str(scratch)})
    trainer, small = tmp_path / "train.py", tmp_path / "competition.py"
    trainer.write_text(TRAINER)
    small.write_text((pack.ROOT / "competition.py").read_text().replace("5_088", "12"))
    swapped = {"folds/train.py": trainer, "competition.py": small}
    files = list(pack.code_files())
    monkeypatch.setattr(pack, "code_files", lambda: iter([(n, swapped.get(n, p)) for n, p in files]))
    assert desk.push() == ""

    request = desk.server.kernels[KERNEL]
    assert request["isPrivate"] and request["machineShape"] == "NvidiaTeslaT4" and request["enableGpu"]
    assert request["competitionDataSources"] == ["carvana-image-masking-challenge"]
    assert request["datasetDataSources"] == [DATASET]
    made = json.loads(desk.server.called("CreateDataset")[0].body)
    assert made["isPrivate"] is True
    with zipfile.ZipFile(io.BytesIO(desk.code())) as archive:
        names = set(archive.namelist())
        assert archive.read("runs/carvana/folds.csv").decode() == SPLIT
    assert {"command_line.py", "kernels/__init__.py", "kaggle_client/download.py", "notebooks/on_kaggle.py"} <= names
    assert all(n.endswith(".py") or n.startswith("runs/") for n in names)

    source = inputs / "competitions" / "carvana-image-masking-challenge"
    source.mkdir(parents=True)
    for part in ("train", "train_masks"):
        (ellipses / part).rename(source / part)
    cars = "".join(f"{12 * '0'}"[:11] + f"{letter}\n" for letter in "abcdef")
    (source / "metadata.csv").write_text("id\n" + cars)
    attached = inputs / "datasets" / USER / DATASET.partition("/")[2]
    attached.mkdir(parents=True)
    (attached / on_kaggle.CODE_FILE).write_bytes(desk.code())
    for folder in (working, scratch):
        folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(request["text"])
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=working, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr

    desk.server.output = {path.name: path.read_bytes() for path in working.iterdir()}
    desk.server.statuses = [{"status": s} for s in ("QUEUED", "RUNNING", "COMPLETE")]
    assert desk.pull() == ""
    root = desk.runs / "carvana"
    assert (root / "a-cnn-128" / "oof.zarr" / "c.0.0.0.0").read_text() == "chunk"
    manifest = json.loads((root / "a-cnn-128" / "fold0" / "manifest.json").read_text())
    assert manifest["git_commit"] == desk.job()["git_commit"] != "unknown"
    assert not (root / "cache").exists()
    assert sorted(p.name for p in (root / "kaggle").iterdir()) == ["carvana-a-cnn-128-fold-0.json"]
    assert "no pushed job waits" in desk.pull()


def test_second_push_makes_a_version(desk: Desk) -> None:
    desk.server.datasets[DATASET] = [["token"]]
    assert desk.push() == ""
    assert len(desk.server.datasets[DATASET]) == 2 and desk.server.called("CreateDataset") == []
    desk.server.statuses = [{"status": "RUNNING"}]
    pushes = len(desk.server.called("SaveKernel"))
    assert "still runs on Kaggle" in desk.push()
    assert len(desk.server.called("SaveKernel")) == pushes


@pytest.mark.parametrize(
    ("call", "fault", "sentence"),
    [
        ("GetDatasetStatus", Fault(401), "refused the credentials"),
        ("GetDatasetStatus", Fault(500), "too busy"),
        ("upload", Fault(400), "a file did not go through"),
        ("SaveKernel", Fault(429, "Too many requests"), "too busy"),
        ("SaveKernel", Fault(403), "/rules"),
    ],
)
def test_push_that_fails(desk: Desk, call: str, fault: Fault, sentence: str) -> None:
    desk.server.faults[call] = [fault] * 2
    error = desk.push()
    assert sentence in error and "\n" not in error
    assert desk.server.kernels == {}
    assert not (desk.runs / "carvana" / "kaggle" / "carvana-a-cnn-128-fold-0.json").exists()


@pytest.mark.parametrize(
    ("save", "sentence"),
    [
        ({"error": "Maximum batch GPU session count of 2 reached."}, "Maximum batch GPU session count of 2 reached"),
        ({"invalidDatasetSources": [DATASET]}, "without its dataset"),
        ({"invalidCompetitionSources": ["carvana-image-masking-challenge"]}, "accept the rules"),
    ],
)
def test_push_that_the_client_calls_a_success(desk: Desk, save: dict[str, Any], sentence: str) -> None:
    desk.server.save = save
    assert sentence in desk.push()


def test_taken_dataset_title(desk: Desk) -> None:
    # not seen when it is looked for, there when it is made
    desk.server.datasets[DATASET] = [["token"]]
    desk.server.faults["GetDatasetStatus"] = [Fault(403, "Permission 'datasets.get' was denied")]
    assert "its title is taken" in desk.push()
    assert desk.server.kernels == {}


def test_kernel_that_fails_shows_its_log(desk: Desk) -> None:
    assert desk.push() == ""
    desk.server.statuses = [{"status": "ERROR", "failureMessage": "out of memory"}]
    desk.server.log = json.dumps([{"stream_name": "stderr", "time": 1.0, "data": f"line {i}\n"} for i in range(40)])
    desk.capture()
    error = desk.pull()
    assert "ended on Kaggle with status error (out of memory)" in error and "\n" not in error
    shown = desk.capture().err
    assert "line 39" in shown and "line 3\n" not in shown


def test_output_that_comes_damaged_is_fetched_again(desk: Desk) -> None:
    assert desk.push() == ""
    desk.results()
    whole = desk.server.output[on_kaggle.RESULTS_FILE]
    desk.server.faults["output"] = [Fault(503)]
    assert desk.pull() == ""
    assert (desk.runs / "carvana" / "a-cnn-128" / "fold0" / "weights.safetensors").read_bytes() == b"w"
    desk.server.output[on_kaggle.RESULTS_FILE] = whole[:-3]
    assert "came damaged" in desk.pull(kernel=KERNEL)


def test_kernel_without_results(desk: Desk) -> None:
    assert desk.push() == ""
    assert "it made no results.zip" in desk.pull()
    assert "was pushed from here" in desk.pull(kernel="other")


def test_refused_before_any_call(desk: Desk, tmp_path: Path) -> None:
    assert "say what to run" in desk.push(blend="blend")
    assert "Kaggle does not hold the studio" in desk.push(competition="studio")
    assert "blend.json is missing" in desk.push(variant="", blend="blend")
    assert "unknown variant 'unet-typo'" in desk.push(variant="unet-typo")
    assert "no choice of folds" in desk.push(fold="0-4")
    assert "there is no fold 5" in desk.push(fold="5")
    assert "holds no wheel" in desk.push(wheels=tmp_path / "none")
    assert "holds a Kaggle key" in desk.push(arguments=f"--seed {CANARY}")
    assert desk.server.requests == []


def test_key_in_a_file_does_not_travel(tmp_path: Path) -> None:
    source = tmp_path / "notes.py"
    source.write_text(f"KEY = '{CANARY}'\n")
    credentials = Credentials("here", USER, (CANARY,))
    with pytest.raises(UserError, match="holds a Kaggle key"):
        pack.pack(tmp_path / "code.pyz", iter([("notes.py", source)]), credentials)
    assert not (tmp_path / "code.pyz").exists()


def test_blend_takes_its_members_along(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "carvana"
    for name in (
        "blend/blend.json",
        "blend/pixels.json",
        "blend/pixels.safetensors",
        "a-cnn-128/fold0/manifest.json",
        "a-cnn-128/fold0/weights.safetensors",
        "a-cnn-128/oof.zarr/c.0",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(fitted_blend({"a-cnn-128": "0123"}, [1.0])))
    assert [name for name, _ in pack.blend_files(root, "blend")] == [
        "runs/carvana/blend/blend.json",
        "runs/carvana/blend/pixels.json",
        "runs/carvana/blend/pixels.safetensors",
        "runs/carvana/a-cnn-128/fold0/manifest.json",
        "runs/carvana/a-cnn-128/fold0/weights.safetensors",
    ]
    assert "--name" in push.programs(push.find_competition("carvana"), "", "", "blend", [])[1]


def test_packing_is_repeatable(tmp_path: Path) -> None:
    credentials = Credentials("here", USER, (CANARY,))
    for name in ("one", "two"):
        pack.pack(tmp_path / name, pack.code_files(), credentials)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_requirements_are_importable_here() -> None:
    """So the table of module names is right."""
    import importlib.util

    found = pack.requirements()
    assert found["segmentation_models_pytorch"].startswith("segmentation-models-pytorch==")
    assert [name for name in found if importlib.util.find_spec(name) is None] == []
