"""`python -m benchmarks.rle [--masks FOLDER]`: run-length encoding and decoding against peers, in alternation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

from benchmarks import rle_peers as peers
from benchmarks.alternation import Contender, medians_s, print_table
from benchmarks.mask_pool import load_masks, logits_of
from command_line import program
from kernels.rle import decode, encode, encode_logits_text, encode_text, parse
from program_flags import Positive

READ = Contender("read every byte once (sum of 64-bit words)", peers.read)


def by_columns(mask: np.ndarray) -> bytes:
    """Our text in column order."""
    return encode_text(mask, order="column")


def verify(masks: list[np.ndarray]) -> None:
    """Every encoder gives the same text (none of the masks touches a corner, where one peer is wrong)."""
    for mask in masks[:8]:
        text = encode_text(mask)
        ours_by_columns = by_columns(mask)
        for found, expected in (
            (peers.diff_and_join(mask), text),
            (peers.strided_diff(mask), text),
            (peers.numba_by_pixel(mask), text),
            (peers.text_of_counts(peers.pycocotools_rows(mask)), text),
            (peers.text_of_counts(peers.pycocotools_columns(mask)), ours_by_columns),
        ):
            if found != expected:
                raise AssertionError("encoders disagree")
        if not np.array_equal(decode(peers.parse_by_split(text), mask.shape), mask):
            raise AssertionError("the text does not give the mask back")


def from_masks(masks: list[np.ndarray], rounds: int) -> None:
    """Mask to text: from memory, and from the cache."""
    contenders = [
        READ,
        Contender("encode_text (ours)", encode_text),
        Contender("NumPy: pad, diff, join", peers.diff_and_join),
        Contender("NumPy: strided diff (wrong at the corners)", peers.strided_diff),
        Contender("numba, pixel by pixel", peers.numba_by_pixel),
        Contender("pycocotools, rows (mask.T), counts only", peers.pycocotools_rows),
        Contender("pycocotools, transposed copy, counts only", peers.pycocotools_columns),
        Contender("encode_text(order='column') (ours)", by_columns),
    ]
    print_table("mask -> text, mask in memory", contenders, medians_s(contenders, masks, rounds))
    print_table(
        "mask -> text, mask in the cache", contenders[:5], medians_s(contenders[:5], masks, rounds, warm=peers.read)
    )


def from_logits(masks: list[np.ndarray], rounds: int) -> None:
    """Logits to text."""
    for dtype in (np.float32, np.float16, np.int16):
        logits = [logits_of(mask, dtype, seed) for seed, mask in enumerate(masks)]
        for mask, item in zip(masks[:4], logits, strict=False):
            if encode_logits_text(item) != encode_text(mask):
                raise AssertionError("encoders disagree")
        contenders = [
            READ,
            Contender("encode_logits_text (ours)", encode_logits_text),
            Contender("NumPy: > 0, then strided diff", lambda item: peers.strided_diff(item > 0)),
        ]
        if dtype is not np.float16:
            contenders.append(Contender("numba, pixel by pixel", peers.numba_by_pixel))
        title = f"{np.dtype(dtype)} logits -> text"
        print_table(f"{title}, in memory", contenders, medians_s(contenders, logits, rounds))
        print_table(
            f"{title}, in the cache", contenders[:2], medians_s(contenders[:2], logits, rounds, warm=peers.read)
        )


def backwards(masks: list[np.ndarray], rounds: int) -> None:
    """Text to runs, runs to mask."""
    size = masks[0].shape
    runs = [encode(mask) for mask in masks]
    contenders = [
        Contender("write every byte once (np.zeros + 1)", lambda _: np.full(size, True)),
        Contender("decode (ours)", lambda item: decode(item, size)),
        Contender("NumPy: a slice a run", lambda item: peers.fill_slices(item, size)),
    ]
    print_table("runs -> mask", contenders, medians_s(contenders, runs, rounds))
    texts = [encode_text(mask) for mask in masks]
    contenders = [
        Contender("read every byte once (bytes.count)", lambda item: item.count(b"x")),
        Contender("parse (ours)", parse),
        Contender("NumPy: split", peers.parse_by_split),
    ]
    print_table("text -> runs", contenders, medians_s(contenders, texts, rounds))


@program
def main(masks: Path | None = None, count: Positive = 48, rounds: Positive = 192) -> None:
    """Measure the run-length kernels on one thread.

    Args:
        masks: a folder of *_mask.gif; without it the studio renders two cars.
        count: masks at most.
        rounds: measurements of each contender.
    """
    pool = load_masks(masks, count)
    texts = [encode_text(mask) for mask in pool]
    print(
        f"{len(pool)} masks {pool[0].shape[1]}x{pool[0].shape[0]}, "
        f"mean {np.mean([len(t) for t in texts]):.0f} bytes of text; medians of {rounds}, one thread"
    )
    verify(pool)
    from_masks(pool, rounds)
    # an image's float32 logits are 9.8 MB
    from_logits(pool[:32], rounds)
    backwards(pool, rounds)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
