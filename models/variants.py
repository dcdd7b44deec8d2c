"""The registry of variants: what each network is. How it is trained is a `Recipe` (folds/recipes.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from command_line import UserError
from competition import COMPETITIONS, Size
from models.variant import PRESENCE_HEAD, Fit, Head, Variant

# the first competition's frames, padded to what the deepest networks take; those of another get their own
# (models/build.py, at_size_of)
_PADDED = [-(-side // 32) * 32 for side in next(iter(COMPETITIONS.values())).size]
FULL_PADDED: Size = (_PADDED[0], _PADDED[1])


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

_WINDOWED_UNET = replace(
    _FOLDED_UNET,
    name="windowed-unet-full",
    network="windowed-unet",
    options={**_FOLDED_UNET.options, "finder_widths": (16, 32, 64, 96), "finder_fold": 2},
    size=FULL_PADDED,
    fit="pad",
    recipe="cpu-full",
)

_WINDOWED_LITE0 = replace(
    _WINDOWED_UNET,
    name="windowed-unet-lite0-full",
    options={**_WINDOWED_UNET.options, "widths": (32, 64, 128, 192, 192)},
    encoder="tu-tf_efficientnet_lite0",
    weights="imagenet",
    # what the encoder's weights expect
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

# narrower below its encoder, so that a step takes as long; networks of both together stay below 40 MB in 8 bits
_WINDOWED_LITE1 = replace(
    _WINDOWED_LITE0,
    name="windowed-unet-lite1-full",
    options={**_WINDOWED_LITE0.options, "widths": (32, 64, 112, 160, 160)},
    encoder="tu-tf_efficientnet_lite1",
)

MASK_AND_DEPTH = (Head("mask"), Head("depth"))


def _from_imagenet(full: Variant) -> tuple[Variant, Variant]:
    """The same network at 640x960, from ImageNet weights, and the full one, which goes on from it (--init-from)."""
    name = full.name.replace("-full", "-640x960")
    return replace(full, name=name, size=(640, 960), fit="resize", recipe="cpu-imagenet"), full


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
        # as many pixels as cost the same in dense convolutions of few planes, which bf16 units multiply fast; the
        # third goes on from one of the others
        replace(_FOLDED_UNET, name="folded-unet-256x384", size=(256, 384)),
        _FOLDED_UNET,
        replace(_FOLDED_UNET, name="folded-unet-640x960", size=(640, 960), recipe="cpu-higher"),
        # each an epoch from one before it, at a lower learning rate
        replace(_FOLDED_UNET, name="folded-unet-768x1152", size=(768, 1152), recipe="cpu-higher"),
        replace(_FOLDED_UNET, name="folded-unet-896x1344", size=(896, 1344), recipe="cpu-higher"),
        replace(_FOLDED_UNET, name="folded-unet-1152x1728", size=(1152, 1728), recipe="cpu-higher"),
        # all pixels of the part of the frame that a small network beside it finds; from one of the folded ones
        _WINDOWED_UNET,
        # others, with encoders that know ImageNet and work at half resolution
        *_from_imagenet(_WINDOWED_LITE0),
        *_from_imagenet(_WINDOWED_LITE1),
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
            "folded-unet-wide-128",
            "folded-unet",
            (128, 128),
            "reflect",
            options={"widths": (24, 48, 96, 144, 192), "fold": 2},
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
