"""What a mask network's encoder says of an image as a whole: its stages pooled, for classifiers of whole images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from command_line import UserError
from models.network_input import normalise
from models.precision import FLOAT32, Precision, autocast
from models.variant import Variant


def encoder_of(network: torch.nn.Module, name: str) -> torch.nn.Module:
    """The encoder of a network: what gives the features of all stages, (N, C, h, w) each.

    Raises:
        UserError: it has none; the message has its `name`.
    """
    # a network with a head for whole images holds another one
    for holder in (network, getattr(network, "network", None)):
        encoder = getattr(holder, "encoder", None)
        if isinstance(encoder, torch.nn.Module):
            return encoder
    raise UserError(f"{name} has no encoder whose features could be read: choose a variant that has one (V=...).")


@torch.inference_mode()
def pooled_features(
    encoder: torch.nn.Module, variant: Variant, images: np.ndarray, precision: Precision = FLOAT32
) -> np.ndarray:
    """The mean and the standard deviation over the image of every channel of every stage but the input itself.

    Args:
        encoder: of `encoder_of`, in evaluation mode.
        variant: its network's.
        images: (N, h, w, C) uint8 at the network's size.
        precision: what it is computed in.

    Returns:
        (N, D) float32; D is twice the number of channels.
    """
    device = next(encoder.parameters()).device
    with autocast(precision, device):
        stages: Sequence[torch.Tensor] = encoder(normalise(torch.from_numpy(images).to(device), variant))
    pooled = [stage.float().flatten(2) for stage in stages[1:] if stage.shape[1]]
    both = torch.cat([part for own in pooled for part in (own.mean(2), own.std(2, correction=0))], 1)
    features: np.ndarray = both.cpu().numpy()
    return features
