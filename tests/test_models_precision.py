"""What a device computes in itself, and what networks are trained, and predict, in."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch

from folds.recipes import Precision as Asked
from models.precision import FLOAT32, Precision, autocast, for_prediction, has_bf16, native, resolve

PRECISIONS = get_args(Precision)


@pytest.mark.parametrize(
    ("capabilities", "found"),
    [
        ({"avx512_bf16": True}, {"bf16", "float32"}),
        ({"amx_bf16": True}, {"bf16", "float32"}),
        ({"avx512_f": True}, {"float32"}),
    ],
)
def test_a_cpu_computes_in_what_its_instructions_are_for(
    capabilities: dict[str, bool], found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert native("cpu") == found
    assert has_bf16("cpu") == ("bf16" in found)


def test_an_older_torch_that_cannot_say_has_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.cpu.get_capabilities")
    assert native("cpu") == {FLOAT32}


@pytest.mark.parametrize("bf16", [True, False])
def test_a_gpu_computes_in_float16_and_the_newer_ones_in_bfloat16(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    assert native() == {"fp16", "float32"} | ({"bf16"} if bf16 else set())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_is_computed_in_what_is_named(precision: Precision) -> None:
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}[precision]
    network = torch.nn.Conv2d(3, 1, 3)
    with torch.inference_mode(), autocast(precision, torch.device("cpu")):
        assert network(torch.zeros(1, 3, 7, 9)).dtype is wanted


def test_what_is_asked_for_by_name_is_taken_and_auto_is_never_emulated() -> None:
    available = [{FLOAT32, *some} for n in range(3) for some in itertools.combinations(("bf16", "fp16"), n)]
    for asked, has in itertools.product(get_args(Asked), available):
        found = resolve(asked, has)  # type: ignore[arg-type]
        assert found in has if asked == "auto" else found == asked


def test_a_network_predicts_in_what_it_was_trained_in_wherever_that_is_available() -> None:
    available = [{FLOAT32, *some} for n in range(3) for some in itertools.combinations(("bf16", "fp16"), n)]
    for trained, has in itertools.product(PRECISIONS, available):
        found = for_prediction(trained, has)  # type: ignore[arg-type]
        assert found in has
        assert found == trained or trained not in has
