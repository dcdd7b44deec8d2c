import math

import pytest
import torch

from command_line import UserError
from models.losses import BORDER_PX, BORDER_WEIGHT, LOSSES, border_weights, find_loss, soft_dice


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
    assert (towards >= 0).all()
    assert (towards > 0).float().mean() > (0.4 if name == "lovasz" else 0.999)


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
