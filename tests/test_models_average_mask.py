import numpy as np
import pytest
import torch

from models.networks.average_mask import AverageMask


def test_the_threshold_is_the_best_of_those_tried() -> None:
    rng = np.random.default_rng(0)
    masks = [(rng.random((6, 8)) < p).astype(np.uint8) * 255 for p in (0.2, 0.5, 0.7, 0.4, 0.6)]
    network = AverageMask((6, 8)).fit(masks)
    chosen = (network(torch.zeros(1, 3, 6, 8))[0, 0] > 0).numpy()
    truth = np.array(masks) > 0
    mean = truth.mean(0)

    def dice(mask: np.ndarray) -> float:
        return float(np.mean([2 * (mask & t).sum() / max(mask.sum() + t.sum(), 1) for t in truth]))

    best = max(dice(mean > threshold) for threshold in np.linspace(0, 1, 201))
    assert dice(chosen) == pytest.approx(best)


def test_the_image_does_not_matter() -> None:
    network = AverageMask((4, 4)).fit([np.full((4, 4), 255, np.uint8)])
    logits = network(torch.rand(3, 3, 4, 4))
    assert logits.shape == (3, 1, 4, 4)
    assert torch.equal(logits[0], logits[2])
    assert torch.isfinite(logits).all()
    assert (logits > 0).all()


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no mask"):
        AverageMask((4, 4)).fit([])
