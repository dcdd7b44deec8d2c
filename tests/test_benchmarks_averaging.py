"""What averaging folds adds: each fold's network alone and their mean, scored as a submission is."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import averaging
from competition import COMPETITIONS
from folds import split
from folds.images import find_training_set
from folds.scoring import full_size_score
from folds.truth import load_truth
from kernels import rle
from predict.predictor import predict
from studio.render import render_competition
from tests.synthetic_runs import AVERAGE, UNET, save_member

STUDIO = COMPETITIONS["studio"]


def test_single_folds_and_their_mean_score_as_their_predictions_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, root = tmp_path / "data", tmp_path / "runs" / "studio"
    render_competition(data, cars=3, test_cars=2, seed=3, views=1, jobs=1)
    training = find_training_set(STUDIO, data)
    known = load_truth(training, root / "cache", jobs=1)
    table = split.find_or_make(root / "folds.csv", training, known.areas_px, own=None, folds=3, seed=0)
    digests = {"data_digest": training.digest, "folds_digest": split.digest(table)}
    save_member(root, AVERAGE, folds=3, **digests)
    member = save_member(root, UNET, folds=3, **digests)
    names = sorted(path.name for path in (data / "test").iterdir())
    dice = averaging.dice_of_folds(member, names, data / "test", data / "test_masks", STUDIO)
    assert dice.shape == (2, 4)
    truths = [rle.encode(averaging.read_mask(data / "test_masks" / STUDIO.mask_name(n), STUDIO.size)) for n in names]
    # the last column is what a submission holds, up to the rounding of stored logits
    store = predict(member, names, data / "test", STUDIO.size, store=tmp_path / "mean.zarr")
    stored = [
        full_size_score(store.read(n)[0], member.frame, t, STUDIO.size) for n, t in zip(names, truths, strict=True)
    ]
    np.testing.assert_allclose(dice[:, -1], stored, atol=5e-3)
    # random networks differ from each other, and their mean from all of them
    assert len(set(dice[0])) == 4

    averaging.main(data=data, runs=root.parent)
    printed = capsys.readouterr().out
    for name in (UNET.name, AVERAGE.name):
        line = next(line for line in printed.splitlines() if line.startswith(name))
        assert len(line.split()) == 1 + 3 + 2 + 2
    assert f"{dice[:, 0].mean():.4f}" in printed
    assert f"{dice[:, -1].mean():.4f}" in printed


def test_without_test_truth_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no test masks"):
        averaging.main(competition="carvana", data=tmp_path, runs=tmp_path)
