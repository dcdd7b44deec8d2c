"""A small submission: names, masks drawn from them, and its bytes by the slow encoder."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from competition import COMPETITIONS, Order
from submit.stream import Row, SubmissionStream
from tests import naive

SIZE = (24, 37)
HEADER = COMPETITIONS["carvana"].header
NAMES = [f"{k:012x}_01.jpg" for k in range(53)]


def mask_of(name: str) -> np.ndarray:
    """A mask drawn from the image's name; every seventh is empty."""
    number = int(name[:12], 16)
    return np.random.default_rng(number).random(SIZE) > (1 if number % 7 == 0 else 0.6)


def rows(names: list[str]) -> Iterator[Row]:
    for name in names:
        yield name, mask_of(name)


def text_of(mask: np.ndarray, order: Order = "row") -> bytes:
    return naive.text(naive.encode(mask, order))


def expected_bytes() -> bytes:
    return b"img,rle_mask\n" + b"".join(b"%s,%s\n" % (n.encode(), text_of(mask_of(n))) for n in NAMES)


def new_stream(folder: Path, **changes: object) -> SubmissionStream:
    arguments = {
        "names": NAMES,
        "header": HEADER,
        "size": SIZE,
        "shard_rows": 10,
        "fingerprint": {"blend": "mean", "k": [1, 2]},
    }
    return SubmissionStream(folder, **{**arguments, **changes})  # type: ignore[arg-type]


def shuffled(seed: int) -> list[str]:
    return random.Random(seed).sample(NAMES, len(NAMES))
