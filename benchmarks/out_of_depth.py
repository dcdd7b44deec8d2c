"""`python -m benchmarks.out_of_depth`: does what networks say of a picture tell whether they know such pictures?

Renders ordinary and deliberately odd studio pictures, whose truth is known, and asks the networks of a blend or a
variant, as `make predict` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import tyro
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from command_line import program
from competition import find_competition
from ensemble.blend import find_blend
from kernels.dice import counts
from kernels.metrics import DICE
from predict.blocks import Place
from predict.photographs import Photograph, PhotographLogits, network_logits
from predict.replicas import ReplicaPool
from program_flags import Positive, Seed
from studio.cars import build, draw_car, palette
from studio.scene import background, draw_camera, noise_tile, picture

FIGURES = ("agreement", "certainty")
_VIEWS = (1, 4, 7)
Picture = tuple[str, np.ndarray, np.ndarray]


def pictures(cars: int, seed: int) -> Iterator[Picture]:
    """(kind, (H, W, 3) uint8 RGB, (H, W) bool truth) of every car and view: "ordinary", and each way to be odd."""
    size = find_competition("studio").size
    before: tuple[np.ndarray, np.ndarray] | None = None
    for number in range(cars):
        rng = np.random.default_rng((seed, number))
        car = draw_car(rng)
        mesh, colours, camera = build(car), palette(car), draw_camera(rng, size)
        empty, noise = background(camera, rng, size), noise_tile(rng)
        coarse = rng.uniform(0, 255, (6, 9, 3)).astype(np.float32)
        elsewhere = np.ascontiguousarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR))
        for view in _VIEWS:
            image, mask, _ = picture(mesh, view, camera, empty, colours, noise, rng)
            other = picture(mesh, view, camera, elsewhere, colours, noise, rng)
            yield "ordinary", image, mask
            yield "other background", other[0], other[1]
            yield "turned by 90 degrees", np.rot90(image).copy(), np.rot90(mask).copy()
            rows, columns = (slice(side // 3, 2 * side // 3) for side in size)
            yield "part of a car", image[rows, columns].copy(), mask[rows, columns].copy()
            if before is not None:
                yield "two cars", np.hstack([before[0], image]), np.hstack([before[1], mask])
            before = image, mask
        yield "no car", empty.astype(np.uint8), np.zeros(size, bool)


def figures(result: PhotographLogits) -> dict[str, float]:
    """What networks say of one picture, each 0..1; 0 where no network sees anything.

    agreement: as `make predict` has it. certainty: the mean of 2 |p - 0.5| of their mean logits' probability p, over
    the pixels that any of them calls foreground.

    Raises:
        ValueError: there is one network alone.
    """
    poll = result.poll
    if poll is None or poll.agreement is None:
        raise ValueError("one network alone has nobody to agree with")
    some = poll.votes > 0
    planes = zip(result.planes, result.frames, strict=True)
    mean = np.mean([frame.transfer(plane, poll.grid, result.size) for plane, frame in planes], axis=0)
    certainty = float(np.abs(np.tanh(mean[some] / 2)).mean()) if some.any() else 0.0
    return {"agreement": poll.agreement, "certainty": certainty}


@program
def main(
    competition: str = "carvana",
    variant: str = "",
    runs: Path = Path("trained"),
    cars: Positive = 6,
    seed: Seed = 100,
) -> None:
    """Print each figure's mean by kind, its AUC against ordinary pictures, and its rank correlation with the true Dice.

    Args:
        competition: whose trained networks.
        variant: whose folds are asked; the blend by default.
        runs: where they are.
        cars: rendered cars, three views each.
        seed: of the pictures.
    """
    blend = find_blend(runs / find_competition(competition).name, "blend", variant)
    pool = ReplicaPool(blend.members, 1)
    kinds, dice, said = [], [], []
    for kind, image, truth in pictures(cars, seed):
        size = (truth.shape[0], truth.shape[1])
        photograph = Photograph(
            size,
            {
                f: f.enlarge(image) if f.exceeded_by(size) else f.apply(image)
                for f in (frame.of(size) for frame in blend.frames)
            },
        )
        (result,) = network_logits(pool, [(Place(kind, 0, 1), photograph)], polled=True)
        mask = replace(blend, frames=tuple(result.frames)).mask(result.planes, size, result.images, result.said)
        kinds.append(kind)
        dice.append(DICE.of(counts(mask, truth)))
        said.append(figures(result))
    odd = np.array([kind != "ordinary" for kind in kinds])
    values = {name: np.array([row[name] for row in said]) for name in FIGURES}
    print(f"{'':22}{'n':>4}{'Dice':>8}" + "".join(f"{name:>11}{'AUC':>7}" for name in FIGURES))
    for kind in (*dict.fromkeys(kinds), "all that are odd"):
        chosen = odd if kind == "all that are odd" else np.array([k == kind for k in kinds])
        line = f"{kind:22}{chosen.sum():4}{np.array(dice)[chosen].mean():8.4f}"
        for name in FIGURES:
            both = chosen | ~odd
            auc = f"{roc_auc_score(odd[both], -values[name][both]):7.3f}" if kind != "ordinary" else f"{'':7}"
            line += f"{values[name][chosen].mean():11.4f}{auc}"
        print(line)
    for name in FIGURES:
        least = values[name][~odd].min()
        below = (values[name][odd] < least).mean()
        rank = spearmanr(values[name], dice).statistic
        print(
            f"{name}: rank correlation with Dice {rank:.3f}; {below:.1%} of the odd below every ordinary ({least:.4f})"
        )
    limit = blend.agreement_limit
    if limit is None:
        print("make predict warns of none: the limit of these networks is not known")
    else:
        warned = values["agreement"] < limit
        print(
            f"make predict warns below {limit:.4f}: {warned[odd].mean():.1%} of the odd, {warned[~odd].mean():.1%} of "
            "the other renderings"
        )


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
