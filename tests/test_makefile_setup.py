"""The demo renders while the rest of its environment is installed, and neither hides the other's end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent

# in place of Python: notes what it is called with; what it plays is rendering, which waits for pip, and pip
_STAND_IN = """#!{python}
import os, sys, time
from pathlib import Path
here, words = Path({folder!r}), sys.argv[1:]
with (here / "calls").open("a") as file:
    print(" ".join(words), file=file)
fails = os.environ.get("FAILS", "")
if "studio.render" in words:
    (here / "renders").write_text(str(os.getpid()))
    for _ in range(600):
        if (here / "installed").exists() or fails == "rendering":
            break
        time.sleep(0.05)
    if fails == "pip":
        time.sleep(60)
    sys.exit(fails == "rendering")
if "pip" in words and "-r" in words:
    for _ in range(600):
        if (here / "renders").exists():
            break
        time.sleep(0.05)
    (here / "installed").touch()
    sys.exit(fails == "pip")
"""


def _make(folder: Path, fails: str = "") -> tuple[int, list[str]]:
    """The exit status of what the demo begins with, and the calls of Python."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").mkdir()
    stand_in = folder / "python"
    stand_in.write_text(_STAND_IN.format(python=sys.executable, folder=str(folder)))
    stand_in.chmod(0o755)
    # whatever comes after the data is another test's
    words = ["make", "-s", "demo", f"PY={stand_in}", "-o", "folds", "-o", "ensemble", "-o", "report"]
    environment = {**os.environ, "FAILS": fails}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, (folder / "calls").read_text().splitlines()


def _ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # without a parent that asks for its end it may stay listed
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_pictures_are_rendered_while_pip_installs(tmp_path: Path) -> None:
    status, calls = _make(tmp_path)
    assert status == 0
    assert (tmp_path / ".venv/.installed").exists()
    few, first, second, imports, again = calls
    assert "pip install" in few
    assert "-c requirements.txt numpy numba" in few
    # each waits for the other here
    assert {first.split()[1], second.split()[1]} == {"studio.render", "pip"}
    assert imports.startswith("-c import ")
    # it is all there, and says so
    assert again == "-m studio.render --out data/studio"


def test_when_pip_fails_nothing_goes_on_rendering(tmp_path: Path) -> None:
    status, calls = _make(tmp_path, "pip")
    assert status
    assert not (tmp_path / ".venv/.installed").exists()
    assert len(calls) == 3
    process = int((tmp_path / "renders").read_text())
    deadline = time.monotonic() + 20
    while not _ended(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_when_rendering_fails_the_demo_ends(tmp_path: Path) -> None:
    status, calls = _make(tmp_path, "rendering")
    assert status
    assert not (tmp_path / ".venv/.installed").exists()
    # pip was not disturbed: the next run has less to do
    assert "-r requirements.txt" in " ".join(calls)


def _closure(names: set[str]) -> set[str]:
    """Distributions and all that they need here, by normalised name."""
    seen: set[str] = set()
    waiting = {name.lower().replace("_", "-") for name in names}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        needs = [Requirement(text) for text in metadata.requires(name) or ()]
        needed = {need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})}
        waiting |= {each.lower().replace("_", "-") for each in needed} - seen
    return seen


# imports of what is not installed yet fail
_RENDER = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from studio.render import render_competition
render_competition(Path({out!r}), cars=1, test_cars=1, views=1, jobs=1)
"""


def test_what_is_installed_first_is_enough_to_render(tmp_path: Path) -> None:
    (line,) = re.findall(r"^FOR_RENDERING := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    first = set(line.split())
    there = _closure(first)
    absent = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {owner.lower().replace("_", "-") for owner in owners} & there
    }
    assert {"torch", "scipy", "pandas"} <= absent
    code = _RENDER.format(absent=absent, out=str(tmp_path / "data"))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert len(list((tmp_path / "data/train").iterdir())) == 1
    # its versions are those of the whole environment
    pinned = {line.partition("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert first <= pinned


@pytest.mark.parametrize("verb", ["setup", "data"])
def test_other_verbs_install_alone(verb: str) -> None:
    done = subprocess.run(
        ["make", "-n", "-B", "-o", "requirements.txt", verb], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "pip install" in done.stdout
    assert "studio.render" not in done.stdout
