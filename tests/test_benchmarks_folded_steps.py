"""The benchmark of folded U-Nets' steps takes those networks alone, and says what it held against what."""

import pytest
import torch

from benchmarks.folded_steps import main


def test_it_prints_both_ways_and_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    main(variant="folded-unet-small-128", batch=1, rounds=1, threads=torch.get_num_threads())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("folded-unet-small-128, batches of 1, bf16, ")
    assert [" ms a step" in line for line in lines[1:3]] == [True, True]


def test_another_network_and_no_rounds_are_refused() -> None:
    with pytest.raises(SystemExit, match="a-unet-128 is no folded U-Net"):
        main(variant="a-unet-128")
    with pytest.raises(SystemExit, match="--rounds 0 is out of range: give 1"):
        main(rounds=0)
