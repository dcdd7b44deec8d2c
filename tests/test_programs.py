"""Laws of all programs, run as a shell runs them: help, paths that are not there, and whose folders are used."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro

from tests.test_documents import parameters
from tests.test_documents import programs as every_program

ROOT = Path(__file__).parent.parent
PROGRAMS = every_program()
# what they are given beside data and runs, so that they get as far as these
NEEDED = {
    "benchmarks.few_labels": ["--out", "PATH"],
    "ensemble.photographs": ["--images", "PATH", "--out", "PATH"],
    "ensemble.tta_gain": ["--measure", "average-mask"],
    "folds.augment": ["--show", "strong"],
    "folds.export_composites": ["--out", "PATH"],
    "folds.label_depth": ["--function", "json:loads"],
    "folds.train": ["--variant", "average-mask"],
    "predict.import_member": ["--name", "other", "--oof", "PATH"],
    "report.activations": ["--images", "PATH"],
    "submit.check": ["PATH"],
}
# they ask for credentials first, or make the folder
WITH_KAGGLE = {"kaggle_client.download", "kaggle_client.upload", "notebooks.pull", "notebooks.push"}
Run = Callable[..., tuple[object, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a program with flags in an empty folder: exit status, or what is printed beside status 1; and its output."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(program: str, *words: str) -> tuple[object, str]:
        status: object = 0
        try:
            module = importlib.import_module(program)
            # a package's program is what its __main__ runs
            main = getattr(module, "main", None) or importlib.import_module(f"{program}.write").main
            tyro.cli(main, prog=program, args=words)
        except SystemExit as end:
            status = end.code or 0
        assert list(here.iterdir()) == []
        return status, capsys.readouterr().out

    return run


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_says_what_it_does_and_names_every_flag(run: Run, program: str) -> None:
    status, printed = run(program, "--help")
    assert status == 0
    # a positional argument has no flag
    flags = {name for name in parameters(program) if name != "file"}
    assert {name for name in flags if f"-{name.replace('_', '-')}" not in printed} == set()


@pytest.mark.parametrize("program", [each for each in PROGRAMS if parameters(each) & {"data", "runs"}])
def test_a_path_that_is_not_there_is_one_sentence_that_names_it(run: Run, tmp_path: Path, program: str) -> None:
    """So the folders that are named are those that are used; nothing is written, neither there nor where they usually
    are."""
    absent = tmp_path / "not there"
    words = [word for name in ("data", "runs") if name in parameters(program) for word in (f"--{name}", str(absent))]
    status, _ = run(program, *words, *(str(absent) if word == "PATH" else word for word in NEEDED.get(program, [])))
    assert isinstance(status, str) and status.startswith("error: ")
    assert status.count(chr(10)) == 0 and status.endswith(".")
    assert str(absent) in status or program in WITH_KAGGLE
    assert not absent.exists()


@pytest.mark.parametrize("program", ["folds.images", "submit.check", "report.explore"])
def test_the_help_that_an_error_names_can_be_had(program: str) -> None:
    """As a shell in the repository's folder runs it, whatever its PATH has."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    refused = call(sys.executable, "-m", program, "--no-such-flag")
    assert refused.returncode == 2
    command = re.findall(r"\S+ -m \S+ --help", refused.stdout + refused.stderr)[-1]
    helped = call(*shlex.split(command))
    assert helped.returncode == 0
    assert f"usage: {command.removesuffix(' --help')}" in helped.stdout
