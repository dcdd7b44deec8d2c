"""Pseudo-labels in training: their share of every batch, and what they count in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from folds.module import SegmentationModule
from folds.samples import EpochSampler


def test_every_batch_has_its_share_and_all_labels_come_round() -> None:
    own, extra = np.arange(11), 100 + np.arange(7)
    seen: list[int] = []
    for epoch in range(4):
        sampler = EpochSampler(own, seed=3, shuffle=True, batch=4, extra=extra, extra_batch=1)
        sampler.set_epoch(epoch)
        order = [position for _, position in sampler]
        assert len(order) == len(sampler) == 12
        assert [position >= 100 for position in order] == [False, False, False, True] * 3
        assert len({position for position in order if position < 100}) == 9
        seen += [position for position in order if position >= 100]
        halves = [
            EpochSampler(own, seed=3, shuffle=True, batch=4, extra=extra, extra_batch=1, rank=rank, world=2)
            for rank in (0, 1)
        ]
        for half in halves:
            half.set_epoch(epoch)
        assert sorted(p for half in halves for _, p in half) == sorted(order)
    # one round after the other, each in an order of its own
    assert sorted(seen[:7]) == sorted(extra)
    assert len(set(seen[7:])) == 5


def test_a_label_counts_in_the_loss_what_the_recipe_says() -> None:
    module = SegmentationModule.__new__(SegmentationModule)
    logits, wanted, positions = torch.zeros(4, 1, 2, 2), torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 9])
    wanted[3] = 1.0
    each = torch.tensor([1.0, 1.0, 1.0, 5.0])
    module._loss_of = lambda _, wanted: torch.where(wanted[:, 0, 0, 0] > 0, 5.0, 1.0).mean()  # type: ignore[method-assign, assignment]
    for weight in (0.5, 1.0, 3.0):
        module._extra = (5, weight)
        expected = float((each * torch.where(positions >= 5, weight, 1.0)).mean())
        assert float(module._loss(logits, wanted, positions)) == pytest.approx(expected)
