"""The benchmark of windows holds a windowed network against the one within it, on real files."""

from pathlib import Path

import pytest

from benchmarks.windows import main


def test_it_prints_steps_and_predictions(ellipses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(competition="studio", data=ellipses, batch=1, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("windowed-unet-full, studio, bf16, 1 thread; ")
    assert 0 < float(lines[1].split()[2]) <= 1
    assert [line.split()[0:2] for line in lines[2:]] == [["a", "step"], ["a", "prediction"]]


def test_another_network_and_no_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="a-unet-128 has no windows"):
        main(variant="a-unet-128", data=tmp_path)
    with pytest.raises(SystemExit, match="--rounds 0 is out of range: give 1"):
        main(rounds=0, data=tmp_path)
