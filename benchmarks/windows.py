"""`python -m benchmarks.windows`: a windowed network against the same network on whole frames.

Training steps and predictions on images of a competition, in turns. The finder runs, but says what the true masks say:
an untrained one knows nothing, and with a trained one windows would be those of its training.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro

from command_line import UserError, program
from folds.images import find_training_set, read_mask
from models.build import at_size_of, build
from models.frame import frame_of
from models.network_input import normalise
from models.networks.windowed_unet import WindowedUNet
from models.variants import find_variant
from program_flags import Batch, CompetitionName, DataFolder, Positive, files_of

Run = Callable[[torch.Tensor], torch.Tensor]


class _Knowing(torch.nn.Module):
    """A finder that computes what it would, and says where the masks are."""

    def __init__(self, finder: torch.nn.Module) -> None:
        super().__init__()
        self._finder = finder
        self.masks = torch.zeros(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._finder(x)
        return 0 * found + F.adaptive_max_pool2d(self.masks, x.shape[-2:]) - 0.5


@program
def main(
    variant: str = "windowed-unet-full",
    competition: CompetitionName = "carvana",
    data: DataFolder = None,
    batch: Batch = 4,
    rounds: Positive = 10,
    precision: Literal["bf16", "float32"] = "bf16",
    threads: Positive = 1,
) -> None:
    """Forward and backward passes, and predictions, on a CPU, without optimiser and loading.

    Args:
        variant: of the network "windowed-unet" (models/variants.py).
        batch: images a step; predictions are of one each.
        rounds: batches that are timed, each of other images; medians are printed.
        precision: what is computed in.
        threads: of torch.
    """
    chosen = find_variant(variant)
    if chosen.network != "windowed-unet":
        raise UserError(f"{variant} has no windows: give --variant one whose network has (models/variants.py).")
    if min(batch, rounds, threads) < 1:
        raise UserError("--batch, --rounds and --threads are 1 at least.")
    torch.set_num_threads(threads)
    facts, data = files_of(competition, data)
    training, chosen = find_training_set(facts, data), at_size_of(chosen, facts.size)
    frame, network = frame_of(chosen), build(chosen, pretrained=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert isinstance(network, WindowedUNet)
    knowing = _Knowing(network.finder)
    network.finder = knowing  # type: ignore[assignment]
    drawn = np.random.default_rng(0).choice(len(training.names), (rounds + 1, batch))

    def timed(run: Run, images: torch.Tensor, *, trains: bool) -> float:
        network.train(trains)
        begin = perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), torch.set_grad_enabled(trains):
            logits = run(images)
        if trains:
            logits.float().mean().backward()
            network.zero_grad()
        return perf_counter() - begin

    times: list[list[float]] = []
    shares: list[float] = []
    for positions in drawn:
        names = [training.names[k] for k in positions]
        pixels = np.stack([frame.load(training.image_path(name), facts.size)[0] for name in names])
        masks = np.stack([frame.apply_mask(read_mask(training.mask_path(name), facts.size)) for name in names])
        images, known = normalise(torch.from_numpy(pixels), chosen), torch.from_numpy(masks)[:, None] / 255
        row = []
        for count, trains in ((batch, True), (1, False)):
            knowing.masks = known[:count]
            row += [timed(run, images[:count], trains=trains) for run in (network.network, network)]
        knowing.masks = known
        with torch.inference_mode():
            shares.append(network.eval().share(images))
        times.append(row)
    # the first round warms up
    whole, windowed, whole_1, windowed_1 = np.array(times[1:]).T
    print(f"{variant}, {competition}, {precision}, {threads} thread{'s' if threads > 1 else ''}; medians of {rounds}")
    print(f"  windows of {np.mean(shares):.2f} of the frame")
    for label, peer, ours in (
        (f"a step of {batch}", whole, windowed),
        ("a prediction", whole_1, windowed_1),
    ):
        ratio = median(ours / peer)
        print(f"  {label:14} whole {median(peer) * 1e3:8.0f} ms, ours {median(ours) * 1e3:8.0f} ms, {ratio:.2f} of it")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
