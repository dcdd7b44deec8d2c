"""From a variant to a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from command_line import UserError
from competition import Size
from models.frame import frame_of
from models.networks.average_mask import AverageMask
from models.networks.dilated_unet import DilatedUNet
from models.networks.folded_unet import FoldedUNet
from models.networks.half_size_encoder import HalfSizeEncoder
from models.networks.residual_unet import ResidualUNet
from models.networks.simple_cnn import SimpleCNN
from models.networks.smp_heads import SmpHeads
from models.networks.spread_labels import SpreadLabels
from models.networks.unet import UNet
from models.networks.windowed_unet import WindowedUNet
from models.pretrained import timm_weights, with_weights
from models.variant import ENLARGED, IMPORTED, PRESENCE_HEAD, TIMM, Variant


@dataclass(frozen=True)
class Network:
    """One of our own networks.

    Attributes:
        make: takes the variant and returns a module (N, C, h, w) -> logits (N, K, h, w).
        divisor: takes the variant and returns what height and width must be divisible by.
        within: what the names of the weights of a network within it begin with; it can start from those of a run of
            that network alone. Empty where there is none.
    """

    make: Callable[[Variant], torch.nn.Module]
    divisor: Callable[[Variant], int]
    within: str = ""


def _encoder(variant: Variant) -> str:
    """timm's name of its encoder, as the constructors of our own networks take it."""
    return variant.encoder.removeprefix(TIMM)


def _folded(variant: Variant) -> torch.nn.Module:
    labels = int(_says_presence(variant))
    planes = variant.out_channels - labels
    network = FoldedUNet(variant.in_channels, planes, labels=labels, encoder=_encoder(variant), **variant.options)
    return SpreadLabels(network) if labels else network


NETWORKS = {
    "average-mask": Network(lambda v: AverageMask(v.size), lambda v: 1),
    "simple-cnn": Network(lambda v: SimpleCNN(v.in_channels, v.out_channels), lambda v: 1),
    "unet": Network(
        lambda v: UNet(v.in_channels, v.out_channels, **v.options), lambda v: UNet.divisor(v.options["widths"])
    ),
    "folded-unet": Network(_folded, lambda v: FoldedUNet.divisor(**v.options)),
    "windowed-unet": Network(
        lambda v: WindowedUNet(v.in_channels, v.out_channels, encoder=_encoder(v), **v.options),
        lambda v: FoldedUNet.divisor(v.options["widths"], v.options["fold"]),
        within="network.",
    ),
    "dilated-unet": Network(
        lambda v: DilatedUNet(v.in_channels, v.out_channels, **v.options),
        lambda v: DilatedUNet.divisor(*(v.options[key] for key in ("widths",) if key in v.options)),
    ),
    "residual-unet": Network(
        lambda v: ResidualUNet(v.in_channels, [head.channels for head in v.heads], **v.options),
        lambda v: ResidualUNet.divisor(v.options["widths"]),
    ),
}
# networks of segmentation-models-pytorch: one decoder for all heads, or one for each
SMP = ("smp", "smp-heads")


# our own networks that can have a head of whole images; they take it from the variant themselves
_OF_IMAGES = ("folded-unet",)
# before the only layer that is of whole images and not of pixels: it has as many samples as there are images
_LABEL_DROPOUT = 0.3


def _find_network(variant: Variant) -> Network:
    if variant.network == IMPORTED:
        raise UserError(
            f"{variant.name} was imported: its network is not here, only its predictions; leave it out (V=...)."
        )
    if variant.network not in NETWORKS:
        raise UserError(f"unknown network {variant.network!r}; known: {', '.join((*SMP, *NETWORKS))}.")
    return NETWORKS[variant.network]


def divisor(variant: Variant) -> int:
    """What the height and the width of the variant's input must be divisible by.

    Raises:
        UserError: the network is unknown.
    """
    if variant.network in SMP:
        return int(2 ** variant.options.get("encoder_depth", 5))
    return _find_network(variant).divisor(variant)


def completed(variant: Variant, network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights to start a variant's network from: `state`, or where that is of a network within it, its own around it.

    Args:
        variant, network: which one, and it itself.
        state: tensors by name; not modified.
    """
    own = NETWORKS.get(variant.network)
    if own is None or not own.within or any(name.startswith(own.within) for name in state):
        return dict(state)
    around = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(own.within)}
    return around | {own.within + name: tensor for name, tensor in state.items()}


def check_size(variant: Variant, full: Size | None = None) -> None:
    """Refuse a size that the network cannot take, before anything is read.

    Args:
        variant: whose size.
        full: (height, width) of the frames that it shall see; None where that is not known yet.

    Raises:
        UserError: not divisible as the network needs, or padding to a size below `full`; the message computes one
            that works.
    """
    step = divisor(variant)
    padded_from = frame_of(variant).enlarged(full) if full is not None and variant.fit in ENLARGED else (1, 1)
    height, width = (-(-max(s, f) // step) * step for s, f in zip(variant.size, padded_from, strict=True))
    if (height, width) == variant.size:
        return
    shown = f"{variant.size[0]}x{variant.size[1]}"
    if any(s % step for s in variant.size) or min(variant.size) < 1:
        fault = f"takes heights and widths divisible by {step}, and {shown} is not"
    else:
        fault = f"pads frames to {shown}, and these are {padded_from[0]}x{padded_from[1]} (height x width)"
    raise UserError(f"{variant.name} {fault}: give it the size {height}x{width} in models/variants.py.")


def at_size_of(variant: Variant, full: Size) -> Variant:
    """The variant for frames of another size: one with fit "pad" has the frame's own, rounded up as its network needs.

    Args:
        variant: any; one that does not pad so has a size of its own, and is returned as it is.
        full: (height, width) of the frames.
    """
    if variant.fit != "pad":
        return variant
    step = divisor(variant)
    height, width = (-(-side // step) * step for side in full)
    return variant if variant.size == (height, width) else replace(variant, size=(height, width))


def build(variant: Variant, *, pretrained: bool = True) -> torch.nn.Module:
    """Build a variant's network.

    Args:
        variant: what to build.
        pretrained: start the encoder from `variant.weights`; False leaves it at random, as when a checkpoint is
            loaded next.

    Returns:
        Module that maps (N, in_channels, h, w) float to logits (N, out_channels, h, w).

    Raises:
        UserError: the network is unknown, its size does not suit it, or the encoder's weights cannot be had.
    """
    check_size(variant)
    says_presence = _says_presence(variant)
    weights = None if variant.weights == "none" or not pretrained else variant.weights
    if variant.network not in SMP:
        own = _find_network(variant).make(variant)
        if weights:
            _start_encoders(own, timm_weights(variant))
        return own
    # it takes seconds, and who builds no such network does without
    import models.torchvision_compat  # noqa: F401

    import segmentation_models_pytorch as smp

    def make_smp(planes: int, first: bool = True) -> torch.nn.Module:
        with warnings.catch_warnings():
            # that timm's encoders take True for "imagenet"
            warnings.filterwarnings("ignore", message="For 'tu-'")
            return smp.create_model(
                variant.architecture,
                encoder_name=variant.encoder,
                encoder_weights=weights if first else None,
                in_channels=variant.in_channels,
                classes=planes,
                aux_params={"classes": 1, "dropout": _LABEL_DROPOUT} if says_presence else None,
                **variant.options,
            )

    def make() -> torch.nn.Module:
        if variant.network == "smp":
            return make_smp(variant.out_channels - says_presence)
        return SmpHeads(make_smp, [head.channels for head in variant.heads])

    network = with_weights(make, variant) if weights else make()
    return SpreadLabels(network) if says_presence else network


def _start_encoders(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give the encoders of one of our own networks their starting weights: `state`, of the whole timm network."""
    for part in network.modules():
        if isinstance(part, HalfSizeEncoder):
            part.network.load_state_dict({name: state[name] for name in part.network.state_dict()})


def _says_presence(variant: Variant) -> bool:
    """Whether its last head is of whole images; UserError where that is another one, or the network cannot have it."""
    heads = [head.name for head in variant.heads]
    if PRESENCE_HEAD not in heads:
        return False
    if heads.index(PRESENCE_HEAD) != len(heads) - 1 or len(heads) == 1 or variant.heads[-1].channels != 1:
        raise UserError(
            f"{variant.name} must have the head {PRESENCE_HEAD!r} last, of one channel (models/variants.py)."
        )
    if variant.network not in ("smp", *_OF_IMAGES):
        known = ", ".join(("smp", *_OF_IMAGES))
        raise UserError(f"{variant.name} cannot have the head {PRESENCE_HEAD!r}; networks that can: {known}.")
    return True


def parameter_count(network: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
