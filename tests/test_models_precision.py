"""Networks predict in the narrow floats that a device computes in itself, and in float32 elsewhere."""

from __future__ import annotations

import pytest
import torch

from models.precision import has_bf16, inference


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
    ],
)
def test_a_cpu_predicts_in_what_it_computes_in(
    capabilities: dict[str, bool], wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    network = torch.nn.Conv2d(3, 1, 3)
    with torch.inference_mode(), inference(torch.device("cpu")):
        assert network(torch.zeros(1, 3, 8, 8)).dtype is wanted
    assert has_bf16("cpu") == (wanted is torch.bfloat16)


@pytest.mark.parametrize(("bf16", "wanted"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_predicts_in_float16(
    bf16: bool, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    context = inference(torch.device("cuda"))
    assert context.fast_dtype is wanted
    assert context._enabled
