import pytest
import torch

from command_line import UserError
from models.tta import EXAMPLES, FAMILIES, IDENTITY, brightness, find_transform, find_transforms, mean_logits, scale

SIZE = (96, 160)
# these families move whole pixels, or none
EXACT = [name for family in ("hflip", "vflip", "rot", "brightness", "shift") for name in FAMILIES[family].examples] + [
    "shift8",
    "shift-3+5",
    "hflip@rot90",
    "vflip@rot270",
]
SCALES = ["scale0.75", "scale1.25", "scale1.5", "scale1.1"]


def waves(count: int = 2) -> torch.Tensor:
    """Smooth logits, as networks give: the shortest wave is 60 pixels long."""
    y, x = torch.meshgrid(torch.arange(SIZE[0]) / 60, torch.arange(SIZE[1]) / 60, indexing="ij")
    planes = [torch.sin(2 * torch.pi * y + k) + torch.cos(2 * torch.pi * x - k) for k in range(count)]
    return torch.stack(planes)[:, None]


@pytest.mark.parametrize("name", EXACT)
def test_a_transform_that_moves_pixels_is_undone_exactly(name: str) -> None:
    x = torch.rand(2, 3, *SIZE)
    transform = find_transform(name)
    changed = transform.apply(x)
    assert not torch.equal(changed, x)
    geometry_only = x if name.startswith("brightness") else changed
    assert torch.equal(transform.invert(geometry_only), x)
    assert transform.cost(SIZE) == 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_family_changes_the_input_and_undoes_its_geometry(name: str) -> None:
    x, transform = waves(), find_transform(name)
    changed = transform.apply(x)
    assert not torch.equal(changed, x)
    assert changed.shape[-2:] == transform.resized(SIZE)
    assert all(side % 32 == 0 for side in changed.shape[-2:])
    logits = torch.rand(2, 1, *transform.resized(SIZE))
    # what changes values and moves nothing leaves logits alone
    if not torch.equal(transform.invert(logits, SIZE), logits):
        back = transform.invert(changed, SIZE)
        assert back.shape == x.shape
        # what leaves the frame may be lost; half a pixel to one side, the usual mistake, would show
        off = (back - x)[..., 24:-24, 40:-40]
        assert off.abs().max() < 0.02
        assert off.mean().abs() < 1e-3


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_is_undone_up_to_interpolation(name: str) -> None:
    x = waves()
    transform = find_transform(name)
    changed = transform.apply(x)
    assert changed.shape[-2:] == transform.resized(SIZE) != SIZE
    assert all(side % 32 == 0 for side in changed.shape[-2:])
    back = transform.invert(changed, SIZE)
    # bilinear interpolation errs by about (pi / 60)^2 / 2 of a wave of 60 pixels each way; more at the borders
    assert (back - x)[..., 4:-4, 4:-4].abs().max() < 0.01
    assert (back - x).abs().max() < 0.1
    # half a pixel to one side, the usual mistake, would show
    assert (back - x)[..., 4:-4, 4:-4].mean().abs() < 1e-3
    assert (back - x.roll(1, -1))[..., 4:-4, 4:-4].abs().max() > 0.05


@pytest.mark.parametrize("first", ["hflip", "rot90", "shift+4+4", "scale1.25"])
@pytest.mark.parametrize("second", ["hflip", "rot270", "shift-4-4", "brightness+0.3"])
def test_a_composition_is_the_first_then_the_second_and_undone_in_reverse(first: str, second: str) -> None:
    x = waves()
    product = find_transform(f"{first}@{second}")
    a, b = find_transform(first), find_transform(second)
    assert product.name == f"{first}@{second}"
    assert torch.equal(product.apply(x), b.apply(a.apply(x)))
    logits = torch.rand(2, 1, *product.resized(SIZE))
    by_hand = a.invert(b.invert(logits, a.resized(SIZE)), SIZE)
    assert torch.equal(product.invert(logits, SIZE), by_hand)
    assert product.cost(SIZE) == a.cost(SIZE)


def test_compositions_are_associative_and_have_the_identity() -> None:
    x = waves()
    a, b, c = (find_transform(name) for name in ("hflip", "scale1.25", "shift+4+4"))
    for left, right in (((a @ b) @ c, a @ (b @ c)), (IDENTITY @ b, b), (b @ IDENTITY, b)):
        assert torch.equal(left.apply(x), right.apply(x))
        assert torch.equal(left.invert(left.apply(x), SIZE), right.invert(right.apply(x), SIZE))


def test_brightness_changes_the_input_and_not_the_logits() -> None:
    x = waves()
    assert torch.allclose(brightness(0.3).apply(x) - x, torch.full_like(x, 0.3), atol=1e-6)
    assert torch.equal(brightness(0.3).invert(x), x)


def test_a_scale_costs_its_pixels() -> None:
    assert scale(1.5).resized((64, 128)) == (96, 192)
    assert scale(1.5).cost((64, 128)) == 2.25
    assert scale(0.1).resized((64, 128)) == (32, 32)


class _AddRamp(torch.nn.Module):
    """Adds a ramp, so that its answer depends on where a pixel lies."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch + torch.arange(float(batch.shape[-1]))


def test_mean_logits_averages_undone_transforms() -> None:
    ramp = torch.arange(6.0)
    x = torch.rand(1, 1, 1, 6)
    expected = x + (ramp + ramp.flip(-1)) / 2
    torch.testing.assert_close(mean_logits(_AddRamp(), x, find_transforms(("hflip",))), expected)
    torch.testing.assert_close(mean_logits(_AddRamp(), x, find_transforms(())), x + ramp)


def test_mean_logits_brings_scaled_logits_back_to_the_size_of_the_batch() -> None:
    x = waves()
    assert (
        mean_logits(torch.nn.Identity(), x, find_transforms(("scale0.75", "hflip*scale1.25", "rot90"))).shape == x.shape
    )


def test_a_cartesian_product_is_every_combination_once() -> None:
    names = [t.name for t in find_transforms(("hflip*scale1.1*rot90", "scale1.1", "hflip"))]
    assert names == [
        "identity",
        "hflip",
        "scale1.1",
        "hflip@scale1.1",
        "rot90",
        "hflip@rot90",
        "scale1.1@rot90",
        "hflip@scale1.1@rot90",
    ]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_its_own_name(example: str) -> None:
    assert find_transform(example).name == example


def test_a_quarter_turn_swaps_the_sides_and_costs_nothing_more() -> None:
    assert find_transform("rot90").apply(waves()).shape[-2:] == (SIZE[1], SIZE[0])
    assert find_transform("rot90@scale1.25").resized(SIZE) == (192, 128)
    assert find_transform("rot180").resized(SIZE) == SIZE


@pytest.mark.parametrize("text", ["spin", "hflip*spin", "hflip@spin", "", "scale 1.1", "1.1"])
def test_unknown_names_show_what_works(text: str) -> None:
    with pytest.raises(UserError, match=r"hflip, vflip, rot90.*scale0\.75"):
        find_transforms((text,))


@pytest.mark.parametrize(
    "text", ["rot45", "rot", "scale0", "scale", "hflip2", "shift", "shift1.5", "shift1+2.5", "shift1+2+3"]
)
def test_numbers_that_make_no_sense_are_refused(text: str) -> None:
    family = next(name for name in FAMILIES if text.startswith(name))
    with pytest.raises(
        UserError, match=f"{text!r} cannot work .* write it as {FAMILIES[family].examples[0]}".replace("+", r"\+")
    ):
        find_transforms((text,))
