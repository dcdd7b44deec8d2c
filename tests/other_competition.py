"""A competition that differs from the first one in every field, and its archives, made on the spot."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from competition import Archive, Competition
from kernels import rle
from models.variants import VARIANTS
from tests.tiny_folds import TINY

OTHER = Competition(
    name="drops",
    title="Drops under glass",
    slug="drops-under-glass",
    size=(64, 96),
    order="column",
    name_pattern=r"[a-z]{3}-\d{3}\.(png|jpg)",
    mask_suffix="-label.png",
    header=("tile", "spans"),
    train_count=20,
    test_count=6,
    archives=(
        Archive("light.csv"),
        Archive("example.csv"),
        Archive("labels.csv"),
        Archive("shown", ("shown/pictures", "shown/labels")),
        Archive("probe", ("probe/pictures",)),
    ),
    image_suffix=".png",
    further_suffixes=(".jpg",),
    row_key="stem",
    train_dir="shown/pictures",
    masks_dir="shown/labels",
    test_dir="probe/pictures",
    truth_table="labels.csv",
    groups_file="series.csv",
    metadata_file="light.csv",
    metadata_key="tile",
    metadata_breakdown="lamp",
    sample_file="example.csv",
    metric="iou",
    empty_masks=True,
    full_masks=True,
)

# padded by reflection, grey; and reduced, in colour
MEMBERS = (
    replace(
        VARIANTS["folded-unet-128"],
        name="folded",
        size=(80, 112),
        options={"widths": (8, 16), "fold": 4},
        recipe="demo",
    ),
    replace(TINY, name="tiny"),
)


def _drop(seed: int) -> np.ndarray:
    """A (64, 96) bool mask: one ellipse, or nothing."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(OTHER.size, np.uint8)
    if seed % 5:
        centre = int(rng.integers(25, 70)), int(rng.integers(18, 46))
        cv2.ellipse(mask, centre, (int(rng.integers(8, 30)), int(rng.integers(6, 20))), 20.0, 0, 360, 1, -1)
    return mask.astype(bool)


# images are not all of one format, nor their names in one case
_SUFFIXES = (".png", ".png", ".PNG", ".jpg", ".JPG")


def _encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix.lower(), pixels)[1].tobytes())


def picture(mask: np.ndarray, seed: int, suffix: str = ".png") -> bytes:
    """A drop on a noisy ground, grey stored as three channels."""
    noise = np.random.default_rng(seed).normal(0, 8, mask.shape)
    grey = np.clip(np.where(mask, 60, 180) + noise, 0, 255).astype(np.uint8)
    return _encoded(suffix, np.repeat(grey[..., None], 3, axis=2))


def label(mask: np.ndarray) -> bytes:
    """A mask as PNG, of 16 bits and the levels 0 and 65535 unless it is empty, of 8 bits then."""
    return _encoded(".png", mask.astype(np.uint16) * np.uint16(65535) if mask.any() else mask.astype(np.uint8))


def _zipped(path: Path, files: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    path.write_bytes(buffer.getvalue())


def ship(folder: Path) -> dict[str, np.ndarray]:
    """Write the archives and tables as the organiser ships them; returns the training masks by image name."""
    folder.mkdir(parents=True)
    masks = {f"abc-{i:03}{_SUFFIXES[i % 5]}": _drop(i) for i in range(20)}
    test = {
        f"xyz-{i:03}{_SUFFIXES[i % 5]}": picture(_drop(100 + i), 100 + i, _SUFFIXES[i % 5]) for i in reversed(range(6))
    }
    shown = {f"somewhere/pictures/{name}": picture(mask, i, name[-4:]) for i, (name, mask) in enumerate(masks.items())}
    # the name of a mask has its suffix in another case here and there, too
    shown |= {
        f"somewhere/labels/{OTHER.mask_name(name).replace('.png', ('.png', '.PNG')[i % 3 == 0])}": label(mask)
        for i, (name, mask) in enumerate(masks.items())
    }
    shown |= {
        f"somewhere/{part}/{junk}": b"x" for part in ("pictures", "labels") for junk in ("Thumbs.db", "._abc.png")
    }
    _zipped(folder / "shown.zip", shown)
    _zipped(folder / "probe.zip", {f"pictures/{name}": content for name, content in test.items()})
    header = ",".join(OTHER.header) + "\n"
    text = {name: " ".join(map(str, rle.encode(mask, order="column").ravel())) for name, mask in masks.items()}
    keys = [OTHER.key(name) for name in (*masks, *test)]
    tables = {
        "labels.csv": header + "".join(f"{OTHER.key(name)},{runs}\n" for name, runs in text.items()),
        "example.csv": header + "".join(f"{OTHER.key(name)},1 1\n" for name in test),
        "light.csv": "tile,lamp\n" + "".join(f"{key},{'dim' if i % 3 else 'bright'}\n" for i, key in enumerate(keys)),
    }
    for name, content in tables.items():
        _zipped(folder / f"{name}.zip", {name: content.encode()})
    return masks
