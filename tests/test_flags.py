"""Values of flags that no program can mean: one sentence at once, before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import folds.augment
import folds.offer
import folds.train
import studio.render
import submit.make
from command_line import SEEDS, UserError, check_seed
from folds.split import parse_folds
from folds.workers import check_address


@pytest.mark.parametrize("seed", [-1, SEEDS, 10**30])
@pytest.mark.parametrize(
    "call",
    [
        lambda seed, folder: folds.train.main(variant="average-mask", seed=seed, data=folder, runs=folder),
        lambda seed, folder: folds.train.main(variant="average-mask", split_seed=seed, data=folder, runs=folder),
        lambda seed, folder: folds.augment.main("strong", seed=seed, data=folder, out=folder / "x.png"),
        lambda seed, folder: studio.render.main(out=folder, seed=seed),
    ],
    ids=["train", "split", "augment", "render"],
)
def test_a_seed_that_no_generator_takes(tmp_path: Path, call: Callable[[int, Path], None], seed: int) -> None:
    with pytest.raises(SystemExit, match=rf"seed {seed} is out of range: give 0 \.\. {SEEDS - 1}"):
        call(seed, tmp_path)
    assert list(tmp_path.iterdir()) == []
    # what the message says to give
    assert check_seed(0) == 0 and check_seed(SEEDS - 1) == SEEDS - 1


@pytest.mark.parametrize(
    "text",
    ["0..9999999999", "5", "3..5", "4..0", "9" * 18, "9" * 5000, "-1", "", ",", "0,,1", "a", "0..", "..4", "1.5", "²"],
)
def test_folds_that_no_split_has(text: str) -> None:
    with pytest.raises(UserError, match=r"the split has folds 0\.\.4|give one \(F=0\), some \(F=0,2\), a range"):
        parse_folds(text, 5)


ADDRESSES = ["foo bar", "tcp://foo bar:1", "tcp://x", "tcp://x:99999", "tcp://x:0", "http://x:1", "ucx://x:1", "a\nb:1"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "call",
    [
        lambda address, folder: folds.train.main(variant="average-mask", cluster=address, data=folder, runs=folder),
        lambda address, folder: submit.make.main(cluster=address, data=folder, runs=folder),
        lambda address, folder: folds.offer.main(scheduler=address),
    ],
    ids=["train", "submission", "worker"],
)
def test_an_address_that_is_none(tmp_path: Path, call: Callable[[str, Path], None], address: str) -> None:
    with pytest.raises(SystemExit, match=r"is no address of a dask scheduler: give one as tcp://host:8786"):
        call(address, tmp_path)
    for good in ("tcp://host:8786", "tls://10.0.0.1:1", "host.example:8786", "tcp://[::1]:8786"):
        check_address(good)
