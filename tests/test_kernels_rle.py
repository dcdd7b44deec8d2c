import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from competition import COMPETITIONS, Order
from kernels.rle import decode, encode, encode_logits_text, encode_text, format_runs, parse
from tests import naive

ORDERS: tuple[Order, ...] = ("row", "column")
# sizes of the pieces that the scan goes by, and their neighbours
EDGES_OF_BLOCKS = (7, 8, 9, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025)

sizes = st.tuples(st.integers(1, 40), st.integers(1, 70))
# long runs and isolated pixels both: noise alone has no run that spans a block
masks = st.one_of(
    hnp.arrays(bool, sizes),
    st.tuples(sizes, st.lists(st.integers(0, 2800), max_size=8)).map(lambda c: from_flips(*c)),
)
orders = st.sampled_from(ORDERS)


def from_flips(size: tuple[int, int], flips: list[int]) -> np.ndarray:
    """A mask that changes at each of the given pixel numbers."""
    flat = np.zeros(size[0] * size[1], bool)
    for at in flips:
        flat[at:] ^= True
    return flat.reshape(size)


@given(masks, orders)
def test_decode_undoes_encode(mask: np.ndarray, order: Order) -> None:
    back = decode(encode(mask, order=order), mask.shape, order=order)
    assert back.dtype == bool
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, mask)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 4).map(lambda n: 8 * n), st.integers(1, 40))))
def test_columns_of_a_height_of_eights(mask: np.ndarray) -> None:
    # these are turned by a loop of their own
    expected = naive.text(naive.encode(mask, "column"))
    assert encode_text(mask, order="column") == expected
    for dtype in (np.float16, np.float32, np.int16):
        assert encode_logits_text(np.where(mask, dtype(1), dtype(-1)), order="column") == expected


@given(masks, orders)
def test_encode_and_text_agree_with_the_obvious_loop(mask: np.ndarray, order: Order) -> None:
    expected = naive.encode(mask, order)
    assert encode(mask, order=order).tolist() == expected
    assert encode(mask.astype(np.uint8), order=order).tolist() == expected
    assert encode_text(mask, order=order) == naive.text(expected)
    np.testing.assert_array_equal(naive.decode(expected, mask.shape, order), mask)


@given(masks)
def test_text_is_read_back(mask: np.ndarray) -> None:
    text = encode_text(mask)
    runs = parse(text, size=mask.shape)
    assert runs.dtype == np.int64
    np.testing.assert_array_equal(runs, encode(mask))
    np.testing.assert_array_equal(parse(text.decode()), runs)
    assert format_runs(runs) == text


@given(masks)
def test_column_order_agrees_with_pycocotools(mask: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(decode(encode(mask, order="column"), mask.shape, order="column"), coco.decode(theirs))
    assert encode(mask, order="column")[:, 1].sum() == coco.area(theirs)
    # the transposed mask in row order is the same list of pixels
    np.testing.assert_array_equal(encode(mask, order="column"), encode(np.ascontiguousarray(mask.T)))


@given(masks, orders)
def test_memory_layout_changes_nothing_and_input_is_left_alone(mask: np.ndarray, order: Order) -> None:
    expected = encode(mask, order=order)
    spread = np.zeros((2 * mask.shape[0], 3 * mask.shape[1]), bool)
    spread[::2, ::3] = mask
    frozen = mask.copy()
    frozen.flags.writeable = False
    # a view that begins at an odd address
    shifted = np.concatenate([[True], mask.ravel()])[1:].reshape(mask.shape)
    for layout in (spread[::2, ::3], np.asfortranarray(mask), frozen, mask[::-1, ::-1][::-1, ::-1], shifted):
        before = layout.copy()
        np.testing.assert_array_equal(encode(layout, order=order), expected)
        assert encode_text(layout, order=order) == format_runs(expected)
        logits = layout.astype(np.float32) - 0.5
        assert encode_logits_text(logits, order=order) == format_runs(expected)
        np.testing.assert_array_equal(layout, before)


def extremes(height: int, width: int) -> dict[str, np.ndarray]:
    """Masks at which run-length encoders of the usual kind go wrong."""
    empty = np.zeros((height, width), bool)
    found = {"empty": empty, "full": ~empty, "chequerboard": np.indices((height, width)).sum(axis=0) % 2 == 0}
    found["chequerboard inverted"] = ~found["chequerboard"]
    for y in (0, height - 1):
        for x in (0, width - 1):
            found[f"corner {y} {x}"] = empty.copy()
            found[f"corner {y} {x}"][y, x] = True
            found[f"all but corner {y} {x}"] = ~found[f"corner {y} {x}"]
    wraps = empty.copy()
    wraps[:, -1] = wraps[:, 0] = True
    found["runs that wrap from row to row"] = wraps
    found["whole rows"] = empty.copy()
    found["whole rows"][::2] = True
    return found


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (2, 2), (13, 64), (8, 1), (8, 65), (16, 129)])
@pytest.mark.parametrize("order", ORDERS)
def test_extremes(size: tuple[int, int], order: Order) -> None:
    for what, mask in extremes(*size).items():
        expected = naive.encode(mask, order)
        assert encode(mask, order=order).tolist() == expected, what
        assert encode_text(mask, order=order) == naive.text(expected), what
        np.testing.assert_array_equal(decode(np.array(expected).reshape(-1, 2), size, order=order), mask, what)


def test_a_run_wraps_the_end_of_a_row_as_one() -> None:
    mask = np.array([[0, 0, 1], [1, 1, 0]], bool)
    assert encode_text(mask) == b"3 3"
    assert encode_text(np.ones((1280, 1918), bool)) == b"1 2455040"
    assert encode_text(np.zeros((1280, 1918), bool)) == b""


def test_changes_at_and_beside_every_block_boundary() -> None:
    for length in (*EDGES_OF_BLOCKS, 1537):
        for start in (0, 1, *EDGES_OF_BLOCKS):
            for end in (start + 1, start + 2, *EDGES_OF_BLOCKS, length):
                if start < end <= length:
                    flat = np.zeros((1, length), np.uint8)
                    flat[0, start:end] = 1
                    text = b"%d %d" % (start + 1, end - start)
                    assert encode_text(flat) == text
                    assert encode_logits_text(flat.astype(np.float32)) == text
                    assert encode_logits_text(flat.astype(np.float16)) == text
                    holes = naive.text(naive.encode(1 - flat))
                    assert encode_text(1 - flat) == holes


def test_more_runs_than_any_first_guess() -> None:
    mask = np.zeros((300, 401), bool)
    mask.ravel()[::2] = True
    expected = " ".join(f"{n} 1" for n in range(1, mask.size + 1, 2)).encode()
    assert encode_text(mask) == expected
    assert encode_logits_text(mask.astype(np.float32)) == expected
    assert encode_logits_text(mask.astype(np.float16)) == expected
    np.testing.assert_array_equal(decode(parse(expected), mask.shape), mask)


@pytest.mark.parametrize("digits", range(1, 8))
def test_numbers_around_every_power_of_ten(digits: int) -> None:
    power = 10**digits
    for start in (power - 1, power, power + 1):
        for length in (1, power - 1, power, power + 1):
            runs = np.array([[start, length]])
            assert format_runs(runs) == b"%d %d" % (start, length)
            np.testing.assert_array_equal(parse(format_runs(runs)), runs)
            if digits < 6:
                flat = np.zeros((1, start + length), bool)
                flat[0, start - 1 : start - 1 + length] = True
                assert encode_text(flat) == format_runs(runs)


def test_numbers_beyond_32_bits() -> None:
    runs = np.array([[1, 2**32 - 1], [2**32 + 1, 2**33], [10**15, 10**16]])
    assert format_runs(runs) == naive.text(runs.tolist())
    np.testing.assert_array_equal(parse(format_runs(runs)), runs)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1", "odd number"),
        ("1 2 9", "odd number"),
        ("1 x", "character 3"),
        ("1,2", "character 2"),
        ("1 2.0", "character 4"),
        ("-1 2", "character 1"),
        ("1 -2", "character 3"),
        ("1 2\n", "character 4"),
        ("1\t2", "character 2"),
        ("٣ 2", "character 1"),
        ("0 3", "below pixel 1"),
        ("3 0", "at least 1"),
        ("5 3 1 2", "run 2 .* does not start after"),
        ("5 3 5 1", "run 2 .* does not start after"),
        ("5 3 7 1", "run 2 .* overlaps"),
        ("1 1 3 1 5 4 6 1", "run 4 .* overlaps"),
        ("11 3", "past the last pixel, 12"),
        ("13 1", "past the last pixel, 12"),
        ("1 2 12 2", "past the last pixel, 12"),
        ("1 99999999999999999999", "more digits"),
        ("9223372036854775807 1", "more digits"),
    ],
)
def test_parse_refuses(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse(text, size=(3, 4))
    with pytest.raises(ValueError, match=what):
        parse(text.encode(), size=(3, 4))


def test_parse_accepts() -> None:
    assert parse("").shape == (0, 2)
    assert parse("  ").shape == (0, 2)
    assert parse(" 1  2   12 1 ", size=(3, 4)).tolist() == [[1, 2], [12, 1]]
    assert parse("1 2 3 4", size=(3, 4)).tolist() == [[1, 2], [3, 4]], "runs may touch"
    assert parse("13 1").tolist() == [[13, 1]], "without a size there is no end"
    assert format_runs(np.empty((0, 2), np.int64)) == b""


def test_bad_arguments_are_refused() -> None:
    two = np.zeros((2, 2), bool)
    with pytest.raises(ValueError, match="2-D"):
        encode(np.zeros(4, bool))
    with pytest.raises(ValueError, match="2-D"):
        encode_logits_text(np.zeros((1, 2, 2), np.float32))
    with pytest.raises(ValueError, match="bool"):
        encode(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="floats or integers"):
        encode_logits_text(two)
    unknown: Any = "diagonal"
    with pytest.raises(ValueError, match="diagonal"):
        encode(two, order=unknown)
    with pytest.raises(ValueError, match="diagonal"):
        decode(np.array([[1, 1]]), (2, 2), order=unknown)
    with pytest.raises(ValueError, match="shape"):
        decode(np.array([1, 1]), (2, 2))
    with pytest.raises(ValueError, match="past the last pixel"):
        decode(np.array([[4, 2]]), (2, 2))
    with pytest.raises(ValueError, match="shape"):
        format_runs(np.array([[1, 1, 1]]))
    with pytest.raises(ValueError, match="whole numbers"):
        decode(np.array([[1.5, 2.0]]), (2, 2))
    # their ends, taken modulo 2^64, lie before their starts
    for start, length in ((1, 2**63 - 1), (2**62, 2**62)):
        with pytest.raises(ValueError, match="beyond 64 bits"):
            decode(np.array([[start, length]]), (2, 2))


@pytest.mark.parametrize("value", [2, 3, 128, 254, 255])
@pytest.mark.parametrize("place", [0, 1, 63, 64, 511, 512, 700, 1199])
@pytest.mark.parametrize("ground", [0, 1])
def test_a_mask_of_other_values_is_refused(value: int, place: int, ground: int) -> None:
    mask = np.full((3, 400), ground, np.uint8)
    mask.ravel()[place] = value
    for function in (encode, encode_text):
        for order in ORDERS:
            for bad in (mask, np.tile(mask, (8, 1))):
                with pytest.raises(ValueError, match="0 and 1 only"):
                    function(bad, order=order)
    mask[:] = value
    with pytest.raises(ValueError, match="0 and 1 only"):
        encode(mask)


def test_the_convention_of_a_real_row() -> None:
    size = COMPETITIONS["carvana"].size
    text = b"879386 40 881253 141 883140 205 885009 17"
    runs = parse(text, size=size)
    assert runs.tolist() == [[879386, 40], [881253, 141], [883140, 205], [885009, 17]]
    mask = decode(runs, size)
    # row-major, 1-based: the run's first pixel, counted by hand
    assert mask[(879386 - 1) // 1918, (879386 - 1) % 1918]
    assert not mask[(879386 - 2) // 1918, (879386 - 2) % 1918]
    assert mask.sum() == 40 + 141 + 205 + 17
    assert encode_text(mask) == format_runs(runs) == text


def test_real_masks() -> None:
    if "CARVANA_DATA" not in os.environ:
        pytest.skip("CARVANA_DATA does not name a folder with Carvana's train_masks")
    from folds.images import read_mask

    size = COMPETITIONS["carvana"].size
    known = Path(os.environ["CARVANA_DATA"]) / "train_masks" / "00087a6bd4dc_01_mask.gif"
    if known.exists():
        assert encode_text(read_mask(known, size)).startswith(b"879386 40 881253 141 883140 205 885009 17")
    for path in sorted(known.parent.glob("*_mask.gif"))[:8]:
        mask = read_mask(path, size)
        for order in ORDERS:
            runs = encode(mask, order=order)
            np.testing.assert_array_equal(decode(runs, size, order=order), mask)
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        np.testing.assert_array_equal(coco.decode(theirs).astype(bool), decode(encode(mask), size))
        flat = np.concatenate([[0], mask.ravel(), [0]])
        places = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        places[1::2] -= places[::2]
        assert encode_text(mask) == " ".join(map(str, places)).encode()


def handful() -> None:
    """What is run without the compiler too: every loop, both orders, once across a block."""
    for size in ((1, 1), (3, 5), (8, 9), (5, 130)):
        for mask in extremes(*size).values():
            for order in ORDERS:
                expected = naive.encode(mask, order)
                assert encode(mask, order=order).tolist() == expected
                assert encode_text(mask, order=order) == naive.text(expected)
                for dtype in (np.float16, np.float32, np.int8):
                    logits = np.where(mask, dtype(3), dtype(-2))
                    assert encode_logits_text(logits, order=order) == naive.text(expected)
                np.testing.assert_array_equal(decode(parse(naive.text(expected)), size, order=order), mask)
    for text in ("1 x", "1 99999999999999999999", "1"):
        with pytest.raises(ValueError, match=r"character|digits|odd"):
            parse(text)
    with pytest.raises(ValueError, match="0 and 1 only"):
        encode(np.full((3, 3), 7, np.uint8))


def test_the_loops_are_right_without_the_compiler() -> None:
    handful()
    code = "import numba; assert numba.config.DISABLE_JIT; from tests.test_kernels_rle import handful; handful()"
    # warnings are errors: plain numpy scalars warn where a compiled loop would silently overflow
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
