import numpy as np
import pytest

from ensemble.voting import weighted_logits
from models.frame import Frame

FULL = (64, 95)


def planes(frames: list[Frame]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=frame.size).astype(np.float32) for frame in frames]


def test_summing_before_going_to_full_size_equals_summing_after() -> None:
    frames = [Frame((16, 24)), Frame((16, 24)), Frame((32, 48)), Frame((64, 96), "pad")]
    logits, weights = planes(frames), [0.1, 0.2, 0.3, 0.4]
    each = sum(w * f.invert(p, FULL) for w, f, p in zip(weights, frames, logits, strict=True))
    np.testing.assert_allclose(weighted_logits(logits, frames, weights, FULL), each, atol=1e-5)


def test_weight_zero_leaves_a_network_out_and_arguments_alone() -> None:
    frames = [Frame((16, 24)), Frame((16, 24))]
    logits = planes(frames)
    before = [p.copy() for p in logits]
    alone = weighted_logits(logits[:1], frames[:1], [1.0], FULL)
    np.testing.assert_array_equal(weighted_logits([logits[0], logits[1] * np.nan], frames, [1.0, 0.0], FULL), alone)
    np.testing.assert_array_equal(logits, before)
    with pytest.raises(ValueError, match="no network"):
        weighted_logits(logits, frames, [0.0, 0.0], FULL)
