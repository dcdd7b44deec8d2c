"""What one fold is made of, and where its pieces lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

import atomic
from command_line import UserError
from competition import Size
from folds.extra_rows import ExtraRows
from folds.heads import HeadTruth
from folds.images import Draws, TrainingSet
from folds.inputs import Inputs
from folds.recipes import RECIPE, Recipe
from folds.run_layout import LAST_STATE_FILE, MANIFEST_FILE, RECIPE_FILE, RESUME_DIR, THREADS_FILE
from folds.seen import Seen
from json_file import Count, Schema, closed, extensible, holding
from kernels.metrics import Metric, check_scores, find_metric
from models.frame import frame_of
from models.precision import Precision
from models.variant import VARIANT, Variant

_HINT = "put a good copy back, or remove the folder that it is in and train the fold again"


@dataclass(frozen=True)
class FoldTask:
    """Everything one fold needs; pickles to a worker.

    Attributes:
        truths: the full-size truth of each of the variant's heads.
        inputs: images and targets at the network's size.
        folder: `runs/<competition>/<variant>/fold<k>`.
        fold: its number.
        train, held_out: positions in `training.names`.
        store: path of the variant's OOF store, already created.
        folds_digest: digest of the fold table, for the manifest.
        seed: of weights, order and augmentation; the fold number is added.
        threads: cores that are this fold's, for threads and processes that load samples; 0 is all of the machine's.
        bar: show Lightning's progress bar; otherwise one line an epoch.
        workers: processes that load and augment samples, on each device; 0 loads between the steps, -1 chooses.
        start: folder of the finished fold whose weights training starts from (`Recipe.init_from` says which they
            are); None starts as the variant says.
        start_seen: what those weights have seen; None where there are none, or where nobody can tell any more.
        devices: GPUs, or processes on a CPU, that share every batch.
        draws: what it trains on where that is drawn anew each epoch; None where it is the images at `train`.
        extra: images with pseudo-labels that it trains on beside them; None where there are none.
        precision: what it computes in (`folds.precision`); None until that is resolved.
        rounds: of self-training that its weights come from, this one last; empty where there was none.
    """

    training: TrainingSet
    truths: Mapping[str, HeadTruth]
    inputs: Inputs
    variant: Variant
    recipe: Recipe
    fold: int
    train: np.ndarray
    held_out: np.ndarray
    folder: Path
    store: Path
    folds_digest: str
    seed: int
    threads: int = 0
    bar: bool = True
    workers: int = -1
    devices: int = 1
    start: Path | None = None
    start_seen: Seen | None = None
    draws: Draws | None = None
    extra: ExtraRows | None = None
    rounds: tuple[dict[str, Any], ...] = ()
    precision: Precision | None = None

    @property
    def label(self) -> str:
        """Variant and fold, for messages."""
        return f"{self.variant.name} fold {self.fold}"

    @property
    def metric(self) -> Metric:
        """The competition's."""
        return find_metric(self.training.competition.metric)

    @property
    def resume_folder(self) -> Path:
        """Where the training state lies until the fold is complete."""
        return self.folder / RESUME_DIR

    @property
    def last_state(self) -> Path:
        """The state after the last completed epoch."""
        return self.resume_folder / LAST_STATE_FILE


@extensible
class Images(TypedDict):
    """How many images a fold was trained on, and held out."""

    train: Count
    held_out: Count


@extensible
class Manifest(TypedDict):
    """The manifest of a completed fold. What older ones lack is `NotRequired`."""

    variant: Annotated[dict[str, Any], AfterValidator(holding(VARIANT))]
    recipe: NotRequired[Annotated[dict[str, Any], AfterValidator(holding(RECIPE))]]
    fold: Count
    seed: NotRequired[int]
    threads: NotRequired[Count]
    precision: NotRequired[Precision]
    weights_digest: NotRequired[str]
    logits_digest: NotRequired[str]
    frame_version: NotRequired[int]
    data_digest: str
    folds_digest: str
    images: Images


def _check(manifest: Manifest) -> None:
    check_scores(manifest)
    check_scores(manifest, "last_")


MANIFEST = Schema(Manifest, _HINT, _check)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a completed fold; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    manifest = MANIFEST.read_if_there(folder / MANIFEST_FILE)
    return None if manifest is None else dict(manifest)


def check_frame(manifest: dict[str, Any], folder: Path, variant: Variant, full: Size) -> None:
    """Refuse a network that was trained on inputs of another geometry than it would be given now.

    Args:
        manifest: of a finished fold of the variant.
        folder: of that fold.
        full: (H, W) of the competition's images.

    Raises:
        UserError: it was.
    """
    # manifests from before geometry had versions do not name one
    if manifest.get("frame_version", 1) != frame_of(variant).version(full):
        raise UserError(
            f"{folder} was trained on images that an older version reduced with a shift of up to some pixels: remove "
            f"{folder.parent} and train {variant.name} again."
        )


def mean_over_images(manifests: Sequence[dict[str, Any]], key: str) -> float | None:
    """The mean of a figure of several folds over all images that they held out; None where a fold has no such figure.

    >>> folds = [{"dice": 0.9, "images": {"held_out": 1}}, {"dice": 0.7, "images": {"held_out": 3}}]
    >>> round(mean_over_images(folds, "dice"), 4)
    0.75
    """
    if not manifests or any(key not in manifest for manifest in manifests):
        return None
    images = [manifest["images"]["held_out"] for manifest in manifests]
    return float(sum(m[key] * n for m, n in zip(manifests, images, strict=True)) / sum(images))


@closed
class _Begun(TypedDict):
    """The content of threads.json."""

    threads: Annotated[int, Field(ge=1, le=4096)]


_BEGUN = Schema(_Begun, _HINT)


def begun_with_threads(folder: Path) -> int | None:
    """Threads that the fold in a folder was begun with, and goes on with wherever it does; None where it was not begun
    yet."""
    try:
        begun = _BEGUN.read_if_there(folder / RESUME_DIR / THREADS_FILE)
    except UserError:
        return None
    return None if begun is None else begun["threads"]


def begin_with_threads(folder: Path, threads: int) -> None:
    """Keep with how many threads the fold in a folder is computed: the last bits of its sums depend on it."""
    atomic.write_json(folder / RESUME_DIR / THREADS_FILE, {"threads": threads})


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe that a fold was begun with, whole as today's; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    value = RECIPE.read_if_there(folder / RECIPE_FILE)
    # one from before a field existed was trained with what is now its default
    return None if value is None else {**Recipe(name="", epochs=0, batch=0).to_json(), **value}
