"""A compiled training step: the same training, averaged and resumed as ever, and nothing else is compiled."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line import UserError
from folds.fold import run_fold
from folds.module import SegmentationModule
from folds.plan import check_recipe
from tests.test_folds_fold import curve
from tests.tiny_folds import QUICK, TINY, Make, maker

COMPILED = replace(QUICK, compile=True, ema=0.9, epochs=2)


@pytest.fixture
def task(ellipses: Path, tmp_path: Path) -> Make:
    return maker(ellipses, tmp_path)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Captures and differentiates as torch.compile does, without its minutes of C++; the batch of each graph."""
    sizes: list[int] = []
    backend = torch._dynamo.lookup_backend("aot_eager")

    def note(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        # the images among the parameters
        sizes.extend(len(each) for each in inputs if isinstance(each, torch.Tensor) and each.shape[2:] == TINY.size)
        return backend(graph, inputs)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=note))
    return sizes


def test_a_compiled_training_is_the_same_and_goes_on_where_it_stopped(
    task, graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, whole, stopped = (
        task(TINY, recipe, name)
        for name, recipe in (("plain", replace(COMPILED, compile=False)), ("whole", COMPILED), ("stopped", COMPILED))
    )
    run_fold(plain)
    assert graphs == []
    run_fold(whole)
    # the training step alone: not validation, whose last batch is smaller, nor the out-of-fold logits
    assert graphs == [QUICK.batch]
    for column in ("train_loss", "val_loss"):
        assert curve(whole.folder, column) == pytest.approx(curve(plain.folder, column), rel=1e-3)
    step = SegmentationModule.training_step

    def stop_in_the_second_epoch(self: SegmentationModule, batch, index: int):
        if self.current_epoch:
            raise RuntimeError("stopped here")
        return step(self, batch, index)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped here"):
        patch.setattr(SegmentationModule, "training_step", stop_in_the_second_epoch)
        run_fold(stopped)
    run_fold(stopped)
    first, second, eager = (load_file(t.folder / "weights.safetensors") for t in (whole, stopped, plain))
    assert first.keys() == second.keys() == eager.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_recipe(COMPILED)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        check_recipe(COMPILED)
