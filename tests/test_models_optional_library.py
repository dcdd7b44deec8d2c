"""An optional library that is there and broken is as good as none: what can do without it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models import torch_file

ROOT = Path(__file__).parent.parent
# what there may be of a library: the code of its package, and what is said of it
BROKEN = {
    "remnant": ("", "is incomplete (it lacks "),
    "no shared library": ("raise ImportError('libthread.so.7: no such file')", "cannot be imported (ImportError: lib"),
    "another system": ("raise OSError('invalid ELF header')", "cannot be imported (OSError: invalid ELF header)"),
    "half of it": ("from .runtime import Core", "cannot be imported (ModuleNotFoundError: No module named "),
    "another Python": ("def (:", "cannot be imported (SyntaxError: "),
}


def broken(root: Path, library: str, code: str) -> dict[str, str]:
    """The environment of a process that finds a library of such code first."""
    package = root / "site" / library
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    return {**os.environ, "PYTHONPATH": str(package.parent)}


def run(code: str, environment: dict[str, str]) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


RUNTIMES = """
from command_line import UserError
from models.runtimes import choose_runtime
print(choose_runtime("auto", 100_064))
try:
    choose_runtime("openvino", 1)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(("code", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_openvino_is_not_chosen(code: str, words: str, tmp_path: Path) -> None:
    chosen, refused = run(RUNTIMES, broken(tmp_path, "openvino", code)).splitlines()
    assert chosen == "torch"
    assert refused.startswith(f"OpenVINO {words}")
    assert refused.endswith("pip install --force-reinstall -r requirements-cpu.txt, or leave --backend out.")


EXPORTER = """
from ensemble.exported import FORMATS
print(FORMATS["onnx"].load(b"any"))
"""
ONNX = """
from command_line import UserError
from ensemble.exported import require_libraries
try:
    require_libraries(["onnx"])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("code", [code for code, _ in BROKEN.values()], ids=BROKEN)
def test_an_export_is_not_compared_by_a_broken_onnxruntime(code: str, tmp_path: Path) -> None:
    assert run(EXPORTER, broken(tmp_path, "onnxruntime", code)) == "None\n"


def test_a_broken_onnx_is_named_with_what_repairs_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    refused = run(ONNX, broken(tmp_path, "onnx", "raise ImportError('libprotobuf.so.9: no such file')"))
    assert refused.startswith("onnx, which ONNX needs, cannot be imported (ImportError: libprotobuf.so.9")
    assert "pip install --force-reinstall -r requirements-export.txt, or use --format torch" in refused


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"\x80\x04N.", b"no weights at all", b"\x80\x02"])
def test_what_torch_did_not_save_is_no_content(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    assert torch_file.read(tmp_path / "weights.pth") is None
    assert torch_file.read(tmp_path / "weights.pth", mapped=True) is None
