"""Labels of groups told from their images: by networks and classifiers that have not seen them, and no others."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import multi_task
from command_line import UserError
from competition import COMPETITIONS, Competition
from folds.images import find_training_set
from folds.seen import Seen
from models.build import build
from models.features import encoder_of, pooled_features
from models.variant import Variant
from models.variants import VARIANTS
from predict.members import Member
from report import group_labels
from report.label_classifier import Judged, cross_fitted
from tests.conftest import CARS
from tests.synthetic_runs import AVERAGE, UNET, save_member
from tests.test_report import check_page
from tests.test_report_explore import CARS_IN_SMALL, _small

SMALL: Variant = replace(UNET, name="tiny-labels", size=(32, 64))


def features(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Of 24 groups of 5 images, three labels, four folds: features that each fold's network turns another way."""
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"g{i:02d}" for i in range(24)], 5)
    labels = np.repeat(np.array(["a", "b", "c"])[np.arange(24) % 3], 5)
    folds = np.repeat(np.arange(24) // 3 % 4, 5)
    signal = rng.normal(size=(120, 12)).astype(np.float32)
    signal[:, :3] += 4 * np.eye(3, dtype=np.float32)[np.searchsorted(["a", "b", "c"], labels)]
    turns = [np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32) for _ in range(4)]
    return [signal @ turn for turn in turns], folds, groups, labels


def test_a_label_that_shows_is_told_and_one_that_does_not_is_not() -> None:
    own, folds, groups, labels = features()
    judged = cross_fitted(own, folds, groups, labels)
    assert judged.figure(1).share > 0.9 and judged.by_group().figure(1).share == 1.0
    np.testing.assert_allclose(judged.probabilities.sum(1), 1, rtol=1e-5)
    shuffled = np.repeat(np.random.default_rng(3).permutation(labels[::5]), 5)
    chance = cross_fitted(own, folds, groups, shuffled).figure(1)
    assert chance.share < 0.6 and chance.interval[0] <= chance.share <= chance.interval[1]


def test_nothing_of_a_held_out_group_reaches_who_judges_it() -> None:
    own, folds, groups, labels = features()
    judged = cross_fitted(own, folds, groups, labels)
    held_out = folds == 2
    # neither its labels, nor what the other folds' networks say, nor that of its own network on other held-out images
    renamed = np.where(held_out, np.roll(labels, 5), labels)
    others = [part if k == 2 else np.where(held_out[:, None], 99, part) for k, part in enumerate(own)]
    again = cross_fitted(others, folds, groups, renamed)
    np.testing.assert_array_equal(again.probabilities[held_out], judged.probabilities[held_out])
    assert (again.probabilities[~held_out] != judged.probabilities[~held_out]).any()
    # a label that no group of another fold has can never be named
    alone = np.where(groups == "g06", "z", labels)
    found = cross_fitted(own, folds, groups, alone)
    assert (found.probabilities[groups == "g06", 3] == 0).all()
    assert found.by_group().learnable == pytest.approx(23 / 24)
    assert found.by_group().figure(3).share <= 23 / 24


def test_figures_are_what_they_are_called() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(5), 40)
    frequencies = np.tile([0.1, 0.4, 0.2, 0.25, 0.05], (40, 1))
    truth, groups = rng.integers(0, 5, 10).repeat(4), np.repeat([f"g{i}" for i in range(10)], 4)
    judged = Judged(tuple("abcde"), groups, truth, probabilities, frequencies)
    for top in (1, 3):
        right = [t in sorted(range(5), key=lambda k: -p[k])[:top] for t, p in zip(truth, probabilities, strict=True)]
        assert judged.figure(top).share == np.mean(right)
        most = sorted(np.unique(truth, return_counts=True)[1], reverse=True)[:top]
        assert judged.by_frequency(top).share == pytest.approx(sum(most) / len(truth))
    whole = judged.by_group()
    for i in range(10):
        product = probabilities[4 * i : 4 * i + 4].prod(0) ** 0.25
        np.testing.assert_allclose(whole.probabilities[i], product / product.sum())
        assert whole.truth[i] == truth[4 * i]
    confusion = judged.confusion()
    assert confusion.sum() == 40 and np.trace(confusion) / 40 == judged.figure(1).share


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Member]:
    """Data, runs and a member of three folds, with what each has seen."""
    folder = tmp_path_factory.mktemp("told")
    facts, data = _small(folder)
    rows = [f"{car},{2010 + i // 2},{'Alder' if i % 2 else 'Brisk'}" for i, car in enumerate(CARS)]
    (data / "metadata.csv").write_text("id,year,make\n" + "\n".join(rows) + "\n")
    member = save_member(folder / "runs" / "small", SMALL, folds=3)
    training = find_training_set(facts, data)
    order = training.groups()
    for k, fold in enumerate(member.folds):
        mine = set(CARS[k::3])
        Seen.of(training, [i for i, group in enumerate(order) if group not in mine]).write(fold)
    return data, folder / "runs", member


def call(told: tuple[Path, Path, Member], **options: Any) -> None:
    data, runs, _ = told
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(COMPETITIONS, "small", CARS_IN_SMALL)
        group_labels.main(**{"competition": "small", "data": data, "runs": runs, "variant": SMALL.name, **options})


def test_every_group_is_judged_by_the_fold_that_has_not_seen_it(told: tuple[Path, Path, Member]) -> None:
    data, _, member = told
    training = find_training_set(CARS_IN_SMALL, data)
    found = group_labels.folds_of(training, member)
    assert found == {car: k for k in range(3) for car in CARS[k::3]}
    # those that no network has seen are dealt out; one that all have seen is refused
    for fold in member.folds:
        (fold / "seen.json").rename(fold / "kept.json")
    try:
        with pytest.raises(UserError, match="no record of what it has seen"):
            group_labels.folds_of(training, member)
        for fold in member.folds:
            Seen({}).write(fold)
        dealt = list(group_labels.folds_of(training, member).values())
        assert max(map(dealt.count, range(3))) - min(map(dealt.count, range(3))) <= 1
        for fold in member.folds:
            Seen.of(training, [0]).write(fold)
        with pytest.raises(UserError, match=f"has seen {training.groups()[0]}"):
            group_labels.folds_of(training, member)
    finally:
        for fold in member.folds:
            (fold / "kept.json").replace(fold / "seen.json")


def test_page_table_and_what_is_said(told: tuple[Path, Path, Member], capsys: pytest.CaptureFixture[str]) -> None:
    _, runs, _ = told
    call(told, images=2)
    said = capsys.readouterr().out
    assert f"make: 2 of {len(CARS)} groups, {2 * len(CARS)} images" in said
    folder = runs / "small" / "labels"
    table = pd.read_csv(folder / "guesses.csv")
    assert table.group.tolist() == sorted(CARS) and set(table.label) == {"Alder", "Brisk"}
    share = (table.label == table.guess1).mean()
    line = next(line for line in said.splitlines() if "group, first " in line and "classifier" in line)
    assert float(re.findall(r"\d\.\d{3}", line)[0]) == pytest.approx(share, abs=1e-3)
    check_page(folder / "labels.html")
    call(told, label="year", images=1)
    assert "year: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"label": "colour"}, "has no column 'colour'; known: year, make"),
        ({"label": "unlike"}, "has no column 'unlike'"),
        ({"images": -1}, "--images -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    told: tuple[Path, Path, Member], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SystemExit, match=sentence):
        call(told, **options)


def test_labels_that_no_two_groups_share_are_refused(told: tuple[Path, Path, Member]) -> None:
    data, _, _ = told
    training = find_training_set(CARS_IN_SMALL, data)
    without: Competition = replace(CARS_IN_SMALL, metadata_breakdown=None)
    with pytest.raises(UserError, match="labels groups by default"):
        group_labels.labels_of(replace(training, competition=without), "")
    (data / "alone.csv").write_text("id,own\n" + "\n".join(f"{car},{i}" for i, car in enumerate(CARS)) + "\n")
    alone = replace(CARS_IN_SMALL, metadata_file="alone.csv")
    with pytest.raises(UserError, match="no two values of own"):
        group_labels.labels_of(replace(training, competition=alone), "own")
    missing = replace(CARS_IN_SMALL, metadata_file="gone.csv")
    with pytest.raises(UserError, match=r"gone\.csv is missing"):
        group_labels.labels_of(replace(training, competition=missing), "own")


def test_features_are_means_and_deviations_of_every_stage() -> None:
    network = build(UNET, pretrained=False).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, *UNET.size, 3), np.uint8)
    encoder = encoder_of(network, "x")
    found = pooled_features(encoder, UNET, images)
    channels = sum(encoder.out_channels[1:])  # type: ignore[arg-type,index]
    assert found.shape == (2, 2 * channels) and np.isfinite(found).all()
    np.testing.assert_allclose(found[:1], pooled_features(encoder, UNET, images[:1]), rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="tiny-average has no encoder"):
        encoder_of(build(AVERAGE, pretrained=False), AVERAGE.name)


def test_the_comparison_of_heads_trains_both_from_the_same_start(
    told: tuple[Path, Path, Member], capsys: pytest.CaptureFixture[str]
) -> None:
    data, _, _ = told
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(COMPETITIONS, "small", CARS_IN_SMALL)
        patched.setitem(VARIANTS, SMALL.name, SMALL)
        patched.setattr(multi_task, "_BATCH", 4)
        call_it = {"competition": "small", "data": data, "variant": SMALL.name, "height": 32, "width": 64}
        multi_task.main(**call_it, images=2, epochs=1, seeds=1)  # type: ignore[arg-type]
        said = capsys.readouterr().out
        assert "mask alone" in said and "mask and label" in said and "mean of 1" in said
        multi_task.main(**call_it, images=2, epochs=1, seeds=1, weight=0.0)  # type: ignore[arg-type]
        assert "mean of 1: +0.00000 (+0.00000..+0.00000)" in capsys.readouterr().out
