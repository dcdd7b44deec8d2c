import math

import cv2
import numpy as np
import pytest
import torch

from command_line import UserError
from models.losses import BORDER_PX, BORDER_WEIGHT, LOSSES, border_weights, find_loss, soft_dice, ssim

# of structure and not of single pixels
STRUCTURAL = ("ssim", "bce-ssim")


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_near_its_floor_when_right_and_far_from_it_when_wrong(name: str) -> None:
    target = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    logits = (target * 2 - 1) * 20
    loss = find_loss(name)
    assert loss(logits, target) < 1e-2
    assert loss(-logits, target) > 0.5
    moved = torch.zeros_like(target, requires_grad=True)
    loss(moved, target).backward()
    assert moved.grad is not None
    assert torch.isfinite(moved.grad).all()
    towards = -moved.grad * (target * 2 - 1)
    # the gradient points from 0 towards the target everywhere; Lovasz leaves out what cannot change its index
    if name not in STRUCTURAL:
        assert (towards >= 0).all()
    assert (towards > 0).float().mean() > {"lovasz": 0.4, "ssim": 0.9, "bce-ssim": 0.9}.get(name, 0.999)


@pytest.mark.parametrize("name", LOSSES)
def test_soft_targets_are_best_met_where_they_are(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(2, 1, 24, 24, generator=generator)
    near = torch.logit(target.clamp(0.02, 0.98))
    loss = find_loss(name)
    right = loss(near, target)
    wrong = loss(-near, target)
    assert torch.isfinite(right)
    assert right < wrong
    variable = near.clone().requires_grad_()
    loss(variable, target).backward()
    assert variable.grad is not None
    assert torch.isfinite(variable.grad).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks_are_defined(name: str, value: float) -> None:
    target = torch.full((2, 1, 16, 16), value)
    logits = torch.randn(2, 1, 16, 16, requires_grad=True)
    loss = find_loss(name)(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "bce"])
def test_every_image_counts_alike_whatever_the_size_of_its_mask(name: str) -> None:
    target = torch.zeros(2, 1, 32, 32)
    target[0, :, :4, :4] = 1
    target[1, :, :, :28] = 1
    logits = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    loss = find_loss(name)
    each = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(loss(logits, target), (each[0] + each[1]) / 2)


def test_soft_dice_of_hard_masks_is_dice() -> None:
    target = torch.zeros(1, 1, 10, 10)
    target[..., :5] = 1
    logits = torch.full_like(target, -50.0)
    logits[..., 2:7] = 50
    # 30 px in common, 50 px each; the 1 px that keeps empty images defined stays
    assert float(soft_dice(logits, target)) == pytest.approx(61 / 101)
    # bce is 50 on 40 of 100 px
    assert float(find_loss("bce-log-dice")(logits, target)) == pytest.approx(20 - math.log(61 / 101))
    assert float(find_loss("bce-jaccard")(logits, target)) == pytest.approx(20 + 1 - 31 / 71)
    # of the Jaccard index 3/7, the hinge of 51 at every wrong pixel
    assert float(find_loss("lovasz")(logits, target)) == pytest.approx(51 * (1 - 3 / 7), rel=1e-4)


def test_losses_of_values_are_what_their_names_say() -> None:
    rng = np.random.default_rng(4)
    value, target = rng.random((2, 1, 40, 30)), rng.random((2, 1, 40, 30))
    logits, wanted = torch.logit(torch.tensor(value)).float(), torch.tensor(target).float()
    off = np.abs(value - target)
    roots = np.sqrt((off**2).mean((1, 2, 3)))
    assert float(find_loss("mse")(logits, wanted)) == pytest.approx((off**2).mean(), rel=1e-5)
    assert float(find_loss("rmse")(logits, wanted)) == pytest.approx(roots.mean(), rel=1e-5)
    square = np.where(off < 0.1, off**2 / 0.2, off - 0.05)
    assert float(find_loss("smooth-l1")(logits, wanted)) == pytest.approx(square.mean(), rel=1e-5)
    entropy = -(target * np.log(target) + (1 - target) * np.log(1 - target)).mean()
    rest = float(find_loss("bce-ssim")(logits, wanted) - find_loss("bce")(logits, wanted))
    assert rest == pytest.approx(float(find_loss("ssim")(logits, wanted)) - entropy, rel=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_ssim_is_its_formula_in_a_gaussian_window_in_any_precision(bf16: bool) -> None:
    rng = np.random.default_rng(5)
    a = cv2.GaussianBlur(rng.random((37, 44)), (0, 0), 2)
    b = np.clip(a + 0.03 * rng.normal(size=a.shape), 0, 1)

    def mean(values: np.ndarray) -> np.ndarray:
        offsets = np.arange(11) - 5
        weights = np.exp(-(offsets**2) / (2 * 1.5**2))
        window = np.outer(weights, weights) / weights.sum() ** 2
        patches = np.lib.stride_tricks.sliding_window_view(values, (11, 11))
        return (patches * window).sum((2, 3))

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()
    tensors = [torch.tensor(each)[None, None].float() for each in (a, b)]
    with torch.autocast("cpu", enabled=bf16):
        assert float(ssim(*tensors)) == pytest.approx(expected, abs=1e-4)
    assert 0.2 < expected < 0.95


def test_the_border_counts_more_and_the_edge_of_the_image_does_not() -> None:
    target = torch.zeros(1, 1, 40, 60)
    target[..., :30] = 1
    weights = border_weights(target)
    assert float(weights.mean()) == pytest.approx(1)
    near = weights[0, 0, 20] > weights.min() * 1.5
    half = BORDER_PX // 2
    assert near.nonzero().flatten().tolist() == list(range(30 - half, 30 + half))
    assert torch.equal(weights[0, 0, 0], weights[0, 0, 20])
    assert float(weights.max() / weights.min()) == pytest.approx(1 + BORDER_WEIGHT)


def test_an_unknown_loss_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="bce-dice"):
        find_loss("hinge")
