"""Values of flags that no program can mean: one sentence at once, before anything is read."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import folds.augment
import folds.offer
import folds.train
import studio.render
import submit.make
from command_line import SEEDS, Range, UserError, check_seed, ranges_of
from folds.split import parse_folds
from folds.workers import check_address
from tests.test_documents import programs


def _main(program: str) -> Callable[..., None]:
    """What a program runs."""
    found: Callable[..., None] | None = getattr(importlib.import_module(program), "main", None)
    # a package's program is what its __main__ runs
    return found or importlib.import_module(f"{program}.write").main


def _parts(hint: Any) -> Iterator[Any]:
    """A type and all that it is made of; the values of a literal are none."""
    yield hint
    if get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from _parts(part)


def _numbers(program: str) -> dict[str, Any]:
    """The options of a program that are numbers, or tuples of them, with their types."""
    hints = get_type_hints(_main(program), include_extras=True)
    return {
        name: hint for name, hint in hints.items() if {int, float} & {p for p in _parts(hint) if isinstance(p, type)}
    }


def _impossible(each: Range, hint: Any) -> list[Any]:
    """Numbers that an option of that range and type cannot mean."""
    found: list[Any] = [each.low - 1, each.high + 1, -(10**30), 10**30, *([] if each.but is None else [each.but])]
    if float in _parts(hint):
        found += [float("nan"), float("inf"), float("-inf")]
    return [(number, number) for number in found] if any(get_origin(part) is tuple for part in _parts(hint)) else found


@pytest.mark.parametrize("program", programs())
def test_every_number_has_a_range_and_none_beyond_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.chdir(tmp_path)
    main = _main(program)
    numbers = _numbers(program)
    for name, hint in numbers.items():
        ranges = list(ranges_of(hint))
        assert len(ranges) == 1, f"{program} declares no range for --{name.replace('_', '-')}"
        for value in _impossible(ranges[0], hint):
            # what it needs besides is of no account: it gets no further
            needed: dict[str, Any] = {word: Path("none") for word in ("out", "images", "file", "truth", "data", "runs")}
            taken = get_type_hints(main)
            needed = {word: path for word, path in needed.items() if word in taken and word not in numbers}
            for word in ("variant", "name", "show", "function", "measure", "scheduler"):
                needed |= {word: "none"} if word in taken else {}
            with pytest.raises(SystemExit) as end:
                main(**{**needed, name: value})
            number = value[0] if isinstance(value, tuple) else value
            said = str(end.value)
            assert said.startswith(f"error: --{name.replace('_', '-')} {number} is out of range: give ")
            assert "\n" not in said and said.endswith(".")
    assert list(tmp_path.iterdir()) == []


def test_every_default_is_in_its_range() -> None:
    for program in programs():
        signature = inspect.signature(_main(program))
        for name, hint in _numbers(program).items():
            default = signature.parameters[name].default
            if default is not inspect.Parameter.empty:
                for each in ranges_of(hint):
                    each.check(default, f"{program} --{name}")


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
