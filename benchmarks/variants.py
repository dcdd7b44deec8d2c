"""`python -m benchmarks.variants`: every variant trains for one epoch on a handful of cars; its speed, memory and loss.

Each variant trains in a process of its own, from random weights (`--weights none`), with its recipe's loss, optimiser,
learning rate and clipping, without augmentation or schedule, and `--batch` images a step. The loss before and after the
epoch is the mean over the very images it trains on, in training mode: with batch norm's running statistics of so few
steps, a loss in evaluation mode would tell of those and not of the weights. Results go to a ledger, a line each, so
that the command, run again, does only what is missing.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro

import atomic
from command_line import UserError, program
from folds import optimisation
from folds.images import TrainingSet, find_training_set, read_mask
from folds.plan import plan_of, variants_for
from models.build import build, parameter_count
from models.frame import frame_of
from models.losses import find_loss
from models.network_input import normalise
from models.precision import native, resolve
from models.variant import Variant
from program_flags import Batch, NonNegative, Positive, files_of


@dataclass(frozen=True)
class Epoch:
    """What one variant did.

    Attributes:
        variant, height, width: of the network.
        images, batch, steps: of the epoch.
        parameters: trainable.
        step_s: median of the steps but the first: forward, backward and optimiser.
        images_per_s: `batch / step_s`.
        peak_bytes: highest memory of the process, or of the GPU where there is one.
        first_loss, last_loss: mean loss over the epoch's images before and after it.
        first_step_loss, last_step_loss: of the epoch's own first and last step.
        fell: whether `last_loss` is below `first_loss`.
        device: "cpu", or the GPU's name.
        threads: of torch.
        precision: what it computes in.
        fault: why it could not train; empty where it did.
    """

    variant: str
    height: int
    width: int
    images: int
    batch: int
    steps: int = 0
    parameters: int = 0
    step_s: float = 0.0
    images_per_s: float = 0.0
    peak_bytes: int = 0
    first_loss: float = 0.0
    last_loss: float = 0.0
    first_step_loss: float = 0.0
    last_step_loss: float = 0.0
    fell: bool = False
    device: str = "cpu"
    threads: int = 0
    precision: str = "float32"
    fault: str = ""

    @property
    def conditions(self) -> tuple[Any, ...]:
        """What it was measured under: two results with the same are of the same thing."""
        size, how = (self.height, self.width), (self.device, self.threads, self.precision)
        return self.variant, size, self.images, self.batch, how


def different_groups(training: TrainingSet, count: int) -> list[str]:
    """`count` images, each of another car for as long as there are enough cars, and of another view.

    Raises:
        UserError: there are fewer images.
    """
    if not 1 <= count <= len(training.names):
        raise UserError(f"--images {count} cannot be had: {training.data} has {len(training.names)}.")
    views: dict[str, list[str]] = {}
    for name, group in zip(training.names, training.groups().tolist(), strict=True):
        views.setdefault(group, []).append(name)
    rounds = [
        # turned a little further from car to car, so that not all look the same way
        views[group][(turn + k) % len(views[group])]
        for turn in range(max(map(len, views.values())))
        for k, group in enumerate(views)
        if turn < len(views[group])
    ]
    return rounds[:count]


def plan_epoch(variant: Variant, images: int, batch: int, threads: int) -> Epoch:
    """What is known before an epoch: its `conditions`. Whole batches only: batch norm cannot take a last batch of one
    pixel, and a step's time is of `batch` images."""
    return Epoch(
        *(variant.name, *variant.size, images // batch * batch, batch),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        threads=threads or torch.get_num_threads(),
        precision=resolve(plan_of(variant, "", {}).precision, native()),
    )


def train_epoch(variant: Variant, training: TrainingSet, names: list[str], batch: int, threads: int) -> Epoch:
    """Train a variant's network, from random weights, for one epoch on the images `names`.

    Raises:
        UserError: an image or mask cannot be used.
    """
    planned = plan_epoch(variant, len(names), batch, threads)
    torch.set_num_threads(planned.threads)
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    recipe = plan_of(variant, "", {})
    frame, full = frame_of(variant), training.competition.size
    images = np.stack([frame.load(training.image_path(name), full)[0] for name in names])
    masks = np.stack([frame.apply_mask(read_mask(training.mask_path(name), full)) for name in names])
    network = build(variant, pretrained=False)
    parameters = parameter_count(network)
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    loss_of = find_loss(recipe.loss)
    chosen = optimisation.optimiser(network.parameters(), recipe)

    def loss_at(start: int) -> torch.Tensor:
        part = torch.from_numpy(images[start : start + batch]).to(device)
        target = torch.from_numpy(masks[start : start + batch]).to(device)[:, None].float() / 255
        with torch.autocast(device.type, torch.bfloat16, enabled=planned.precision == "bf16"):
            logits = network(normalise(part, variant))
        return loss_of(logits.float(), target)

    def mean_loss() -> float:
        # the same neurons are dropped both times
        torch.manual_seed(1)
        with torch.no_grad():
            return float(np.mean([float(loss_at(start)) for start in starts]))

    starts = range(0, planned.images, batch)
    first_loss = mean_loss()
    seconds, losses = [], []
    for start in starts:
        begin = time.perf_counter()
        loss = loss_at(start)
        chosen.zero_grad()
        loss.backward()
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        chosen.step()
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - begin)
    last_loss = mean_loss()
    step_s = median(seconds[1:] or seconds)
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return replace(
        planned,
        steps=len(starts),
        parameters=parameters,
        step_s=step_s,
        images_per_s=batch / step_s,
        peak_bytes=peak,
        first_loss=first_loss,
        last_loss=last_loss,
        first_step_loss=losses[0],
        last_step_loss=losses[-1],
        fell=last_loss < first_loss,
    )


def measure(variant: Variant, training: TrainingSet, names: list[str], batch: int, threads: int) -> Epoch:
    """`train_epoch` in a process of its own, whose memory is the variant's alone; a failure is a result, too."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(train_epoch, variant, training, names, batch, threads).result()
    except BrokenProcessPool:
        fault = "its process was killed, most often for want of memory"
    except (RuntimeError, ValueError) as error:
        fault = str(error).splitlines()[0]
    return replace(plan_epoch(variant, len(names), batch, threads), fault=fault)


def read_ledger(path: Path) -> dict[tuple[Any, ...], Epoch]:
    """What was measured already, by what it depends on; a line of another form is skipped."""
    done: dict[tuple[Any, ...], Epoch] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                epoch = Epoch(**json.loads(line))
            except (ValueError, TypeError):
                continue
            done[epoch.conditions] = epoch
    return done


def table_lines(epochs: list[Epoch]) -> list[str]:
    """Results as lines of text."""
    lines = [
        f"{'':26}{'size':>10}{'parameters':>12}{'batch':>6}{'steps':>6}{'images/s':>10}{'peak MB':>9}"
        f"{'loss before':>12}{'after':>8}  fell"
    ]
    for e in epochs:
        head = f"{e.variant:26}{f'{e.height}x{e.width}':>10}"
        lines.append(
            f"{head}  {e.fault}"
            if e.fault
            else f"{head}{e.parameters:>12,}{e.batch:>6}{e.steps:>6}{e.images_per_s:>10.3f}{e.peak_bytes / 2**20:>9.0f}"
            f"{e.first_loss:>12.4f}{e.last_loss:>8.4f}  {'yes' if e.fell else 'NO'}"
        )
    return lines


@program
def main(
    competition: str = "studio",
    data: Path | None = None,
    variant: str = "all",
    images: Positive = 8,
    batch: Batch = 2,
    threads: NonNegative = 0,
    ledger: Path = Path("runs/variants.jsonl"),
) -> None:
    """Train every variant for one epoch on a few images; print a table.

    Args:
        competition: a name from competition.py.
        data: its files; data/<competition> by default.
        variant: a name, a comma list, or all; those fitted in one pass are left out.
        images: of different cars, in the epoch.
        batch: images a step.
        threads: of torch; 0 leaves them alone.
        ledger: file of results, one JSON line each; what is in it, measured alike, is not done again, unless it
            failed.
    """
    if not 1 <= batch <= images:
        raise UserError(f"--batch {batch} cannot work with {images} images: --batch {max(1, min(batch, images))} does.")
    facts, data = files_of(competition, data)
    chosen = [each for each in variants_for(variant, facts) if not each.fitted]
    training = find_training_set(facts, data)
    names = different_groups(training, images)
    done = read_ledger(ledger)
    epochs = []
    for each in chosen:
        key = plan_epoch(each, images, batch, threads).conditions
        if key not in done or done[key].fault:
            print(f"{each.name} ...", flush=True)
            done[key] = measure(each, training, names, batch, threads)
            atomic.write_text(ledger, "".join(json.dumps(asdict(epoch)) + "\n" for epoch in done.values()))
        epochs.append(done[key])
    print("\n".join(table_lines(epochs)))
    print(f"the loss fell for {sum(epoch.fell for epoch in epochs)} of {len(epochs)} variants")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
