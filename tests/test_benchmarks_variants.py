"""The benchmark of every variant's first epoch: what it measures, and that it does only what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import variants
from benchmarks.variants import Epoch, different_groups, main, plan_epoch, read_ledger, train_epoch
from competition import COMPETITIONS
from folds.images import find_training_set
from models.variants import VARIANTS
from tests.tiny_folds import TINY


def test_one_epoch_lowers_the_loss_of_a_network_that_can_learn(ellipses: Path) -> None:
    training = find_training_set(COMPETITIONS["carvana"], ellipses)
    names = different_groups(training, 7)
    groups = [training.competition.group(name) for name in names]
    # six cars, each once before any comes again
    assert len(set(groups[:6])) == 6
    assert len(set(names)) == 7
    quick = replace(TINY, recipe="demo")
    seen = train_epoch(quick, training, names, batch=2, threads=1)
    assert (seen.images, seen.batch, seen.steps) == (6, 2, 3)
    assert seen.fell
    assert seen.last_loss < seen.first_loss < 3
    assert seen.images_per_s == pytest.approx(2 / seen.step_s)
    assert seen.peak_bytes > 2**20
    assert seen.parameters > 0
    # the weights are what the seed makes them, and the loss is of the same images
    assert train_epoch(quick, training, names, batch=2, threads=1).first_loss == seen.first_loss


def test_what_the_ledger_has_is_not_done_again(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {name: VARIANTS[name] for name in ("average-mask", "a-cnn-128", "a-unet-128")}
    monkeypatch.setattr("models.variants.VARIANTS", small)
    asked: list[str] = []

    def measure(variant, training, names, batch, threads) -> Epoch:
        asked.append(variant.name)
        fault = "no memory" if variant.name == "a-unet-128" else ""
        planned = plan_epoch(variant, len(names), batch, threads)
        return replace(planned, steps=2, first_loss=1.0, last_loss=0.5, fell=True, fault=fault)

    monkeypatch.setattr(variants, "measure", measure)
    ledger = tmp_path / "ledger.jsonl"
    flags: dict[str, Any] = {"competition": "carvana", "data": ellipses, "images": 4, "batch": 2, "ledger": ledger}
    main(**flags)
    # what is fitted in one pass has no epoch
    assert asked == ["a-cnn-128", "a-unet-128"]
    with ledger.open("a") as file:
        file.write(json.dumps({"variant": "cut off"})[:-3])
    main(**flags)
    assert asked == ["a-cnn-128", "a-unet-128", "a-unet-128"]
    assert "the loss fell for" in capsys.readouterr().out
    assert len(read_ledger(ledger)) == 2
    # what was measured otherwise does not stand in for it
    main(**flags, threads=7)
    assert asked[3:] == ["a-cnn-128", "a-unet-128"]
    with pytest.raises(SystemExit, match="--batch 4 does"):
        main(**{**flags, "batch": 5})
