"""An encoder of timm's on the image at half its size: what it has learned of any pictures, at a quarter of the cost.

Its first stages are the expensive ones, on a CPU most of all, and know edges and textures, as every picture has them.
They stay as they are, so no gradient goes back through them: a step of EfficientNet-Lite0 takes 0.6 of the time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

# planes of so many sizes are taken: those of the next one have 2.3 million of EfficientNet-Lite0's 3.0 million weights,
# and the network that they would join has small planes of its own
_SIZES = 4
# stages whose weights training does not change, besides the stem
_FIXED = 2


class HalfSizeEncoder(torch.nn.Module):
    """The planes of an encoder of EfficientNet's kind, which sees the image reduced by 2.

    Maps (N, in_channels, h, w) float to planes by how many pixels of the image are one of theirs in a row:
    {4: (N, planes[4], h / 4, w / 4), 8: ...}, up to 32.

    All its batch norms, those of the fixed stages too, are like any others: in training they take the statistics of the
    batch, and move the ones that they predict with. So the shipped networks were trained.

    Args:
        name: timm's, of a network of stem, norm and blocks.
        in_channels: planes of the input.

    Attributes:
        planes: how many there are, by the pixels that are one.
    """

    def __init__(self, name: str, in_channels: int) -> None:
        super().__init__()
        # they take seconds, and who builds no such network does without
        import models.torchvision_compat  # noqa: F401

        import timm

        network: Any = timm.create_model(name, features_only=True, in_chans=in_channels, out_indices=range(_SIZES))
        info = network.feature_info
        self.planes = {2 * step: planes for step, planes in zip(info.reduction(), info.channels(), strict=True)}
        # timm keeps what comes after, and computes it
        last = int(info[_SIZES - 1]["module"].split(".")[1])
        network.blocks = network.blocks[: last + 1]
        for part in (network.conv_stem, network.bn1, *network.blocks[:_FIXED]):
            part.requires_grad_(False)
        self.network: torch.nn.Module = network

    def forward(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """(N, in_channels, h, w) to planes by the pixels that are one of theirs in a row."""
        return dict(zip(self.planes, self.network(F.avg_pool2d(x, 2)), strict=True))
