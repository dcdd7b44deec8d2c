"""A head for the image as a whole beside the masks, in the form of one more plane."""

from __future__ import annotations

import torch


class SpreadLabels(torch.nn.Module):
    """A network of masks and labels as one of planes: each label's logit is spread over a plane after the masks'.

    So everything that takes logits by plane, losses, augmentations at test time and stores, takes labels too. A plane
    of one value costs a store next to nothing.

    Maps (N, C, h, w) to logits (N, K + L, h, w).

    Args:
        network: maps (N, C, h, w) to masks (N, K, h, w) and labels (N, L).
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) to logits (N, K + L, h, w)."""
        masks, labels = self.network(x)
        return torch.cat([masks, labels[:, :, None, None].expand(-1, -1, *masks.shape[-2:])], 1)
