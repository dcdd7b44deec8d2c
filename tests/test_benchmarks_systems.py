"""The table of systems holds what was measured and says so of what was not."""

import json
from pathlib import Path

import pytest

from benchmarks import systems


def test_a_row_is_trained_and_tabled_as_its_manifests_say(
    ellipses: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    systems.main(data=ellipses, runs=runs, train="cpu", variants="average-mask,b-unet-768", arguments="--jobs 1")
    rows = [line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]
    average, published = rows[-2:]
    manifests = [json.loads((runs / f"carvana/average-mask/fold{k}/manifest.json").read_text()) for k in range(5)]
    images = [m["images"]["held_out"] for m in manifests]
    mean = sum(m["dice"] * n for m, n in zip(manifests, images, strict=True)) / sum(images)
    assert f"| 0.7434 | {mean:.4f} (" in average
    assert manifests[0]["hardware"] in average
    assert "not yet measured, needs a GPU" in published
    assert "epoch" not in average
    # as if the epoch had been chosen by the images that are scored
    for fold, manifest in enumerate(manifests):
        path = runs / f"carvana/average-mask/fold{fold}/manifest.json"
        path.write_text(json.dumps(manifest | {"last_dice": manifest["dice"] - 0.2 * (fold == 0)}))
    systems.main(data=ellipses, runs=runs, variants="average-mask")
    last = mean - 0.2 * images[0] / sum(images)
    assert f"), the best epoch's; the last one's {last:.4f} |" in capfd.readouterr().out


def test_unknown_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unet-of-dreams; those there are: average-mask"):
        systems.main(runs=tmp_path, variants="average-mask,unet-of-dreams")
