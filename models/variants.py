"""The registry of variants: what each network is. How it is trained is a `Recipe` (folds/recipes.py)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from command_line import UserError
from competition import COMPETITIONS, Size
from json_file import FolderName, Schema, closed

Fit = Literal["resize", "pad", "reflect", "reflect-2x"]
# the ways that pad a frame, and how much larger each makes it before
ENLARGED: dict[Fit, int] = {"pad": 1, "reflect": 1, "reflect-2x": 2}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# the first competition's frames, padded to what the deepest networks take; those of another get their own
# (models/build.py, at_size_of)
_PADDED = [-(-side // 32) * 32 for side in next(iter(COMPETITIONS.values())).size]
FULL_PADDED: Size = (_PADDED[0], _PADDED[1])

# the head that says whether there is anything in an image: one logit of the whole, spread over a plane like the others
PRESENCE_HEAD = "presence"
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
        architecture, encoder: smp's names; empty for our own networks.
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

        >>> VARIANTS["unet-resnet18"].planes_of("mask")
        slice(0, 1, None)
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


def _plain(name: str, network: str, size: Size, recipe: str, **more: Any) -> Variant:
    """A network from scratch that takes pixels scaled to 0..1 and nothing more, as the published systems did."""
    return Variant(name=name, network=network, size=size, recipe=recipe, mean=(0.0,) * 3, std=(1.0,) * 3, **more)


def _three_sizes(name: str, architecture: str, encoder: str) -> tuple[Variant, ...]:
    """One architecture with ImageNet weights at 512x512, at 1024x1024 and at the full size, padded."""
    same: dict[str, Any] = {
        "network": "smp",
        "architecture": architecture,
        "encoder": encoder,
        "weights": "imagenet",
    }
    return (
        Variant(name=f"{name}-512", size=(512, 512), recipe="strong", **same),
        Variant(name=f"{name}-1024", size=(1024, 1024), recipe="strong-large", **same),
        Variant(name=f"{name}-full", size=FULL_PADDED, fit="pad", recipe="strong-large", **same),
    )


def _grey(name: str, network: str, size: Size, fit: Fit, recipe: str = "small-lovasz", **more: Any) -> Variant:
    """A network from scratch for small grey images, of about their brightness."""
    grey: dict[str, Any] = {"in_channels": 1, "mean": (0.47,), "std": (0.16,)}
    return Variant(name=name, network=network, size=size, fit=fit, recipe=recipe, **grey, **more)


_UNET_MOBILENETV3 = Variant(
    name="unet-mobilenetv3",
    network="smp",
    architecture="Unet",
    encoder="tu-mobilenetv3_small_050",
    options={"decoder_channels": (64, 48, 32, 16, 8)},
    size=(160, 256),
    recipe="demo",
)

_FOLDED_UNET = Variant(
    name="folded-unet-384x576",
    network="folded-unet",
    options={"widths": (32, 64, 128, 192, 256), "fold": 4},
    size=(384, 576),
    recipe="cpu-hour",
)

MASK_AND_DEPTH = (Head("mask"), Head("depth"))


def _of_composites(name: str, network: str, size: Size, recipe: str, **more: Any) -> Variant:
    """A network from scratch that sees background and composite, six channels, and tells mask and depth."""
    return _plain(name, network, size, recipe, **{"in_channels": 6, "heads": MASK_AND_DEPTH, **more})


VARIANTS = {
    v.name: v
    for v in (
        # small enough for a CPU
        Variant(name="average-mask", network="average-mask", size=(320, 480), recipe="fitted", tta=(), fitted=True),
        _UNET_MOBILENETV3,
        # the same network at twice the resolution, to go on from the one above (--init-from)
        replace(_UNET_MOBILENETV3, name="unet-mobilenetv3-320x512", size=(320, 512), recipe="cpu-higher"),
        # as many pixels as cost the same in dense convolutions of few planes, which bf16 units multiply fast
        _FOLDED_UNET,
        replace(_FOLDED_UNET, name="folded-unet-640x960", size=(640, 960), recipe="cpu-higher"),
        Variant(
            name="fpn-regnetx",
            network="smp",
            architecture="FPN",
            encoder="tu-regnetx_002",
            options={"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32},
            size=(160, 256),
            recipe="demo",
        ),
        Variant(
            name="unet-resnet18",
            network="smp",
            architecture="Unet",
            encoder="resnet18",
            size=(128, 192),
            recipe="demo",
        ),
        # small images: reflected to 128x128 or, doubled, to 256x256, or reduced; the last two from ImageNet weights
        _grey(
            "folded-unet-128", "folded-unet", (128, 128), "reflect", options={"widths": (48, 96, 192, 256), "fold": 4}
        ),
        _grey(
            "folded-unet-fine-128",
            "folded-unet",
            (128, 128),
            "reflect",
            options={"widths": (16, 32, 64, 128, 192), "fold": 2},
        ),
        _grey(
            "folded-unet-256",
            "folded-unet",
            (256, 256),
            "reflect-2x",
            options={"widths": (16, 32, 64, 128, 192), "fold": 4},
        ),
        # the cheapest; it also says whether there is anything
        _grey(
            "folded-unet-small-128",
            "folded-unet",
            (128, 128),
            "reflect",
            options={"widths": (16, 32, 64, 96), "fold": 4},
            heads=(Head("mask"), Head(PRESENCE_HEAD)),
        ),
        _grey(
            "unet-regnetx-64",
            "smp",
            (64, 64),
            "resize",
            architecture="Unet",
            encoder="tu-regnetx_002",
            options={"decoder_channels": (128, 64, 48, 32, 16)},
        ),
        Variant(
            name="unet-resnet34-reflect-128",
            network="smp",
            architecture="Unet",
            encoder="resnet34",
            weights="imagenet",
            size=(128, 128),
            fit="reflect",
            recipe="strong",
        ),
        Variant(
            name="unet-resnet34-reflect-256",
            network="smp",
            architecture="Unet",
            encoder="resnet34",
            weights="imagenet",
            size=(256, 256),
            fit="reflect-2x",
            recipe="strong",
        ),
        # the networks of the published systems: A's baseline and U-Net, B's U-Net and what its author meant to try
        # next, C's U-Net
        _plain("a-cnn-128", "simple-cnn", (128, 128), "a-cnn"),
        _plain("a-unet-128", "unet", (128, 128), "a-unet", options={"widths": (64, 128, 256, 512), "up": 3}),
        _plain("b-unet-768", "unet", (768, 768), "b-unet", options={"widths": (64, 128, 256, 512, 1024)}),
        _plain(
            "b-dense-unet-768",
            "unet",
            (768, 768),
            "b-unet",
            options={"widths": (64, 128, 256, 512, 1024), "block": "dense"},
        ),
        _plain("c-unet-128", "unet", (128, 128), "c-unet", options={"widths": (64, 128, 256, 512, 1024), "up": 3}),
        # the idea of Carvana's 3rd place
        _plain("dilated-unet-1024x1536", "dilated-unet", (1024, 1536), "dilated"),
        _plain("dilated-unet-full", "dilated-unet", FULL_PADDED, "dilated", fit="pad"),
        # of composites: systems D and E, a network for a CPU (and for masks alone), and one with an encoder of the
        # library; D's widths are not published: with these it has 136 parameters more than its 11,234,066
        _of_composites("d-resunet-64", "residual-unet", (64, 64), "d-resunet", options={"widths": (48, 128, 256, 376)}),
        *(
            _of_composites(
                f"e-unet-{side}",
                "unet",
                (side, side),
                "e-unet",
                options={"widths": (64, 128, 256, 512, 1024), "upsampling": "transposed"},
            )
            for side in (64, 192)
        ),
        _of_composites("compact-96", "residual-unet", (96, 96), "composites", options={"widths": (16, 32, 64, 96)}),
        *(
            _of_composites(
                f"compact-mask-{side}",
                "residual-unet",
                (side, side),
                "composites-mask",
                options={"widths": (16, 32, 64, 96)},
                heads=(Head("mask"),),
            )
            for side in (96, 192)
        ),
        _of_composites(
            "depth-resnet18-192", "smp-heads", (192, 192), "composites", architecture="Unet", encoder="resnet18"
        ),
        # encoders trained on ImageNet
        *_three_sizes("unet-resnet34", "Unet", "resnet34"),
        *_three_sizes("unet-vgg11", "Unet", "vgg11"),
        *_three_sizes("unet-efficientnetb3", "Unet", "efficientnet-b3"),
        *_three_sizes("unet-convnexttiny", "Unet", "tu-convnext_tiny"),
        *_three_sizes("linknet-resnet34", "Linknet", "resnet34"),
        *_three_sizes("upernet-resnet34", "UPerNet", "resnet34"),
        *_three_sizes("segformer-mitb2", "Segformer", "mit_b2"),
    )
}


def find_variant(name: str) -> Variant:
    """The variant of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        raise UserError(
            f"unknown variant {name!r}; known: {', '.join(VARIANTS)} (add one in models/variants.py)."
        ) from None


def parse_variants(text: str) -> list[Variant]:
    """A comma list of variant names, or `all`, as `V=` takes it.

    Raises:
        UserError: a name is unknown or is listed twice, or there is none.

    >>> [v.name for v in parse_variants("average-mask,fpn-regnetx")]
    ['average-mask', 'fpn-regnetx']
    """
    if text == "all":
        return list(VARIANTS.values())
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"no variant given: name one or more of {', '.join(VARIANTS)}, or all (V=...).")
    if len(set(names)) != len(names):
        raise UserError(f"a variant is listed twice in {text!r}: name each once.")
    return [find_variant(name) for name in names]
