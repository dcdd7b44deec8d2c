import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from competition import COMPETITIONS
from ensemble import tta_gain as tta
from folds import split
from folds.images import find_training_set
from folds.inputs import load_inputs
from folds.truth import Truth, load_truth
from kernels import rle
from models import checkpoint
from models.tta import IDENTITY, find_transform
from tests.synthetic_runs import UNET, save_member

CARVANA = COMPETITIONS["carvana"]


@pytest.fixture
def trained(ellipses: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Six cars in two folds, and a variant with random weights."""
    training = find_training_set(CARVANA, ellipses)
    root = tmp_path / "runs" / "carvana"
    known = load_truth(training, root / "cache", jobs=1)
    table = split.find_or_make(root / "folds.csv", training, known.areas_px, own=None, folds=2, seed=0)
    save_member(root, UNET, data_digest=training.digest, folds_digest=split.digest(table))
    return ellipses, root.parent


def test_the_value_of_each_transform_is_written_and_printed(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = trained
    tta.main(measure="tiny-unet", data=data, runs=runs, transforms="hflip,scale1.5,hflip@brightness+0.3", jobs=1)
    result = json.loads((runs / "carvana" / "tiny-unet" / "tta.json").read_text())
    assert [entry["transforms"] for entry in result["each"]] == [["hflip"], ["scale1.5"], ["hflip@brightness+0.3"]]
    assert [entry["passes"] for entry in result["each"]] == [2, 1 + 96 * 128 / (64 * 96), 2]
    assert result["all"]["transforms"] == ["hflip", "scale1.5", "hflip@brightness+0.3"]
    for entry in (*result["each"], result["all"]):
        assert entry["gain"] == pytest.approx(entry["dice"] - result["plain"]["dice"])
        assert entry["interval"][0] <= entry["gain"] <= entry["interval"][1]
    surely = [e["transforms"][0] for e in result["each"] if e["interval"][0] > 0]
    assert result["chosen"]["transforms"] == surely
    printed = capsys.readouterr().out
    assert f"{result['each'][0]['gain']:+.6f}" in printed


def test_each_image_is_predicted_by_the_network_that_did_not_see_it(trained: tuple[Path, Path]) -> None:
    """A network that is right, saved as fold 1's, must score on fold 1's images alone."""
    data, runs = trained
    training = find_training_set(CARVANA, data)
    root = runs / "carvana"
    known = load_truth(training, root / "cache", jobs=1)
    fold = split.read(root / "folds.csv", training)["fold"].to_numpy()
    average = replace(UNET, name="oracle", network="average-mask", architecture="", encoder="", options={}, tta=())
    member = save_member(root, average)
    frames = load_inputs(training, member.frame, {"mask": known}, root / "cache", jobs=1)
    # fold 0 says foreground everywhere, fold 1 nowhere
    for k, value in enumerate((5.0, -5.0)):
        network, _ = checkpoint.load(member.folds[k])
        network.get_buffer("logits").fill_(value)
        checkpoint.save(member.folds[k], network, average)
    scores = tta.scores_of_sets(
        member, frames, known, fold, CARVANA.size, [[IDENTITY], [IDENTITY, find_transform("hflip")]]
    )
    area = known.areas_px[fold == 0] / np.prod(CARVANA.size)
    np.testing.assert_allclose(scores[fold == 0, 0], 2 * area / (1 + area))
    assert (scores[fold == 1] == 0).all()
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])


@dataclass(frozen=True)
class _Frames:
    pictures: np.ndarray

    def image(self, position: int) -> np.ndarray:
        return self.pictures[position]

    def target(self, position: int) -> np.ndarray:
        raise NotImplementedError


def test_a_transform_that_helps_is_found_to_help_and_one_that_hurts_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that errs at the left border alone: its flipped answer mends it, a shift does not."""
    count, size = 12, (64, 96)
    rng = np.random.default_rng(0)
    truth = np.zeros((count, *size), bool)
    for k in range(count):
        truth[k, 20 : 40 + rng.integers(20), 10:86] = True
    pictures = np.repeat(truth[..., None], 3, -1).astype(np.uint8) * 255

    class Blind(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            logits = torch.where(batch[:, :1] > 0, 4.0, -4.0)
            logits[..., :30] = -1.0
            return logits

    member = save_member(tmp_path, UNET)
    monkeypatch.setattr(checkpoint, "load", lambda folder: (Blind(), UNET))
    runs = [rle.encode(mask) for mask in truth]
    known = Truth(np.concatenate(runs), np.cumsum([0, *map(len, runs)]), truth.sum((1, 2)))
    result = tta.value_of_transforms(
        member,
        _Frames(pictures),
        known,
        np.arange(count) % 2,
        np.arange(count) // 2,
        size,
        [find_transform("hflip"), find_transform("shift-4-4")],
    )
    flip, moved = result["each"]
    assert flip["gain"] > 0.05
    assert flip["interval"][0] > 0
    assert moved["gain"] < flip["gain"]
    assert result["chosen"]["transforms"][0] == "hflip"
    assert any('tta=("hflip"' in line for line in tta.table_lines(result))


def test_bad_input_is_refused(trained: tuple[Path, Path]) -> None:
    data, runs = trained
    for options, sentence in (
        ({"measure": "tiny-unet", "transforms": "spin"}, "unknown test-time augmentation 'spin'"),
        ({"measure": "tiny-unet", "transforms": "hflip,hflip"}, "is listed twice"),
        ({"measure": "unet-xyz"}, "no fold of 'unet-xyz' is trained"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            tta.main(data=data, runs=runs, jobs=1, **options)
    with pytest.raises(SystemExit, match="is missing"):
        tta.main(measure="tiny-unet", data=data, runs=data, jobs=1)
