"""The benchmark of many small images: every mask is made, and its stages add up to the process."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import many_small
from benchmarks.many_small import STAGES, Seen, lines_of, make_images, measure, one_network
from models.image_file import decode


def test_a_process_makes_every_mask_and_its_stages_add_up(ellipses: Path, tmp_path: Path) -> None:
    sources = sorted((ellipses / "train").iterdir())[:2]
    make_images(tmp_path / "images", 5, (70, 51), sources)
    files = sorted((tmp_path / "images").iterdir())
    assert len({path.read_bytes() for path in files}) == 5
    assert {decode(path).shape for path in files} == {(70, 51, 3)}
    assert one_network(tmp_path / "runs") == (320, 512)
    seen = measure(tmp_path / "images", tmp_path / "runs", "torch", 1)
    assert set(seen.stages_s) == set(seen.stages_cpu_s) == set(STAGES)
    assert all(seconds > 0 for seconds in (*seen.stages_s.values(), *seen.stages_cpu_s.values()))
    # what is not of a stage is the end of the process, and its start until its first clock
    assert sum(seen.stages_cpu_s.values()) <= seen.cpu_s + 0.1
    assert seen.stages_s["imports"] < seen.wall_s


def test_a_row_holds_medians_of_processes() -> None:
    def seen(seconds: float) -> Seen:
        return Seen(seconds, 2 * seconds, dict.fromkeys(STAGES, seconds / 5), dict.fromkeys(STAGES, seconds / 4))

    row, stages = lines_of("torch", 2, [seen(10), seen(30), seen(20)], 250)
    assert " ".join(row.split()) == "torch 2 cores 20.00 s (40.00 s of CPU) 80.0 ms an image"
    assert "decode 4.00 (5.00)" in stages


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--count"):
        many_small.main(count=0)
    with pytest.raises(SystemExit, match=r"holds no \.jpg"):
        many_small.main(images=tmp_path)
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "no image.npy", np.zeros(3))
    with pytest.raises(Exception, match="made 0 masks"):
        many_small.measure(tmp_path / "images", tmp_path / "runs", "torch", 1)
