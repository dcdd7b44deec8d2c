"""`python -m benchmarks.host_memory`: training steps on a CPU, with memory kept and given back between steps.

The peer is the same program with glibc's own settings. Each measurement is a process of its own, as memory is set up
once a process, and they take turns: forward and backward passes and optimiser steps, on noise.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
import tyro

from command_line import UserError, program
from folds import optimisation
from folds.plan import plan_of
from models.build import build
from models.host_memory import keep_freed
from models.variants import find_variant
from program_flags import Batch, Positive

_WARM = 2


@dataclass(frozen=True)
class Figures:
    """Of one process: processor seconds and page faults a step, and its peak memory in bytes."""

    cpu_s: float
    faults: float
    peak_bytes: int


def _measure(keep: bool, variant: str, batch: int, steps: int, precision: str, threads: int) -> Figures:
    if keep and not keep_freed():
        raise UserError("memory is not kept here: only glibc's allocator does.")
    torch.set_num_threads(threads)
    chosen = find_variant(variant)
    network = build(chosen, pretrained=False).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = optimisation.optimiser(network.parameters(), plan_of(chosen, "", {}))
    for step in range(_WARM + steps):
        if step == _WARM:
            begin, faults = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        # a new one every step, as a loader brings it
        images = torch.rand(batch, chosen.in_channels, *chosen.size).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images)
        optimiser.zero_grad()
        logits.float().square().mean().backward()
        optimiser.step()
    spent = time.process_time() - begin
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Figures(spent / steps, (used.ru_minflt - faults) / steps, used.ru_maxrss * 1024)


@program
def main(
    variant: str = "unet-mobilenetv3-320x512,windowed-unet-lite0-640x960,windowed-unet-lite0-full",
    batch: Batch = 4,
    steps: Positive = 8,
    rounds: Positive = 3,
    precision: Literal["bf16", "float32"] = "bf16",
    threads: Positive = 1,
) -> None:
    """Compare processor time a step, page faults and peak memory, in alternation.

    Args:
        variant: names, comma separated (models/variants.py).
        batch: images a step.
        steps: timed in a row.
        rounds: of both.
        precision: what is computed in.
        threads: of torch.
    """
    if min(batch, steps, rounds, threads) < 1:
        raise UserError("--batch, --steps, --rounds and --threads are 1 at least.")
    print(f"{'':30}{'theirs s':>10}{'ours s':>10}{'ratio':>8}{'faults a step':>20}{'peak MB':>16}")
    for name in variant.split(","):
        seen: dict[bool, list[Figures]] = {False: [], True: []}
        for _ in range(rounds):
            for keep, figures in seen.items():
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    figures.append(pool.submit(_measure, keep, name, batch, steps, precision, threads).result())
        theirs, ours = seen.values()
        ratio = median(a.cpu_s / b.cpu_s for a, b in zip(theirs, ours, strict=True))
        columns = (
            f"{median(f.cpu_s for f in theirs):10.3f}{median(f.cpu_s for f in ours):10.3f}{ratio:8.2f}"
            f"{median(f.faults for f in theirs):12,.0f}{median(f.faults for f in ours):8,.0f}"
            f"{max(f.peak_bytes for f in theirs) / 1e6:9.0f}{max(f.peak_bytes for f in ours) / 1e6:7.0f}"
        )
        print(f"{name:30}{columns}", flush=True)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
