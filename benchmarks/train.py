"""`python -m benchmarks.train`: steps of a whole training against a bare PyTorch loop over one batch in memory.

Ours reads, augments, collates, moves and logs as `make fold` does, with validation off; the bare loop has the same
network, loss, optimiser and precision, and one batch, normalised already, where it computes. They take turns.
Weights are random: speed does not depend on them.

With `--epoch`, whole epochs as a fold has them, with validation at full size on a fifth of the images, checkpoints and
curves, against as many bare steps.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import numpy as np
import torch
import tyro
from lightning.pytorch.callbacks import Callback

from command_line import UserError, program
from competition import find_competition
from folds import fit, optimisation
from folds.images import find_training_set
from folds.inputs import DecodedInputs, Inputs, load_inputs
from folds.plan import plan_of
from folds.run_layout import CACHE_DIR
from folds.task import FoldTask
from folds.truth import load_truth
from models.build import build, parameter_count
from models.frame import frame_of
from models.losses import find_loss
from models.network_input import normalise
from models.variant import Variant
from models.variants import find_variant
from program_flags import Batch, Positive, Workers

_WARM = 3


@dataclass(frozen=True)
class Figures:
    """Seconds a step of both, the median ratio of the rounds, and what else the table shows.

    `cpu_ratio` is the ratio of CPU time of the training process: on a CPU, other programs do not change it.
    """

    bare_s: float
    ours_s: float
    ratio: float
    cpu_ratio: float
    batch: int
    parameters: int
    peak_bytes: int


class _Stopwatch(Callback):
    """Times the steps after the first few, reading included."""

    def __init__(self) -> None:
        self.begin = self.end = (0.0, 0.0)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Note when the last warm step and the last step of all ended."""
        if trainer.global_step == _WARM:
            self.begin = _now()
        elif trainer.global_step == trainer.max_steps:
            self.end = _now()


def _now() -> tuple[float, float]:
    """Seconds by the clock and of this process's CPU time, once the GPU has nothing left to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _per_step(begin: tuple[float, float], end: tuple[float, float], steps: int) -> tuple[float, float]:
    return (end[0] - begin[0]) / steps, (end[1] - begin[1]) / steps


def _ours_s(task: FoldTask, network: torch.nn.Module, gpus: list[int], steps: int) -> tuple[float, float]:
    watch = _Stopwatch()
    trainer = fit.make_trainer(
        task, gpus, [watch], max_steps=_WARM + steps, limit_val_batches=0, enable_checkpointing=False
    )
    trainer.fit(fit.module_of(task, network), fit.train_loader(task))
    return _per_step(watch.begin, watch.end, steps)


def _bare_s(task: FoldTask, network: torch.nn.Module, device: torch.device, steps: int) -> tuple[float, float]:
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images, masks, _ = next(iter(fit.train_loader(task)))
    batch = normalise(images.to(device), task.variant)
    target = masks.to(device)[:, None].float() / 255
    loss_of = find_loss(task.recipe.loss)
    chosen = optimisation.optimiser(network.parameters(), task.recipe)
    bf16 = fit.precision_of(task) == "bf16"
    for step in range(_WARM + steps):
        if step == _WARM:
            begin = _now()
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            logits = network(batch)
        loss = loss_of(logits.float(), target)
        chosen.zero_grad()
        loss.backward()
        if task.recipe.clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), task.recipe.clip)
        chosen.step()
    return _per_step(begin, _now(), steps)


def _measure(task: FoldTask, steps: int, rounds: int) -> Figures:
    fit.set_up(task)
    gpus = [0] if torch.cuda.is_available() else []
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    network = build(task.variant, pretrained=False)
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(_bare_s(task, network, device, steps))
        ours.append(_ours_s(task, network, gpus, steps))
    peak = torch.cuda.max_memory_allocated() if gpus else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ratio, cpu_ratio = (median(b[i] / o[i] for b, o in zip(bare, ours, strict=True)) for i in (0, 1))
    bare_s, ours_s = median(b[0] for b in bare), median(o[0] for o in ours)
    return Figures(bare_s, ours_s, ratio, cpu_ratio, task.recipe.batch, parameter_count(network), peak)


def _epochs(task: FoldTask, steps: int, rounds: int) -> float:
    """The median ratio of an epoch's bare steps to a whole epoch of ours, by the clock."""
    fit.set_up(task)
    gpus = [0] if torch.cuda.is_available() else []
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    a_fifth = len(task.train) // 5
    task = replace(task, train=task.train[a_fifth:], held_out=task.train[:a_fifth], bar=False)
    per_epoch = len(task.train) // task.recipe.batch
    ratios = []
    for _ in range(rounds):
        bare_s = _bare_s(task, build(task.variant, pretrained=False), device, steps)[0] * per_epoch
        took = []
        for epochs in (1, 3):
            with tempfile.TemporaryDirectory() as folder:
                some = replace(task, folder=Path(folder), recipe=replace(task.recipe, epochs=epochs))
                begin = _now()[0]
                fit.fit_network(some, build(task.variant, pretrained=False), gpus)
                took.append(_now()[0] - begin)
        # what starting and ending take is in both
        ratios.append(bare_s / ((took[1] - took[0]) / 2))
    return median(ratios)


def _task(
    variant: Variant, data: Path, competition: str, folder: Path, batch: int, workers: int, bar: bool
) -> FoldTask:
    facts = find_competition(competition)
    training = find_training_set(facts, data)
    truth = load_truth(training, folder / CACHE_DIR)
    frame = frame_of(variant)
    # at the full size, and so at a GPU's own pace, the data is read from JPEG
    inputs: Inputs = DecodedInputs(training, frame, {"mask": truth})
    if variant.fit == "resize":
        inputs = load_inputs(training, frame, {"mask": truth}, folder / CACHE_DIR)
    recipe = plan_of(variant, "", {"batch": batch} if batch else {})
    if recipe.batch > len(training.names):
        raise UserError(f"{data} has {len(training.names)} images, fewer than a batch: --batch 4 works.")
    return FoldTask(
        training=training,
        truths={"mask": truth},
        inputs=inputs,
        variant=variant,
        # one batch a step in both loops
        recipe=replace(recipe, accumulate=1, ema=0.0, patience=0, epochs=10**6, schedule="constant"),
        fold=0,
        train=np.arange(len(training.names)),
        held_out=np.arange(0),
        folder=folder / variant.name,
        store=folder / "none",
        folds_digest="",
        seed=0,
        bar=bar,
        workers=workers,
    )


@program
def main(
    competition: str = "studio",
    data: Path | None = None,
    variant: str = "",
    steps: Positive = 20,
    rounds: Positive = 5,
    batch: Batch = 0,
    workers: Workers = -1,
    bar: bool = True,
    epoch: bool = False,
) -> None:
    """Compare steps a second, in alternation.

    Args:
        competition: a name from competition.py.
        data: its files; data/<competition> by default.
        variant: names, comma separated; by default the demo's, and unet-resnet34-full on a GPU.
        steps: timed in a row.
        rounds: of both.
        batch: images a step, instead of the recipes'.
        workers: processes that load images; -1 chooses as training does.
        bar: with the progress bar, as a fold trained alone has it.
        epoch: also compare whole epochs.
    """
    default = "unet-mobilenetv3,fpn-regnetx" + (",unet-resnet34-full" if torch.cuda.is_available() else "")
    source = data or find_competition(competition).default_data()
    print(
        f"{'':22}{'batch':>6}{'bare ms':>10}{'ours ms':>10}{'ratio':>8}{'by CPU':>8}{'images/s':>10}{'peak MB':>9}"
        f"{'parameters':>13}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in (variant or default).split(","):
            task = _task(find_variant(name), source, competition, Path(folder), batch, workers, bar)
            # each in a process of its own, whose peak memory is the variant's alone
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                seen = pool.submit(_measure, task, steps, rounds).result()
                whole = pool.submit(_epochs, task, steps, rounds).result() if epoch else None
            print(
                f"{name:22}{seen.batch:>6}{seen.bare_s * 1e3:>10.1f}{seen.ours_s * 1e3:>10.1f}{seen.ratio:>8.3f}"
                f"{seen.cpu_ratio:>8.3f}"
                f"{seen.batch / seen.ours_s:>10.1f}{seen.peak_bytes / 2**20:>9.0f}{seen.parameters:>13,}"
                + ("" if whole is None else f"  {whole:.3f} of the bare steps by a whole epoch"),
                flush=True,
            )


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
