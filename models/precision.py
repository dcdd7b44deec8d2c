"""What a device computes networks in: bfloat16 where its own instructions do, up to 2.5 times as fast as float32.

Both keep float32's exponent, so nothing overflows; bfloat16's 8 bits of mantissa move a logit by about a percent, and
so the edge of a mask by a small part of a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def has_bf16(device: str) -> bool:
    """Whether devices of a type compute in bfloat16 themselves, instead of emulating it, which is slow.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # an older torch, as a Kaggle notebook may have, cannot say
    ask = getattr(torch.cpu, "get_capabilities", None)
    capabilities: Mapping[str, Any] = ask() if ask else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def inference(device: torch.device) -> torch.autocast:
    """The context in which networks predict on `device`: bfloat16 where it has that, float16 on GPUs without it, else
    float32. Logits for validation and for test images come from the same one, so that they are alike."""
    narrow = torch.bfloat16 if device.type == "cpu" or has_bf16(device.type) else torch.float16
    return torch.autocast(device.type, narrow, enabled=device.type != "cpu" or has_bf16("cpu"))
