"""`python -m ensemble.tta_gain --measure VARIANT`: what each test-time augmentation is worth, measured out of fold.

Every training image is predicted by the one network that did not see it, with and without each transform; what a
transform is worth is the difference in mean score at full size, with an interval over cars, against its price in
forward passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from pydantic import AfterValidator, Field
from tqdm import tqdm
from typing_extensions import TypedDict

import atomic
import provenance
from command_line import UserError, program
from competition import Size
from ensemble.blend_file import scored
from ensemble.intervals import mean_interval
from folds import split
from folds.images import find_training_set
from folds.inputs import Inputs, load_inputs
from folds.run_layout import CACHE_DIR, FOLDS_FILE, TTA_FILE
from folds.scoring import full_size_score
from folds.truth import Truth, load_truth
from json_file import Interval, Schema, extensible
from kernels.metrics import DICE, Metric, find_metric, metric_in
from models import checkpoint
from models.precision import native
from models.prediction import torch_network
from models.tta import EXAMPLES, IDENTITY, Transform, find_transforms
from predict.members import Member, find_members
from program_flags import CompetitionName, DataFolder, Processes, RunsFolder, places

_BATCH = 8


def scores_of_sets(
    member: Member,
    frames: Inputs,
    known: Truth,
    fold: np.ndarray,
    full: Size,
    sets: Sequence[Sequence[Transform]],
    *,
    metric: Metric = DICE,
    batch: int = _BATCH,
) -> np.ndarray:
    """Out-of-fold scores under several sets of transforms; a transform that several sets share is passed once.

    Args:
        member: the trained variant.
        frames: the training images at the network's size.
        known: their truth.
        fold: (N,) the fold each image was held out in; its network alone predicts the image.
        full: (height, width) at which masks are scored.
        sets: each is averaged in logit space.
        metric: the competition's.
        batch: images a forward pass.

    Returns:
        (N, sets) scores.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mask = member.variant.planes_of("mask")
    used = {transform.name: transform for some in sets for transform in some}
    scores = np.full((len(fold), len(sets)), np.nan)
    with tqdm(total=len(fold), desc=f"measure {member.name}", unit="image", disable=None) as bar:
        for k, folder in enumerate(member.folds):
            precision = member.precision_of(folder, native(device.type))
            network = torch_network(checkpoint.load(folder)[0], member.variant, device, precision)
            held_out = np.flatnonzero(fold == k)
            for start in range(0, len(held_out), batch):
                positions = held_out[start : start + batch]
                inputs = network.inputs(np.stack([frames.image(int(p)) for p in positions]))
                undone = network.logits_of(inputs, list(used.values()))
                logits = {name: planes[:, mask][:, 0].cpu().numpy() for name, planes in zip(used, undone, strict=True)}
                for s, some in enumerate(sets):
                    mean = np.mean(np.stack([logits[transform.name] for transform in some]), axis=0)
                    for plane, p in zip(np.asarray(mean), positions, strict=True):
                        scores[p, s] = full_size_score(plane, member.frame, known.of(int(p)), full, metric)
                bar.update(len(positions))
    return scores


def _entry(
    some: Sequence[Transform], size: Size, scores: np.ndarray, plain: np.ndarray, groups: np.ndarray, metric: Metric
) -> Any:
    gain = scores - plain
    return {
        "transforms": [transform.name for transform in some[1:]],
        metric.name: float(scores.mean()),
        "gain": float(gain.mean()),
        "interval": list(mean_interval(gain, groups)),
        "passes": sum(transform.cost(size) for transform in some),
    }


def value_of_transforms(
    member: Member,
    frames: Inputs,
    known: Truth,
    fold: np.ndarray,
    groups: np.ndarray,
    full: Size,
    transforms: Sequence[Transform],
    metric: Metric = DICE,
) -> dict[str, Any]:
    """The value of each transform beside the plain image, and of the set of those that surely gain.

    Args:
        member, frames, known, fold, full: as `scores_of_sets` takes them.
        groups: (N,) the car of every image; intervals are over cars.
        transforms: to be measured, each alone and all together.
        metric: the competition's.

    Returns:
        JSON-able: `plain` score; `each` transform with score, gain over plain, its 95 % interval and cost in forward
        passes; `all` of them; `chosen`, those whose interval lies above 0, with the figures of their mean. The
        figures of `chosen` are of the images it was chosen on.
    """
    size = member.variant.size
    sets: list[list[Transform]] = [[IDENTITY], *([IDENTITY, t] for t in transforms), [IDENTITY, *transforms]]
    scores = scores_of_sets(member, frames, known, fold, full, sets, metric=metric)
    plain = scores[:, 0]
    entries = [_entry(some, size, scores[:, s], plain, groups, metric) for s, some in enumerate(sets)]
    each = entries[1:-1]
    kept = [t for t, entry in zip(transforms, each, strict=True) if entry["interval"][0] > 0]
    chosen_set = [IDENTITY, *kept]
    known_set = next((s for s, some in enumerate(sets) if some == chosen_set), None)
    chosen_scores = (
        scores_of_sets(member, frames, known, fold, full, [chosen_set], metric=metric)[:, 0]
        if known_set is None
        else scores[:, known_set]
    )
    return {
        "variant": member.name,
        "plain": {metric.name: float(plain.mean()), "interval": list(mean_interval(plain, groups, bounds=(0.0, 1.0)))},
        "each": each,
        "all": entries[-1],
        "chosen": _entry(chosen_set, size, chosen_scores, plain, groups, metric),
        "variant_tta": list(member.variant.tta),
    }


@extensible
class _Plain(TypedDict):
    interval: Interval


@extensible
class Entry(TypedDict):
    """What a set of transforms gives; the score stands under the metric's name."""

    transforms: list[str]
    gain: float
    interval: Interval
    passes: Annotated[float, Field(ge=0)]


_Scored = Annotated[Entry, AfterValidator(scored)]


@extensible
class TtaGains(TypedDict):
    """The content of tta.json."""

    variant: str
    plain: Annotated[_Plain, AfterValidator(scored)]
    each: list[_Scored]
    all: _Scored
    chosen: _Scored


TTA_GAINS = Schema(TtaGains, "measure them again (python -m ensemble.tta_gain --measure VARIANT), or remove the file")


def table_lines(result: dict[str, Any]) -> list[str]:
    """The result of `value_of_transforms` as lines of text."""
    low, high = result["plain"]["interval"]
    metric = metric_in(result["plain"])
    plain, width = result["plain"][metric.name], max(10, len(metric.label) + 2)
    lines = [
        f"{result['variant']} without augmentation: {metric.label} {plain:.6f} ({low:.6f}..{high:.6f})",
        f"{'mean of the image and':36}{metric.label:>{width}}       gain  95 % interval of the gain  forward passes",
    ]

    def row(label: str, entry: dict[str, Any]) -> str:
        low, high = entry["interval"]
        return (
            f"{label[:36]:36}{entry[metric.name]:{width}.6f}  {entry['gain']:+.6f}  {low:+.6f} .. {high:+.6f}"
            f"  {entry['passes']:14.2f}"
        )

    lines += [row(entry["transforms"][0], entry) for entry in result["each"]]
    lines.append(row("all of them", result["all"]))
    chosen = result["chosen"]
    if chosen["transforms"]:
        lines.append(row("chosen: those that surely gain", chosen))
        quoted = ", ".join(f'"{name}"' for name in chosen["transforms"])
        lines.append(f"chosen: tta=({quoted},) in models/variants.py")
    else:
        lines.append("chosen: none, as no interval lies above 0")
    return lines


@program
def main(
    measure: str,
    competition: CompetitionName = "carvana",
    transforms: str = "",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    jobs: Processes = -1,
) -> None:
    """Measure test-time augmentations of a trained variant out of fold; writes runs/<competition>/<variant>/tta.json.

    Args:
        measure: the variant.
        transforms: a comma list as models/tta.py spells them (scale1.1, hflip@scale1.1, or hflip*scale1.1 for all
            combinations); a few of every family by default.
        jobs: processes that read images and masks, as joblib counts them.
    """
    facts, data, root = places(competition, data, runs)
    wanted = [name.strip() for name in transforms.split(",")] if transforms else EXAMPLES
    if len(set(wanted)) != len(wanted):
        raise UserError(f"a transform is listed twice in {transforms!r}: name each once.")
    chosen = find_transforms(wanted)[1:]
    training = find_training_set(facts, data)
    if not (root / FOLDS_FILE).exists():
        raise UserError(f"{root / FOLDS_FILE} is missing: train variants first (make folds V=...).")
    fold = split.read(root / FOLDS_FILE, training)["fold"].to_numpy()
    member = find_members(root, [measure], int(fold.max()) + 1)[0]
    if member.data_digest != training.digest:
        raise UserError(
            f"{member.folder} was trained on other data than {training.data} holds now: put that data back, or train "
            "in another runs folder."
        )
    known = load_truth(training, root / CACHE_DIR, jobs=jobs)
    frames = load_inputs(training, member.frame, {"mask": known}, root / CACHE_DIR, jobs=jobs)
    metric = find_metric(facts.metric)
    result = value_of_transforms(member, frames, known, fold, training.groups(), facts.size, chosen, metric)
    facts_of_run = {
        "weights_digest": member.weights_digest,
        "data_digest": member.data_digest,
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
    }
    atomic.write_json(member.folder / TTA_FILE, {**result, **facts_of_run})
    for line in table_lines(result):
        print(line)
    print(f"written: {member.folder / TTA_FILE}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
