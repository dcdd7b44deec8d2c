"""What networks are computed in: bfloat16 where a device computes in it itself, up to 2.5 times as fast as float32.

Both keep float32's exponent, so nothing overflows; bfloat16's 8 bits of mantissa move a logit by about a percent, and
so the edge of a mask by a small part of a pixel. What a network was trained in, it predicts in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import torch

Precision = Literal["bf16", "fp16", "float32"]
FLOAT32: Precision = "float32"
# torch's names. It is imported where it is needed: what reads and checks records of a training does without
_NARROW: dict[Precision, str] = {"bf16": "bfloat16", "fp16": "float16"}


def has_bf16(device: str) -> bool:
    """Whether devices of a type compute in bfloat16 themselves, instead of emulating it, which is slow.

    Args:
        device: "cpu" or "cuda".
    """
    import torch

    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # an older torch, as a Kaggle notebook may have, cannot say
    ask = getattr(torch.cpu, "get_capabilities", None)
    capabilities: Mapping[str, Any] = ask() if ask else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def native(device: str = "") -> frozenset[Precision]:
    """The precisions that a device of this machine computes in itself; float32 is always among them.

    Args:
        device: "cpu" or "cuda"; by default the GPU if there is one.
    """
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found: set[Precision] = {FLOAT32}
    if chosen == "cuda":
        found.add("fp16")
    if has_bf16(chosen):
        found.add("bf16")
    return frozenset(found)


def resolve(asked: str, available: Collection[Precision]) -> Precision:
    """What a training computes in: the only place where "auto" becomes something.

    Args:
        asked: "auto", or a precision, which is taken as it is: a device without it emulates it.
        available: of `native`.

    >>> resolve("auto", {"float32", "bf16"}), resolve("auto", {"float32", "fp16"}), resolve("float32", {"bf16"})
    ('bf16', 'float32', 'float32')
    """
    if asked == "auto":
        return "bf16" if "bf16" in available else FLOAT32
    return cast(Precision, asked)


def for_prediction(trained: Precision, available: Collection[Precision]) -> Precision:
    """What a trained network predicts in: what it was trained in where that is available; else in what is nearest to
    it and as fast, float16 on GPUs and float32 on CPUs.

    Args:
        trained: what the network was trained in.
        available: of `native`.

    >>> for_prediction("bf16", {"float32", "bf16"}), for_prediction("bf16", {"float32"})
    ('bf16', 'float32')
    >>> for_prediction("bf16", {"float32", "fp16"}), for_prediction("float32", {"float32", "fp16", "bf16"})
    ('fp16', 'float32')
    """
    if trained == FLOAT32 or trained in available:
        return trained
    return "fp16" if "fp16" in available else FLOAT32


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a network is computed in `precision` on `device`."""
    import torch

    narrow = getattr(torch, _NARROW[precision]) if precision in _NARROW else None
    return torch.autocast(device.type, narrow, enabled=narrow is not None)
