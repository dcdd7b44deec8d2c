"""`python -m benchmarks.multi_task`: does a head for the groups' label (the make) help or hurt the mask?

One small U-Net with both heads is trained twice from the same weights on the same batches: once with the label's loss,
once without. Masks are scored at full size on a fold whose groups neither has seen.
"""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import tyro
from sklearn.model_selection import GroupKFold
from tqdm import tqdm

from command_line import UserError, check_seed, program
from ensemble.intervals import mean_interval
from folds.images import TrainingSet, find_training_set
from kernels.dice import counts
from kernels.metrics import DICE
from models.frame import Frame, frame_of
from models.losses import find_loss
from models.network_input import normalise
from models.variant import Variant
from models.variants import find_variant
from program_flags import Epochs, Positive, Seed, Weight, files_of
from report.group_labels import drawn_images, labels_of

_FOLDS, _BATCH, _LEARNING_RATE, _DROPOUT = 5, 16, 3e-3, 0.3


@dataclass(frozen=True)
class Data:
    """Images at the network's size, and what is asked of them.

    Attributes:
        positions: (N,) in the training set's names.
        inputs: (N, h, w, 3) uint8 RGB.
        coverage: (N, h, w) uint8, 0 .. 255.
        labels: (N,) int.
        groups: (N,) str.
        held_out: (N,) bool: of the fold that is scored.
    """

    positions: np.ndarray
    inputs: np.ndarray
    coverage: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    held_out: np.ndarray


def read(training: TrainingSet, known: dict[str, str], frame: Frame, per_group: int) -> Data:
    """Some images of every group, and a fold of the groups to score."""
    positions = np.array(drawn_images(training, sorted(known), per_group))
    groups = training.groups()[positions]
    labels = np.unique([known[group] for group in groups], return_inverse=True)[1]
    if len(np.unique(groups)) < _FOLDS:
        raise UserError(f"{training.data} has fewer than {_FOLDS} groups with a label: take more.")
    held_out = np.zeros(len(positions), bool)
    held_out[next(GroupKFold(_FOLDS).split(positions, labels, groups))[1]] = True
    shown = tqdm(positions, desc="read", unit="image", disable=None)
    both = [(training.input_of(p, frame), frame.apply_mask(training.mask(training.names[p]))) for p in shown]
    inputs, coverage = (np.stack(own) for own in zip(*both, strict=True))
    return Data(positions, inputs, coverage, labels, groups, held_out)


def trained(data: Data, variant: Variant, weight: float, epochs: int, seed: int) -> torch.nn.Module:
    """A network after some epochs in which the label's cross-entropy counted `weight` times the mask's loss.

    Weights at the start, batches, flips and dropout depend on `seed` alone.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = smp.create_model(
        variant.architecture,
        encoder_name=variant.encoder,
        encoder_weights=None,
        aux_params={"classes": int(data.labels.max()) + 1, "dropout": _DROPOUT},
        **variant.options,
    )
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    own = np.flatnonzero(~data.held_out)
    steps = len(own) // _BATCH
    optimiser = torch.optim.AdamW(network.parameters(), _LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=epochs * steps)
    mask_loss = find_loss("bce-dice")
    for _ in range(epochs):
        order = rng.permutation(own)
        for step in range(steps):
            some = order[step * _BATCH : (step + 1) * _BATCH]
            inputs = normalise(torch.from_numpy(data.inputs[some]), variant)
            target = torch.from_numpy(data.coverage[some, None]).float() / 255
            if rng.random() < 0.5:
                inputs, target = inputs.flip(3), target.flip(3)
            masks, labels = network(inputs)
            loss = mask_loss(masks, target)
            if weight:
                loss = loss + weight * torch.nn.functional.cross_entropy(labels, torch.from_numpy(data.labels[some]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def scored(
    network: torch.nn.Module, data: Data, training: TrainingSet, variant: Variant
) -> tuple[np.ndarray, np.ndarray]:
    """Of every held-out image the Dice of its mask at full size, and the rank of its label, 0 the likeliest."""
    frame, full = frame_of(variant), training.competition.size
    dice, ranks = [], []
    for k in np.flatnonzero(data.held_out):
        masks, labels = network(normalise(torch.from_numpy(data.inputs[k : k + 1]), variant))
        mask = frame.invert(masks[0, 0].numpy(), full) > 0
        dice.append(DICE.of(counts(mask, training.mask(training.names[data.positions[k]]))))
        ranks.append(int((labels[0] > labels[0, data.labels[k]]).sum()))
    return np.array(dice), np.array(ranks)


@program
def main(
    competition: str = "carvana",
    data: Path | None = None,
    variant: str = "unet-mobilenetv3",
    height: Positive = 96,
    width: Positive = 160,
    images: Positive = 4,
    epochs: Epochs = 8,
    weight: Weight = 0.1,
    seeds: Positive = 2,
    seed: Seed = 0,
    label: str = "",
) -> None:
    """Print the mask's Dice with and without the label's loss, their difference, and how often the label is right.

    Args:
        competition: a name from competition.py.
        data: the competition's files; data/<competition> by default.
        variant: whose architecture and encoder, from scratch.
        height, width: of the input, divisible by 32.
        images: of each group, at most.
        epochs: of each training.
        weight: of the label's cross-entropy beside the mask's loss.
        seeds: trainings of each kind.
        seed: of the first.
        label: a column of the metadata; by default the one that reports break scores down by.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    training = find_training_set(*files_of(competition, data))
    taken = find_variant(variant)
    small = Variant.from_json({**taken.to_json(), "size": [height, width]})
    read_in = read(training, labels_of(training, label), frame_of(small), images)
    groups = read_in.groups[read_in.held_out]
    trained_on = len(read_in.groups) - len(groups)
    print(f"{len(groups)} images of {len(set(groups.tolist()))} groups scored, {trained_on} images trained on")
    gains = []
    for k in range(seeds):
        found = {}
        for name, own in (("mask alone", 0.0), ("mask and label", weight)):
            started = time.process_time()
            network = trained(read_in, small, own, epochs, check_seed(seed + k))
            dice, ranks = found[name] = scored(network, read_in, training, small)
            top = f"label {np.mean(ranks == 0):.3f}, among 3 {np.mean(ranks < 3):.3f}" if own else ""
            print(
                f"seed {seed + k} {name:15} Dice {dice.mean():.4f}  {time.process_time() - started:.0f} s  {top}",
                flush=True,
            )
        gains.append(found["mask and label"][0] - found["mask alone"][0])
        low, high = mean_interval(gains[-1], groups)
        print(f"seed {seed + k} the label's loss adds {gains[-1].mean():+.5f} ({low:+.5f}..{high:+.5f})")
    low, high = mean_interval(np.mean(gains, axis=0), groups)
    print(f"mean of {seeds}: {np.mean(gains):+.5f} ({low:+.5f}..{high:+.5f})")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
