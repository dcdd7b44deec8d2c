from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from competition import COMPETITIONS
from predict.predictor import DECODERS
from submit import cost, plan
from tests.synthetic_runs import AVERAGE, UNET, save_blend, save_member, write_photograph

STUDIO = COMPETITIONS["studio"]


def make(devices: int) -> cost.Plan:
    members = (
        cost.MemberCost("a", 10, decode_s=0.008, forward_s=0.1, end_to_end_s=0.11, disk_bytes=20_000),
        cost.MemberCost("b", 5, decode_s=0.008, forward_s=0.05, end_to_end_s=0.06, disk_bytes=10_000),
    )
    return cost.Plan(1000, members, 0.01, 9_000, devices, 10**9)


def test_the_arithmetic() -> None:
    cpu, gpu = make(0), make(1)
    assert cpu.seconds() == pytest.approx(1000 * (0.11 + 0.06 + 0.01))
    assert cpu.seconds(4) == pytest.approx(cpu.seconds() / 4)
    assert gpu.seconds(1) == pytest.approx(gpu.seconds())
    assert gpu.seconds(2) == pytest.approx(1000 * (0.06 + 0.035 + 0.01))
    # what is not forward pass stays, however many GPUs there are
    assert gpu.seconds(10**6) >= 1000 * (2 * 0.008 / DECODERS + 0.01)
    assert cpu.disk_bytes == 1000 * (30_000 + 18_000)


def test_lines_warn_of_a_small_disk() -> None:
    text = "\n".join(cost.plan_lines(make(0), 10**12, [2]))
    assert "by arithmetic, 2 machines like this one: 2 min" in text
    assert "GPUs" not in text
    assert "all images: 2 min, 20.0 MB stored" in text
    assert "48.0 MB of disk (1000.0 GB free), 1.0 GB of memory" in text
    assert "which keeps no logits: 18.0 MB of disk" in text
    assert "too small" not in text
    assert "by arithmetic, 2 GPUs in this machine: " in "\n".join(cost.plan_lines(make(1), 10**12, [2]))
    assert "too small" in "\n".join(cost.plan_lines(make(1), 10**6, [2]))


def test_a_few_images_are_timed_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # not that of the machine which runs the test
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**15))
    root = tmp_path / "runs" / "studio"
    for k in range(6):
        write_photograph(tmp_path / "data" / "test" / f"00000000000a_{k:02}.jpg", *STUDIO.size, seed=k)
    save_blend(root, [save_member(root, AVERAGE), save_member(root, UNET)], [0.5, 0.5])
    before = sorted(tmp_path.rglob("*"))
    where: dict[str, Any] = {"competition": "studio", "data": tmp_path / "data", "runs": tmp_path / "runs", "sample": 3}
    plan.main(**where, images_count=100_064, gpus=(3,))
    printed = capsys.readouterr().out
    assert "100064 images" in printed
    assert "tiny-unet: 4 forward passes an image" in printed
    assert "tiny-average: 2 forward passes an image" in printed
    assert "3 machines like this one" in printed.splitlines()[-1]
    plan.main(**where, variants="tiny-unet", folds=1, tta="none")
    printed = capsys.readouterr().out
    assert "6 images" in printed
    assert "tiny-unet: 1 forward pass an image" in printed
    assert sorted(tmp_path.rglob("*")) == before
    for options, sentence in (
        ({"tta": "spin"}, "unknown test-time"),
        ({"variants": "x"}, "has no trained fold"),
        ({"images": tmp_path / "none"}, "none is missing"),
        ({"gpus": (0,)}, "--gpus 0 is out of range"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            plan.main(**{**where, **options})
