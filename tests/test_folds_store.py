import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import atomic
from command_line import UserError
from folds.logit_code import DTYPE, KNEE, LIMIT, SCALE, dequantise, quantise, rounded
from folds.store import LogitStore
from models.variant import Head
from models.variants import VARIANTS
from tests import naive

NAMES = [f"{i}.jpg" for i in range(6)]
SHAPE = (2, 12, 20)


def make(path: Path, **attributes: object) -> LogitStore:
    return LogitStore.create(path / "oof.zarr", NAMES, SHAPE, **{"variant": "v", **attributes})


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 5, SHAPE).astype(np.float32)


@given(arrays(np.float32, 50, elements=st.floats(-1e4, 1e4, width=32)))
def test_the_code_keeps_its_error_bound_and_the_sign(x: np.ndarray) -> None:
    back = dequantise(quantise(x))
    clipped = np.clip(x, -LIMIT, LIMIT)
    # half a step; the step is sqrt(KNEE^2 + x^2) / SCALE, taken a little wide for its own curvature
    assert (np.abs(back - clipped) <= 0.505 * np.sqrt(KNEE**2 + clipped**2) / SCALE + 1e-6).all()
    decided = np.abs(x) > 0.51 * KNEE / SCALE
    assert (np.sign(back)[decided] == np.sign(x)[decided]).all()


@pytest.mark.parametrize("shape", [(0, 5), (7,), (3, 5, 1), (41, 803), (2, 181, 257)])
def test_what_is_rounded_is_what_a_store_gives_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    logits = (np.random.default_rng(0).normal(size=shape) * 12).astype(np.float32)
    kept = rounded(logits)
    np.testing.assert_array_equal(kept, dequantise(quantise(logits)))
    # once more changes nothing
    np.testing.assert_array_equal(rounded(kept), kept)
    # and parts of it are the same alone
    np.testing.assert_array_equal(rounded(logits[..., ::2]), kept[..., ::2])
    if len(shape) == 3:
        store = LogitStore.create(tmp_path / "a.zarr", ["x"], shape)
        store.write("x", logits)
        np.testing.assert_array_equal(store.read("x"), kept)


def test_what_is_written_is_read_back_by_us_and_by_plain_zarr(tmp_path: Path) -> None:
    store = make(tmp_path)
    for i, name in enumerate(NAMES):
        store.write(name, logits(i))
    assert store.missing() == []
    for i, name in enumerate(NAMES):
        np.testing.assert_allclose(store.read(name), naive.stored(logits(i))[1], rtol=1e-6)
    array = zarr.open_array(store.path, mode="r")
    facts: dict[str, Any] = dict(array.attrs)
    codes = np.asarray(array[facts["names"].index("3.jpg")])
    plain = facts["knee"] * np.sinh(codes / facts["scale"])
    np.testing.assert_allclose(plain, store.read("3.jpg"), atol=1e-5)


def test_a_store_is_read_and_continued_with_the_code_it_was_made_with(tmp_path: Path) -> None:
    store = make(tmp_path)
    array = zarr.open_array(store.path, mode="r+")
    facts = dict(array.attrs)
    # the digest of these facts, which older stores do not have
    del facts["attributes_digest"]
    array.attrs.put({**facts, "knee": 0.5, "scale": 128})
    again = make(tmp_path)
    again.write("0.jpg", logits(0))
    np.testing.assert_allclose(again.read("0.jpg"), naive.stored(logits(0), knee=0.5, scale=128)[1], rtol=1e-6)
    assert not np.allclose(again.read("0.jpg"), naive.stored(logits(0))[1], rtol=1e-3)


def test_the_bytes_are_those_that_zarr_writes(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("2.jpg", logits(2))
    chunk = store.path / "c.2.0.0.0"
    ours = chunk.read_bytes()
    chunk.unlink()
    zarr.open_array(store.path, mode="r+")[2] = naive.stored(logits(2))[0].astype(DTYPE)
    assert chunk.read_bytes() == ours
    assert [path.name for path in store.path.glob("c.*")] == ["c.2.0.0.0"]


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from folds.store import LogitStore
from models.variant import Head
from models.variants import VARIANTS
Path.replace = lambda self, other: os.kill(os.getpid(), 9)
LogitStore.open(Path(sys.argv[1])).write("1.jpg", np.zeros((2, 12, 20), np.float32))
"""


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("0.jpg", logits(0))
    subprocess.run([sys.executable, "-c", KILLED, str(store.path)], cwd=Path(__file__).parent.parent, check=False)
    (left,) = store.path.glob(".tmp-*")
    living = atomic.temporary_beside(store.path / "c.2.0.0.0")
    living.touch()
    # workers only open; the main process creates
    LogitStore.open(store.path)
    assert left.exists()
    assert make(tmp_path).missing() == NAMES[1:]
    assert list(store.path.glob(".tmp-*")) == [living]


def test_constant_logits_are_written_too(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("0.jpg", np.zeros(SHAPE, np.float32))
    assert store.missing() == NAMES[1:]
    assert not store.read("0.jpg").any()


def test_damaged_chunks_are_noticed_and_count_as_missing(tmp_path: Path) -> None:
    store = make(tmp_path)
    for i, name in enumerate(NAMES):
        store.write(name, logits(i))
    flipped, torn, empty = (store.path / f"c.{i}.0.0.0" for i in (1, 3, 4))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    torn.write_bytes(torn.read_bytes()[:40])
    empty.write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.jpg .* damaged"):
        store.read("1.jpg")
    assert store.verify() == ["1.jpg", "3.jpg", "4.jpg"]
    assert store.missing() == ["1.jpg", "3.jpg", "4.jpg"]
    assert store.verify() == []


def test_it_opens_again_for_the_same_and_refuses_other_uses(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("0.jpg", logits(0))
    assert make(tmp_path).missing() == NAMES[1:]
    assert pickle.loads(pickle.dumps(store)).missing() == NAMES[1:]
    with pytest.raises(UserError, match="other variant"):
        make(tmp_path, variant="w")
    with pytest.raises(UserError, match="other image names"):
        LogitStore.create(store.path, NAMES[:-1], SHAPE, variant="v")
    with pytest.raises(UserError, match="is not there"):
        LogitStore.open(tmp_path / "none.zarr")
    (store.path / "zarr.json").write_text("{")
    with pytest.raises(UserError, match=r"zarr\.json is damaged"):
        LogitStore.open(store.path)
    with pytest.raises(UserError, match="twice"):
        LogitStore.create(tmp_path / "b.zarr", ["a", "a"], SHAPE)


def test_bad_logits_and_names_are_refused(tmp_path: Path) -> None:
    store = make(tmp_path)
    broken = logits(0)
    broken[0, 3, 4] = np.nan
    with pytest.raises(UserError, match=r"0\.jpg hold NaN"):
        store.write("0.jpg", broken)
    with pytest.raises(UserError, match="no place"):
        store.write("x.jpg", logits(0))
    with pytest.raises(ValueError, match="shape"):
        store.write("0.jpg", logits(0)[0])
    with pytest.raises(UserError, match="are not in"):
        store.read("0.jpg")
    assert store.missing() == NAMES


def test_of_two_that_make_the_same_store_at_once_the_first_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = zarr.create_array
    first: list[None] = []

    def overtaken(*arguments: Any, **keywords: Any) -> zarr.Array:
        if not first:
            first.append(None)
            # the other process looks, makes its store and writes, all between our look and our making
            make(tmp_path).write(NAMES[0], logits(0))
        return create(*arguments, **keywords)

    monkeypatch.setattr(zarr, "create_array", overtaken)
    store = make(tmp_path)
    assert store.missing() == NAMES[1:]
    assert [path.name for path in tmp_path.iterdir()] == ["oof.zarr"]


def test_heads_are_read_by_name(tmp_path: Path) -> None:
    variant = replace(VARIANTS["unet-resnet18"], heads=(Head("normals", 3), Head("mask"), Head("depth")))
    logits = np.random.default_rng(0).normal(size=(5, 7, 9)).astype(np.float32)
    store = LogitStore.create(tmp_path / "oof.zarr", ["a.jpg"], (5, 7, 9), **variant.head_attributes())
    store.write("a.jpg", logits)
    back = LogitStore.open(store.path)
    for head in ("normals", "mask", "depth"):
        planes = back.read("a.jpg")[variant.planes_of(head)]
        np.testing.assert_array_equal(back.head("a.jpg", head), planes if head == "normals" else planes[0])
    assert back.head("a.jpg").shape == (7, 9)
    with pytest.raises(UserError, match="holds no head 'make', but normals, mask, depth"):
        back.head("a.jpg", "make")
    with pytest.raises(UserError, match="has no head 'make'; its heads: normals, mask, depth"):
        variant.planes_of("make")


def test_stores_from_before_heads_were_named_hold_a_mask(tmp_path: Path) -> None:
    store = LogitStore.create(tmp_path / "oof.zarr", ["a.jpg"], (1, 7, 9))
    store.write("a.jpg", np.ones((1, 7, 9), np.float32))
    np.testing.assert_array_equal(store.head("a.jpg"), store.read("a.jpg")[0])
