"""A network of segmentation-models-pytorch with one encoder and a decoder for each head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class SmpHeads(torch.nn.Module):
    """The encoder of one network of the library, and the decoders of as many as there are heads.

    Maps (N, in_channels, h, w) float to logits (N, sum(heads), h, w).

    Args:
        make: makes the library's network, given its output planes and whether its encoder starts from the variant's
            weights.
        heads: planes of each head, in the order of the output.
    """

    def __init__(self, make: Callable[[int, bool], Any], heads: Sequence[int]) -> None:
        super().__init__()
        made = [make(channels, i == 0) for i, channels in enumerate(heads)]
        self.encoder = made[0].encoder
        self.decoders = torch.nn.ModuleList(network.decoder for network in made)
        self.logits = torch.nn.ModuleList(network.segmentation_head for network in made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, h, w) to logits (N, sum(heads), h, w)."""
        features = self.encoder(x)
        each = [logits(decoder(features)) for decoder, logits in zip(self.decoders, self.logits, strict=True)]
        return torch.cat(each, 1)
