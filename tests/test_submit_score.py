import dataclasses
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command_line import UserError
from competition import COMPETITIONS, Competition, Order
from kernels.rle import encode_text
from submit.score import main, score
from tests import naive
from tests.conftest import ellipse, write_mask

SMALL = dataclasses.replace(COMPETITIONS["carvana"], size=(20, 31))
# more than are scored at a time
NAMES = [f"{k:012x}_01.jpg" for k in range(70)]


def masks(seed: int, size: tuple[int, int] = (20, 31)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {name: rng.random(size) > rng.uniform(0.2, 0.9) for name in NAMES}
    found[NAMES[5]][:] = False
    return found


def write_csv(path: Path, contents: dict[str, np.ndarray], competition: Competition = SMALL) -> Path:
    text = b"img,rle_mask\n" + b"".join(
        b"%s,%s\n" % (name.encode(), encode_text(mask, order=competition.order)) for name, mask in contents.items()
    )
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_folder(folder: Path, contents: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, mask in contents.items():
        write_mask(folder / SMALL.mask_name(name), mask)
    return folder


@pytest.mark.parametrize("order", ["row", "column"])
def test_folder_and_file_of_truth_agree_with_the_obvious_dice(tmp_path: Path, order: Order) -> None:
    facts = dataclasses.replace(SMALL, order=order)
    guess, truth = masks(1), masks(2)
    guess[NAMES[7]] = truth[NAMES[7]]
    expected = [naive.dice(guess[name], truth[name]) for name in NAMES]
    assert expected[5] == expected[7] == 1, "two empty masks agree"
    submission = write_csv(tmp_path / "submission.csv.gz", guess, facts)
    by_folder = score(submission, write_folder(tmp_path / "masks", truth), competition=facts)
    shuffled = dict(sorted(truth.items(), key=lambda item: hash(item[0])))
    by_file = score(submission, write_csv(tmp_path / "truth.csv", shuffled, facts), competition=facts)
    for found in (by_folder, by_file):
        assert found.names == NAMES
        np.testing.assert_array_equal(found.scores, expected)
        assert found.mean == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("metric", naive.METRICS)
def test_a_submission_is_scored_by_the_competitions_metric(
    metric: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = dataclasses.replace(SMALL, metric=metric)
    monkeypatch.setitem(COMPETITIONS, facts.name, facts)
    guess, truth = masks(1), masks(2)
    submission, known = write_csv(tmp_path / "submission.csv", guess, facts), write_csv(tmp_path / "truth.csv", truth)
    expected = [naive.METRICS[metric](guess[name], truth[name]) for name in NAMES]
    main(submission, truth=known, competition=facts.name, per_image=tmp_path / "each.csv")
    label = {"dice": "Dice", "iou": "IoU", "mean_precision": "mean precision"}[metric]
    assert f"mean {label} {np.mean(expected):.6f} over" in capsys.readouterr().out
    lines = (tmp_path / "each.csv").read_text().splitlines()
    assert lines[0] == f"image,{metric}" and float(lines[1].split(",")[1]) == pytest.approx(expected[0], abs=1e-6)


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    guess = masks(1)
    truth = write_csv(tmp_path / "truth.csv", {name: guess[name] for name in NAMES[:9]})
    submission = write_csv(tmp_path / "submission.csv", guess)
    with pytest.raises(UserError, match=f"knows nothing of {NAMES[9]}"):
        score(submission, truth, competition=SMALL)
    assert score(truth, submission, competition=SMALL).mean == 1, "the truth may know more"
    folder = write_folder(tmp_path / "masks", {NAMES[0]: guess[NAMES[0]]})
    with pytest.raises(UserError, match=r"mask\.gif is missing"):
        score(submission, folder, competition=SMALL)
    bad = tmp_path / "bad.csv"
    bad.write_text(f"img,rle_mask\n{NAMES[0]},1 1\n{NAMES[1]},600 99\n")
    with pytest.raises(UserError, match=f"row 2 .*{NAMES[1]}.*past the last pixel"):
        score(bad, folder, competition=SMALL)
    for line, what in ((f"{NAMES[0]},1 1", "is listed twice"), ("", "names no image")):
        bad.write_text(f"img,rle_mask\n{NAMES[0]},1 1\n{line}\n")
        with pytest.raises(UserError, match=f"row 2 .*{what}"):
            score(bad, folder, competition=SMALL)
    bad.write_text("img,rle_mask\n")
    with pytest.raises(UserError, match="no row"):
        score(bad, folder, competition=SMALL)
    with pytest.raises(UserError, match="is missing"):
        score(tmp_path / "none.csv", folder, competition=SMALL)
    with pytest.raises(UserError, match="is missing"):
        score(submission, tmp_path / "none", competition=SMALL)


def test_the_program_at_full_size(tmp_path: Path) -> None:
    facts = COMPETITIONS["carvana"]
    truth = {name: ellipse(k) for k, name in enumerate(NAMES[:2])}
    folder = write_folder(tmp_path / "masks", truth)
    truth[NAMES[1]] = ellipse(9)
    expected = naive.dice(truth[NAMES[1]], ellipse(1))
    submission = write_csv(tmp_path / "submission.csv", truth, facts)
    done = subprocess.run(
        [sys.executable, "-m", "submit.score", submission, "--truth", folder, "--per-image", tmp_path / "each.csv"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == (f"mean Dice {(1 + expected) / 2:.6f} over 2 images\nworst {expected:.6f} ({NAMES[1]})\n")
    each = (tmp_path / "each.csv").read_text()
    assert each == f"image,dice\n{NAMES[0]},1.000000\n{NAMES[1]},{expected:.6f}\n"
