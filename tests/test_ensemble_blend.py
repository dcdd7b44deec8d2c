"""A blend gives one answer, however it is asked: logits, mask, row."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

from competition import Order
from ensemble.blend import Blend
from ensemble.voting import LINEAR, VOTES, combination_of
from models.frame import Frame
from tests import naive, naive_ensemble
from tests.synthetic_runs import AVERAGE, UNET, save_member, save_pixels

FULL = (79, 121)


@pytest.fixture
def members(tmp_path: Path) -> tuple:
    return save_member(tmp_path, AVERAGE), save_member(tmp_path, UNET)


@pytest.mark.parametrize("label", [LINEAR.label, *VOTES])
def test_logits_mask_and_row_are_of_one_mind(label: str, members: tuple) -> None:
    rng = np.random.default_rng(0)
    planes = [cv2.resize(rng.normal(size=(9, 11)).astype(np.float32), m.frame.size[::-1]) * 3 for m in members]
    full = [naive.bilinear(plane, FULL) for plane in planes]
    masks = []
    for threshold, repairs in itertools.product((0.0, 0.25), ((), (("fill-holes", 1000), ("drop-islands", 1000)))):
        blend = Blend(members, (0.3, 0.7), combination_of(label), threshold, repairs)
        assert blend.image_frames(FULL) == ()
        before = [plane.copy() for plane in planes]
        mask = blend.mask(planes, FULL)
        assert mask.dtype == bool and mask.shape == FULL
        np.testing.assert_array_equal(blend.logits(planes, FULL) > 0, mask)
        for order in get_args(Order):
            text = blend.row(planes, FULL, order).decode()
            np.testing.assert_array_equal(naive.decode(naive.parse(text), FULL, order), mask)
        assert all(np.array_equal(plane, was) for plane, was in zip(planes, before, strict=True))
        expected = naive_ensemble.combined(label, full, (0.3, 0.7)) - threshold
        # elsewhere the last bits decide
        sure = np.abs(expected) > 1e-4
        assert sure.mean() > 0.999
        unrepaired = replace(blend, repairs=()).mask(planes, FULL)
        np.testing.assert_array_equal(unrepaired[sure], (expected > 0)[sure])
        np.testing.assert_array_equal(mask, naive_ensemble.repaired(unrepaired, repairs))
        masks.append((mask.tobytes(), repr(blend.state())))
    assert len({state for _, state in masks}) == len(masks)
    # a majority is the same at any threshold
    assert len({mask for mask, _ in masks}) >= (2 if label == "majority" else 3)


def test_boosted_pixels_need_the_image_and_are_of_one_mind_too(members: tuple, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planes = [cv2.resize(rng.normal(size=(9, 11)).astype(np.float32), m.frame.size[::-1]) for m in members]
    boosted, frame = save_pixels(tmp_path, list(members), FULL), Frame(FULL, "pad")
    blend = Blend(members, (0.5, 0.5), boosted)
    assert blend.image_frames(FULL) == (frame,)
    with pytest.raises(ValueError, match="needs the image"):
        blend.mask(planes, FULL)
    images = {frame: rng.integers(0, 256, (*FULL, 3), np.uint8)}
    mask = blend.mask(planes, FULL, images)
    np.testing.assert_array_equal(mask, boosted(planes, blend.frames, [], FULL, images[frame]) > 0)
    np.testing.assert_array_equal(blend.logits(planes, FULL, images) > 0, mask)
    text = blend.row(planes, FULL, "column", images).decode()
    np.testing.assert_array_equal(naive.decode(naive.parse(text), FULL, "column"), mask)
    assert (mask != Blend(members, (0.5, 0.5)).mask(planes, FULL)).any()
