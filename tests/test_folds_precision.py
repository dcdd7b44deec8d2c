"""A fold is computed in one precision, from its first step to the logits of the test set, wherever it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import UserError
from folds import workers
from folds.complete import complete_fold
from folds.fold import run_fold
from folds.module import SegmentationModule
from folds.recipes import Precision as Asked
from folds.run_layout import MANIFEST_FILE, PRECISION_FILE
from folds.store import LogitStore
from folds.task import FoldTask, read_manifest
from predict.members import Member, find_members
from predict.predictor import predict
from tests.killed_folds import check_same
from tests.tiny_folds import QUICK, TINY, Make, maker

SIZE = (1280, 1918)
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes this machine's CPU one with bfloat16, or without; it emulates what it has not."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def set_to(has: bool) -> None:
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": has})

    return set_to


@pytest.fixture
def task(ellipses: Path, tmp_path: Path) -> Make:
    return maker(ellipses, tmp_path)


@contextmanager
def computed_in() -> Iterator[set[torch.dtype]]:
    """What all convolutions meanwhile give."""
    found: set[torch.dtype] = set()
    forward = torch.nn.Conv2d.forward

    def recording(self: torch.nn.Conv2d, planes: torch.Tensor) -> torch.Tensor:
        result = forward(self, planes)
        found.add(result.dtype)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Conv2d, "forward", recording)
        yield found


def member_of(task: FoldTask) -> Member:
    return find_members(task.folder.parent.parent, [task.folder.parent.name], 1)[0]


def predicted(task: FoldTask, count: int = 12) -> LogitStore:
    training = task.training
    return predict(member_of(task), training.names[:count], training.data / "train", training.competition.size, batch=4)


@pytest.mark.parametrize(
    ("asked", "has", "wanted"),
    [
        ("auto", True, "bf16"),
        ("auto", False, "float32"),
        ("float32", True, "float32"),
        ("bf16", True, "bf16"),
    ],
)
def test_training_validation_out_of_fold_and_test_logits_are_computed_in_one_precision(
    asked: Asked, has: bool, wanted: str, task: Make, with_bf16: Callable[[bool], None]
) -> None:
    with_bf16(has)
    made = task(TINY, replace(QUICK, precision=asked))
    with computed_in() as found:
        manifest = run_fold(made)
    assert found == {DTYPES[wanted]}
    assert manifest["precision"] == wanted
    assert manifest["recipe"]["precision"] == asked
    with computed_in() as found:
        store = predicted(made)
    assert found == {DTYPES[wanted]}
    assert store.attributes["precision"] == [wanted]


def test_what_is_asked_for_by_name_is_emulated(task: Make, with_bf16: Callable[[bool], None]) -> None:
    with_bf16(False)
    made = task(TINY, replace(QUICK, precision="bf16"))
    with computed_in() as found:
        assert run_fold(made)["precision"] == "bf16"
    assert found == {torch.bfloat16}


def stopped(task: FoldTask) -> FoldTask:
    """A fold that was ended in its second epoch."""
    step = SegmentationModule.training_step

    def stop(self: SegmentationModule, batch: Any, index: int) -> object:
        if self.current_epoch == 1:
            raise RuntimeError("stopped here")
        return step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="stopped here"):
        patch.setattr(SegmentationModule, "training_step", stop)
        run_fold(task)
    return task


def test_a_fold_that_was_begun_in_bf16_is_not_ended_in_float32(task: Make, with_bf16: Callable[[bool], None]) -> None:
    with_bf16(True)
    whole, begun = task(TINY, QUICK, "whole"), stopped(task(TINY, QUICK, "begun"))
    run_fold(whole)
    with_bf16(False)
    with pytest.raises(UserError, match=rf"fold 0 was begun in bf16, which no device here .* remove {begun.folder} to"):
        run_fold(begun)
    with_bf16(True)
    run_fold(begun)
    check_same(begun.folder.parent, whole.folder.parent)


def test_the_remedy_trains_it_anew(task: Make, with_bf16: Callable[[bool], None]) -> None:
    with_bf16(True)
    begun = stopped(task(TINY, QUICK))
    with_bf16(False)
    shutil.rmtree(begun.folder)
    assert run_fold(begun)["precision"] == "float32"


def test_a_fold_that_was_begun_in_float32_is_ended_in_it_where_there_is_bf16(
    task: Make, with_bf16: Callable[[bool], None]
) -> None:
    with_bf16(False)
    whole, begun = task(TINY, QUICK, "whole"), stopped(task(TINY, QUICK, "begun"))
    run_fold(whole)
    with_bf16(True)
    with computed_in() as found:
        run_fold(begun)
    assert found == {torch.float32}
    check_same(begun.folder.parent, whole.folder.parent)


def test_a_fold_with_another_recipe_or_no_state_is_not_bound_by_what_was_begun(
    task: Make, with_bf16: Callable[[bool], None]
) -> None:
    with_bf16(True)
    begun = stopped(task(TINY, QUICK))
    with_bf16(False)
    for state in begun.resume_folder.glob("*.ckpt"):
        state.unlink()
    assert (begun.resume_folder / PRECISION_FILE).exists()
    stopped(begun)
    with_bf16(True)
    assert run_fold(replace(begun, recipe=replace(QUICK, learning_rate=0.001)))["precision"] == "bf16"


def test_what_is_damaged_of_a_fold_is_made_again_in_its_precision_or_not_at_all(
    task: Make, with_bf16: Callable[[bool], None]
) -> None:
    with_bf16(True)
    whole, damaged = task(TINY, QUICK, "whole"), task(TINY, QUICK, "damaged")
    for each in (whole, damaged):
        run_fold(each)
    for path in (damaged.folder / "weights.safetensors", damaged.store / "c.9.0.0.0"):
        path.write_bytes(b"")
        with_bf16(False)
        with pytest.raises(UserError, match="was trained in bf16, which no device here computes in itself"):
            complete_fold(damaged)
        assert (damaged.folder / MANIFEST_FILE).exists()
        with_bf16(True)
        complete_fold(damaged)
        assert read_manifest(damaged.folder) is not None
        check_same(damaged.folder.parent, whole.folder.parent)


def test_a_test_set_is_predicted_in_one_precision(
    task: Make, with_bf16: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with_bf16(True)
    made = task(TINY, QUICK)
    run_fold(made)
    store = predicted(made)
    path, whole = store.path, {name: store.read(name).tobytes() for name in store.names}
    assert "trained in" not in capsys.readouterr().out

    # all of it is there: nothing is to be computed
    with_bf16(False)
    predicted(made)
    (path / "c.3.0.0.0").unlink()
    with pytest.raises(UserError, match=rf"{path} was begun in bf16, which no device here computes in itself"):
        predicted(made)
    with_bf16(True)
    assert {name: predicted(made).read(name).tobytes() for name in store.names} == whole

    # the remedy; and what was begun so goes on so
    with_bf16(False)
    shutil.rmtree(path)
    assert predicted(made).attributes["precision"] == ["float32"]
    said = capsys.readouterr().out
    assert (
        "tiny was trained in bf16, which the devices here do not compute in themselves: it predicts in float32" in said
    )
    (path / "c.3.0.0.0").unlink()
    with_bf16(True)
    with computed_in() as found:
        predicted(made)
    assert found == {torch.float32}


class Workers:
    """Stands in for a client of a cluster whose workers compute in what is given of each."""

    def __init__(self, *precisions: set[str]) -> None:
        self.precisions = precisions

    def wait_for_workers(self, count: int, timeout: float) -> None:
        pass

    def run(self, function: Callable[..., Any], *arguments: Any, on_error: str) -> dict[str, Any]:
        unseen, versions, _ = workers._state([])
        return {f"w{k}": (unseen, versions, frozenset(each)) for k, each in enumerate(self.precisions)}


def test_workers_that_would_emulate_are_refused() -> None:
    mixed: Any = Workers({"float32", "bf16"}, {"float32"})
    workers._check_workers(mixed, "tcp://a:1", (), {"float32"})
    with pytest.raises(
        UserError, match=r"the worker w1 of tcp://a:1 does not compute in bf16 itself, .*end that worker"
    ):
        workers._check_workers(mixed, "tcp://a:1", (), {"float32", "bf16"})
    workers._check_workers(Workers({"float32", "bf16"}), "tcp://a:1", (), {"bf16"})  # type: ignore[arg-type]
