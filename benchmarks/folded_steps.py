"""`python -m benchmarks.folded_steps`: training steps of a folded U-Net, planes from below doubled or not.

The peer is the same network by plain layers: planes doubled by repeating pixels, joined to those beside them, one 3x3
convolution. Both take the same steps in turns, on noise: speed does not depend on what images show.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Literal

import torch
import tyro

from command_line import UserError, program
from models.build import build
from models.networks.folded_unet import FoldedUNet
from models.variants import find_variant
from program_flags import Batch, Positive


@program
def main(
    variant: str = "folded-unet-768x1152",
    batch: Batch = 4,
    rounds: Positive = 5,
    precision: Literal["bf16", "float32"] = "bf16",
    threads: Positive = 1,
) -> None:
    """Forward and backward passes on a CPU, without loss, optimiser and loading.

    Args:
        variant: of the network "folded-unet" (models/variants.py).
        batch: images a step.
        rounds: steps of each that are timed; medians are printed.
        precision: what is computed in.
        threads: of torch.
    """
    chosen = find_variant(variant)
    if chosen.network != "folded-unet":
        raise UserError(f"{variant} is no folded U-Net: give --variant one whose network is (models/variants.py).")
    if min(batch, rounds, threads) < 1:
        raise UserError("--batch, --rounds and --threads are 1 at least.")
    torch.set_num_threads(threads)
    network = build(chosen, pretrained=False).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    # where it also says whether there is anything, it is a part of the network
    folded = next(part for part in network.modules() if isinstance(part, FoldedUNet))
    images = torch.rand(batch, chosen.in_channels, *chosen.size).contiguous(memory_format=torch.channels_last)

    def step(*, doubled: bool) -> float:
        # their own flag alone: the norms train in both cases
        for up in folded.up:
            up.training = not doubled
        begin = perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images)
        logits.float().mean().backward()
        network.zero_grad()
        return perf_counter() - begin

    for doubled in (True, False):
        step(doubled=doubled)
    times = [(step(doubled=True), step(doubled=False)) for _ in range(rounds)]
    plain, ours = (median(column) for column in zip(*times, strict=True))
    ratio = median(b / a for a, b in times)
    print(f"{variant}, batches of {batch}, {precision}, {threads} thread{'s' if threads > 1 else ''}")
    print(f"  planes doubled, then convolved   {plain * 1e3:8.0f} ms a step")
    print(f"  ours: transposed convolution     {ours * 1e3:8.0f} ms a step, {ratio:.2f} of it (median of {rounds})")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
