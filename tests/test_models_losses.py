import pytest
import torch

from command_line import UserError
from models.losses import LOSSES, find_loss, soft_dice


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_near_its_floor_when_right_and_far_from_it_when_wrong(name: str) -> None:
    target = (torch.rand(2, 1, 16, 16) > 0.5).float()
    logits = (target * 2 - 1) * 20
    loss = find_loss(name)
    assert loss(logits, target) < 1e-2
    assert loss(-logits, target) > 0.5
    moved = torch.zeros_like(target, requires_grad=True)
    loss(moved, target).backward()
    assert torch.isfinite(moved.grad).all()
    # the gradient points from 0 towards the target everywhere
    assert ((-moved.grad * (target * 2 - 1)) > 0).all()


def test_soft_dice_of_hard_masks_is_dice() -> None:
    target = torch.zeros(1, 1, 10, 10)
    target[..., :5] = 1
    logits = torch.full_like(target, -50.0)
    logits[..., 2:7] = 50
    # 30 px in common, 50 px each; the 1 px that keeps empty images defined stays
    assert float(soft_dice(logits, target)) == pytest.approx(61 / 101)


def test_an_unknown_loss_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="bce-dice"):
        find_loss("hinge")
