"""Masks of blends from undecided tiles alone are the blends' own, to the pixel."""

from pathlib import Path

import numpy as np
import pytest

from ensemble.blend_masks import MaskBlend, masks_of
from ensemble.voting import LINEAR, VOTES, Vote, geometric_mean_probability, vote_mask
from kernels import rle
from tests.test_ensemble_survey import FRAMES, campaign


@pytest.mark.parametrize("alike", [True, False])
def test_masks_are_those_of_each_blend_alone(alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not alike:
        monkeypatch.setattr("models.frame.enlarges_as_opencv", lambda size, full: False)
    oof, rng = campaign(tmp_path), np.random.default_rng(1)
    blends = []
    for threshold in (0.0, 0.3, -0.45):
        members = tuple(sorted(rng.permutation(len(FRAMES))[:5].tolist()))
        blends.append(MaskBlend(members, tuple(rng.dirichlet(np.ones(5)).tolist()), threshold))
    # a network of no weight, and one alone
    blends.append(MaskBlend((0, 2, 4), (0.5, 0.0, 0.5)))
    blends.append(MaskBlend((2,), (1.0,), 0.25))
    blends += [MaskBlend(blends[0].members, blends[0].weights, 0.0, Vote(vote)) for vote in VOTES]
    masks = masks_of(oof, blends, jobs=1)
    for blend, its_masks in zip(blends, masks, strict=True):
        frames = [oof.frames[m] for m in blend.members]
        for image, runs in enumerate(its_masks):
            planes = [oof.planes(image)[m] for m in blend.members]
            whole = blend.combine(planes, frames, blend.weights, oof.full) > blend.threshold
            np.testing.assert_array_equal(runs, rle.encode(whole))
    assert blends[0].combine is LINEAR
    assert any(len(runs) > 1 for runs in masks[0])


def test_the_fast_geometric_vote_is_the_slow_one_also_near_one_half() -> None:
    rng = np.random.default_rng(0)
    planes = [rng.normal(0, 4, 20_000).astype(np.float32) for _ in range(3)]
    weights = [0.2, 0.3, 0.5]
    # the last plane makes most pixels ties but for rounding
    rest = np.log(2) + sum(
        w * np.logaddexp(0, -p.astype(np.float64)) for p, w in zip(planes, [-0.2, -0.3], strict=False)
    )
    last = rest / 0.5
    near = last > 0
    planes[2][near] = -np.log(np.expm1(last[near]))
    exact = geometric_mean_probability(planes, weights)
    assert (np.abs(exact[near] - 0.5) < 1e-5).all() and near.mean() > 0.1
    np.testing.assert_array_equal(vote_mask("geometric", planes, weights), exact > 0.5)
