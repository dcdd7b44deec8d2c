"""What a network is: enough to build it and to feed it. Those that there are, models/variants.py lists."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from command_line import UserError
from competition import Size
from json_file import FolderName, Schema, closed

Fit = Literal["resize", "pad", "reflect", "reflect-2x"]
# the ways that pad a frame, and how much larger each makes it before
ENLARGED: dict[Fit, int] = {"pad": 1, "reflect": 1, "reflect-2x": 2}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# the head that says whether there is anything in an image: one logit of the whole, spread over a plane like the others
PRESENCE_HEAD = "presence"
# what smp's names of timm's encoders begin with
TIMM = "tu-"
# the `network` of predictions that were made elsewhere: there is nothing to build
IMPORTED = "imported"

# a trained network on disk, as models/checkpoint.py writes it
VARIANT_FILE = "variant.json"
WEIGHTS_FILE = "weights.safetensors"


@closed
@dataclass(frozen=True)
class Head:
    """One output of a network: `channels` logit planes named `name`."""

    name: str = "mask"
    channels: int = 1


@closed
@dataclass(frozen=True)
class Variant:
    """What a network is: enough to build it and to feed it.

    Attributes:
        name: unique; letters, digits and hyphens, as it names a folder.
        network: "smp" for segmentation-models-pytorch ("smp-heads" with a decoder for each head), else a key of
            `models.build.NETWORKS`; or `IMPORTED`.
        size: (height, width) of the network's input and of its logits.
        recipe: name of the recipe it is trained with unless another is asked for.
        architecture, encoder: smp's names; empty for our own networks, but for an encoder of timm's ("tu-...") within.
        options: further keyword arguments of the network's constructor.
        fit: "resize" reduces the full frame to `size`; "pad" keeps its pixels and pads it up to `size`; "reflect" pads
            on all sides by reflection; "reflect-2x" doubles the frame before (models/frame.py).
        weights: the encoder's starting weights: "imagenet" or "none".
        in_channels: planes of the input; 3 is one RGB image.
        heads: the network's outputs, in the order of its output channels.
        mean, std: what the input, scaled to 0..1, is normalised with.
        tta: test-time augmentations (expressions of models/tta.py) its stored logits are averaged over.
        fitted: True where the network is fitted in one pass over the training masks and not trained by gradient.
    """

    name: FolderName
    network: str
    size: Size
    recipe: str
    architecture: str = ""
    encoder: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    fit: Fit = "resize"
    weights: Literal["imagenet", "none"] = "none"
    in_channels: int = 3
    heads: tuple[Head, ...] = (Head(),)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    tta: tuple[str, ...] = ("hflip",)
    fitted: bool = False

    @property
    def out_channels(self) -> int:
        """Planes of the output, all heads together."""
        return sum(head.channels for head in self.heads)

    def head_attributes(self) -> dict[str, list[str] | list[int]]:
        """What a logit store says of the heads; how many planes each has only where one has several."""
        attributes: dict[str, list[str] | list[int]] = {"heads": [head.name for head in self.heads]}
        if any(head.channels > 1 for head in self.heads):
            attributes["head_planes"] = [head.channels for head in self.heads]
        return attributes

    def planes_of(self, head: str = "mask") -> slice:
        """Where a head's logits are among the planes of the output.

        Raises:
            UserError: the network has no such head; the message lists those it has.

        >>> Variant("both", "unet", (64, 64), "demo", heads=(Head("mask"), Head("depth"))).planes_of("depth")
        slice(1, 2, None)
        """
        start = 0
        for own in self.heads:
            if own.name == head:
                return slice(start, start + own.channels)
            start += own.channels
        raise UserError(
            f"{self.name} has no head {head!r}; its heads: {', '.join(own.name for own in self.heads)} "
            "(models/variants.py)."
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping from which `from_json` makes an equal variant."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Variant:
        """The variant that `to_json` wrote.

        Raises:
            ValueError: a field is unknown, missing, or of another type or range.
        """
        return VARIANT.of(value).with_tuples()

    def with_tuples(self) -> Variant:
        """It as before it went through JSON, which has no tuples: constructors that take one may insist on it."""
        return replace(self, options={k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()})


def _check(variant: Variant) -> None:
    if min(variant.size) < 1 or variant.in_channels < 1 or any(head.channels < 1 for head in variant.heads):
        raise ValueError("size, in_channels or the channels of a head are below 1, expected at least 1")
    # those of one image serve for each of several that are stacked
    if len(variant.mean) != len(variant.std) or variant.in_channels % len(variant.mean):
        raise ValueError(f"mean and std have {len(variant.mean)} and {len(variant.std)} entries, expected in_channels")


VARIANT = Schema(Variant, "put a good copy back, or train the fold again", _check)
