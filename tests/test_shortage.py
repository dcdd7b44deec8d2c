"""Memory that runs out, or room on a disk, is recognised whatever library says it, and wherever: in one sentence."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from command_line import UserError, program
from folds.fold import run_fold
from folds.images import read_mask
from folds.module import SegmentationModule
from models.image_file import decode
from predict.memory_backoff import MemoryBackoff
from shortage import detail, is_disk_full, is_out_of_memory
from tests.tiny_folds import QUICK, TINY, maker

ROOT = Path(__file__).parent.parent
ACCELERATOR_ERROR = getattr(torch, "AcceleratorError", RuntimeError)

# what libraries raise, in their own words, where there is a GPU or another machine to say it
OUT_OF_MEMORY: dict[str, Exception] = {
    "CUDA": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.12 GiB is "
        "free."
    ),
    "CUDA, asynchronous": ACCELERATOR_ERROR(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"
    ),
    "HIP": RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 8.10 GB, other allocations: 1.02 GB)"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuBLAS, not begun": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cuDNN, no way": RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    "NCCL": RuntimeError("NCCL Error 1: unhandled cuda error, NCCL version 2.27\nCuda failure 2 'out of memory'"),
    "NCCL, buffers": RuntimeError("ncclInternalError: Failed to CUDA calloc async 4194304 bytes"),
    "torch on a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "C++": RuntimeError("std::bad_alloc"),
    "OpenCV": cv2.error(
        "OpenCV(4.13.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9216000000 bytes in function "
        "'OutOfMemoryError'"
    ),
    "NumPy": MemoryError("Unable to allocate 9.31 GiB for an array with shape (5000, 1280, 1918)"),
    "Python": MemoryError(),
    "a thread": RuntimeError("can't start new thread"),
    "a process": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "OpenCL": RuntimeError("[GPU] clEnqueueNDRangeKernel, error code: -5 CL_OUT_OF_RESOURCES"),
    "shared memory": RuntimeError("unable to write to file </torch_4121_2>: No space left on device (28)"),
    "shared memory, killed": RuntimeError(
        "DataLoader worker (pid 41) is killed by signal: Bus error. It is possible that dataloader's workers are "
        "out of shared memory. Please try to raise your shared memory limit."
    ),
}
DISK_FULL: dict[str, Exception] = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/0"),
    "safetensors": ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "NumPy": OSError("33300 requested and 16256 written"),
}
NEITHER: dict[str, Exception] = {
    "a name": FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.jpg"),
    "a shape": RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    "a kernel": ACCELERATOR_ERROR("CUDA error: device-side assert triggered"),
    "OpenCV": cv2.error("OpenCV(4.13.0) color.cpp:199: error: (-215:Assertion failed) !_src.empty()"),
    "refused": PermissionError(errno.EACCES, "Permission denied", "/dev/shm/a"),
}
ALL = {
    **{f"memory, {name}": error for name, error in OUT_OF_MEMORY.items()},
    **{f"disk, {name}": error for name, error in DISK_FULL.items()},
    **{f"neither, {name}": error for name, error in NEITHER.items()},
}


@pytest.mark.parametrize("name", ALL)
def test_each_error_is_one_of_them_or_neither_and_so_is_what_came_of_it(name: str) -> None:
    kind = name.partition(",")[0]
    later = ValueError("what came of it")
    later.__cause__ = ALL[name]
    for error in (ALL[name], later):
        assert is_out_of_memory(error) == (kind == "memory")
        assert is_disk_full(error) == (kind == "disk")
    assert "\n" not in detail(ALL[name])


# each takes more memory than there is, as the system says to that library
REAL = """
import json, threading
import cv2, numpy as np, torch
from shortage import is_out_of_memory
from tests.no_memory import no_memory
side = 40_000
small = np.zeros((40, 40, 3), np.uint8)
def threads():
    for _ in range(9):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
tries = {
    "NumPy": lambda: np.zeros((side, side)),
    "torch": lambda: torch.zeros(side, side),
    "OpenCV": lambda: cv2.resize(small, (side, side)),
    "Python": lambda: bytearray(side * side),
    "threads": threads,
}
found = {}
for name, call in tries.items():
    try:
        with no_memory():
            call()
    except Exception as error:
        found[name] = is_out_of_memory(error), f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_what_the_system_refuses_a_library_is_recognised() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, cwd=ROOT, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == ["NumPy", "torch", "OpenCV", "Python", "threads"]
    assert all(recognised for recognised, _ in found.values()), found


@pytest.mark.parametrize("name", ALL)
def test_every_program_ends_in_a_sentence_where_something_ran_out(name: str) -> None:
    error = ALL[name]

    @program
    def main() -> None:
        raise error

    kind = name.partition(",")[0]
    if kind == "neither" and not isinstance(error, OSError):
        with pytest.raises(type(error)):
            main()
        return
    with pytest.raises(SystemExit) as caught:
        main()
    words = str(caught.value.code)
    begin = {"memory": "error: memory ran out", "disk": "error: the disk is full"}.get(kind, "error: ")
    assert words.startswith(begin) and "\n" not in words
    assert kind == "neither" or "run the same command again" in words


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_a_fold_says_so(name: str, ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: SegmentationModule, batch: object, index: int) -> None:
        raise OUT_OF_MEMORY[name]

    monkeypatch.setattr(SegmentationModule, "training_step", fail)
    remedy = {"a thread": "--jobs", "shared memory": "--workers", "shared memory, killed": "--workers"}
    with pytest.raises(UserError, match=remedy.get(name, "--batch 1 --accumulate 2")):
        run_fold(maker(ellipses, tmp_path)(TINY, QUICK))


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_prediction_takes_smaller_batches(name: str) -> None:
    def forward(images: np.ndarray) -> np.ndarray:
        if len(images) > 3:
            raise OUT_OF_MEMORY[name]
        return images * 2

    images = np.arange(11.0)
    with pytest.warns(UserWarning, match="going on with 3"):
        np.testing.assert_array_equal(MemoryBackoff(forward, "unet")(images), images * 2)


def image(path: Path) -> None:
    decode(path)


def mask(path: Path) -> None:
    read_mask(path, (3000, 4001))


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("read", [image, mask])
def test_a_picture_that_memory_was_lacking_for_is_not_called_damaged(
    read: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((3000, 4001), 255, np.uint8)).save(path)
    program = "import sys, pathlib\nimport tests.test_shortage as here\nfrom tests.no_memory import no_memory\n"
    call = f"here.{read.__name__}(pathlib.Path(sys.argv[1]))"
    # once before, so that all is imported
    done = subprocess.run(
        [sys.executable, "-c", f"{program}{call}\nwith no_memory():\n    {call}", str(path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert f"UserError: {path} cannot be decoded, as memory ran out" in done.stderr
