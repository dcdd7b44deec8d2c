"""Weights on disk: safetensors beside the variant as JSON. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

import atomic
from command_line import UserError
from models.build import build
from models.variant import VARIANT, VARIANT_FILE, WEIGHTS_FILE, Variant
from models.weight_code import restored
from remedies import made_again_by


def save(folder: Path, network: torch.nn.Module, variant: Variant) -> None:
    """Write a network's weights and its variant into `folder`, each whole or not at all."""
    atomic.write_json(folder / VARIANT_FILE, variant.to_json())
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic.replacing(folder / WEIGHTS_FILE) as temporary:
        safetensors.torch.save_file(state, temporary)


def load_variant(folder: Path) -> Variant:
    """The variant whose weights are in `folder`.

    Raises:
        UserError: the file is missing or not what `save` writes.
    """
    path = folder / VARIANT_FILE
    try:
        return VARIANT.read(path).with_tuples()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {made_again_by(folder)}.") from None


def parse_weights(data: bytes, folder: Path) -> dict[str, torch.Tensor]:
    """A network's state from the bytes of the weights file in `folder`, in whatever bits it is stored.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return restored(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError) as error:
        path = folder / WEIGHTS_FILE
        raise UserError(f"{path} cannot be loaded ({str(error).splitlines()[0]}): {made_again_by(folder)}.") from None


def misfit(state: Mapping[str, torch.Tensor], network: torch.nn.Module) -> str:
    """How tensors differ in name or shape from those of a network, as part of a sentence; empty where none does.

    >>> misfit({"weight": torch.zeros(1, 2), "scale": torch.zeros(1)}, torch.nn.Linear(3, 1, bias=False))
    '2 tensors differ, weight first ((1, 2) there, (1, 3) here)'
    """
    own = network.state_dict()
    unfit = [name for name, tensor in own.items() if name not in state or state[name].shape != tensor.shape]
    unfit += [name for name in state if name not in own]
    if not unfit:
        return ""
    first = unfit[0]
    there, here = (tuple(tensors[first].shape) if first in tensors else "none" for tensors in (state, own))
    differ = "1 tensor differs" if len(unfit) == 1 else f"{len(unfit)} tensors differ"
    return f"{differ}, {first} first ({there} there, {here} here)"


def load(folder: Path) -> tuple[torch.nn.Module, Variant]:
    """The network that `save` wrote, in evaluation mode on the CPU, and its variant.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the variant.
    """
    variant = load_variant(folder)
    network = build(variant, pretrained=False)
    path = folder / WEIGHTS_FILE
    try:
        network.load_state_dict(parse_weights(path.read_bytes(), folder))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {made_again_by(folder)}.") from None
    except RuntimeError as error:
        raise UserError(f"{path} cannot be loaded ({str(error).splitlines()[0]}): {made_again_by(folder)}.") from None
    return network.eval(), variant
