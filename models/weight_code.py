"""How weights are stored in fewer bits: in float16, or as whole numbers of 8 bits with a scale for each output channel.

Whatever reads weights reads all three (`restored`); 8 bits are for files that must be small, a quarter of float32.
Beside them, scales, vectors (biases, batch norm) and small tensors take 16 bits: a stem and depthwise convolutions have
few weights, and on each of them much depends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

Bits = Literal[32, 16, 8]
# beside the tensor of that name
_SCALE = ".scale"
_LARGEST = 127
# values of a tensor in 8 bits, at least. Of a network with EfficientNet-Lite0, smaller ones in 8 bits change 0.05 % of
# an image's pixels instead of 0.006 %, and are 0.2 % of its bytes
_LEAST = 2049


def _in_sixteen(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float16, which has 11 bits for a value, where no value (of a kernel: no output channel) is too
    large or too small for it; else in bfloat16, which has 8 bits for values of any size."""
    half, sizes = tensor.half(), tensor.float().abs()
    if tensor.ndim > 1:
        sizes = sizes.flatten(1).amax(1).view(-1, *[1] * (tensor.ndim - 1))
    return half if bool(((half.float() - tensor).abs() <= sizes * 2.0**-11).all()) else tensor.bfloat16()


def _in_eight(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 of the tensor's shape (C, ...), and scales (C,) in 16 bits: a layer's output channels, or those of the
    input where it is a transposed convolution."""
    values = tensor.float()
    # codes belong to the scale that is stored, not to the one that was rounded
    scales = _in_sixteen(values.abs().flatten(1).amax(1) / _LARGEST)
    # channels of zeros only, as pruning or a zero-initialised layer leaves them
    divisors = torch.where(scales > 0, scales.float(), 1).view(-1, *[1] * (values.ndim - 1))
    return (values / divisors).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scales


def stored(state: Mapping[str, torch.Tensor], bits: Bits) -> dict[str, torch.Tensor]:
    """A network's state in the bits that it is to be stored with.

    Args:
        state: tensors by name, finite.
        bits: 32 leaves everything as it is; 16 makes floating-point numbers float16; 8 makes tensors of two and more
            dimensions and more than 2,048 values int8, with `NAME.scale` (C,) beside them; scales and all others are
            float16 or bfloat16.

    Returns:
        Contiguous tensors, for `restored`.

    Raises:
        OverflowError: float16 cannot hold a tensor, which the message names.
    """
    out = {}
    for name, tensor in state.items():
        kept = tensor
        if bits == 16 and tensor.is_floating_point():
            kept = tensor.half()
            if not torch.isfinite(kept).all():
                raise OverflowError(name)
        elif bits == 8 and tensor.is_floating_point() and tensor.numel():
            if tensor.ndim > 1 and tensor.numel() >= _LEAST:
                kept, out[name + _SCALE] = _in_eight(tensor)
            else:
                kept = _in_sixteen(tensor)
        out[name] = kept.contiguous()
    return out


def restored(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `stored`: what was stored in 8 bits as float32, everything else as it is.

    Raises:
        ValueError: a scale does not fit its tensor.
    """
    out = dict(state)
    for name in [name for name in state if name.endswith(_SCALE)]:
        of, scales = name.removesuffix(_SCALE), state[name]
        codes = state.get(of)
        if codes is None or codes.dtype != torch.int8:
            # a network may have a parameter of that name itself
            continue
        if codes.ndim < 2 or scales.shape != codes.shape[:1]:
            raise ValueError(f"{name} does not fit {of}")
        out[of] = codes.float() * scales.float().view(-1, *[1] * (codes.ndim - 1))
        del out[name]
    return out
