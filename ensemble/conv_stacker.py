"""A small convolutional stacker: what a linear blend of logits cannot do, as it sees one pixel at a time.

A linear blend of the networks' logits, plus a correction by three 3x3 convolutions from all networks' logits around
the pixel and, if wanted, from the image there. Unfitted, the correction is 0 and the stacker is the linear blend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import safetensors
import safetensors.numpy
import torch
from pydantic import Field
from typing_extensions import TypedDict

import atomic
from command_line import UserError
from competition import Size
from ensemble.blend_file import CONV_VOTES, STACKER_FILE, STACKER_WEIGHTS_FILE
from ensemble.correction import Correction, stacked_inputs
from ensemble.patches import Patches, grid_of, on_grid
from json_file import Count, Digest, Schema, extensible
from models.frame import Frame

NAMES = CONV_VOTES
NAME, IMAGE_NAME = NAMES

# pixels that the convolutions see around one; at a window's border they would see padding
_REACH_PX = 3
# of a stacker, as its JSON file has them
_PARAMETERS = ("channels", "steps", "batch", "rate", "seed", "image")
_CURE = "choose the blend again (make fit)"


@extensible
class _Saved(TypedDict):
    """The content of conv_stacker.json."""

    members: list[str]
    channels: Annotated[int, Field(ge=1, le=1024)]
    steps: Count
    batch: Count
    rate: float
    seed: int
    # a stacker of before there were images looks at none
    image: NotRequired[bool]
    digest: Digest


_SAVED = Schema(_Saved, _CURE)


class ConvStacker:
    """Learns the correction of a linear blend from windows of out-of-fold logits.

    A fitted one is a `ensemble.voting.Combination`; it pickles to workers.

    Args:
        channels: of the two hidden layers.
        steps: of the optimiser.
        batch: windows a step.
        rate: the highest learning rate; it rises and falls over the steps.
        seed: of the first weights and of the order of windows.
        image: look at the image too: it is reduced as for the largest network, and normalised.

    Attributes:
        weights_: (M,) of the linear blend.
        state_: the convolutions' weights and biases by name, float32.
    """

    def __init__(
        self,
        channels: int = 8,
        steps: int = 400,
        batch: int = 16,
        rate: float = 1e-2,
        seed: int = 0,
        image: bool = False,
    ) -> None:
        self.channels = channels
        self.steps = steps
        self.batch = batch
        self.rate = rate
        self.seed = seed
        self.image = image

    def _correction(self) -> Correction:
        return Correction(len(self.weights_) + 3 * self.image, self.channels)

    def fit(self, patches: Patches, images: np.ndarray, weights: np.ndarray) -> ConvStacker:
        """Learn from the windows of the images at these positions; returns self.

        Args:
            patches: windows of all images.
            images: positions of those that may be seen.
            weights: (M,) of the linear blend, fitted on no others.

        Raises:
            ValueError: it looks at images, and the windows have none.
        """
        if self.image and patches.images is None:
            raise ValueError("windows without images")
        seen = np.flatnonzero(np.isin(patches.image, images))
        rng = np.random.default_rng(self.seed)
        self.weights_ = np.asarray(weights, np.float32)
        linear = torch.from_numpy(self.weights_)[:, None, None]
        inside = np.s_[..., _REACH_PX:-_REACH_PX, _REACH_PX:-_REACH_PX]
        threads = torch.get_num_threads()
        # one thread adds in one order: the same weights whatever the number of cores
        torch.set_num_threads(1)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                network = self._correction()
            optimiser = torch.optim.Adam(network.parameters(), lr=self.rate)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=self.steps)
            for _ in range(self.steps):
                chosen = rng.choice(seen, self.batch)
                logits = torch.from_numpy(patches.inputs[chosen].astype(np.float32))
                target = torch.from_numpy(patches.targets[chosen].astype(np.float32) / 255)
                pictures = patches.images[chosen] if self.image and patches.images is not None else None
                found = (logits * linear).sum(1) + network(stacked_inputs(logits, pictures))[:, 0]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(found[inside], target[inside])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        finally:
            torch.set_num_threads(threads)
        self.state_ = {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}
        return self

    @property
    def label(self) -> str:
        """Its name and the digest of what it has learned."""
        return f"{IMAGE_NAME if self.image else NAME} {self.digest()}"

    def image_frame(self, frames: Sequence[Frame], full: Size) -> Frame | None:
        """The frame it needs the image in, beside logits in these frames; None where it looks at logits alone."""
        return grid_of(frames) if self.image else None

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        """Full-size logits, foreground above 0.

        Args:
            planes: per network (h, w) float32 logits, in the order of the fit; not modified.
            frames: the networks' frames, in the same order.
            weights: not looked at, as the stacker has its own.
            full: (H, W) of the full frame.
            image: (h, w, 3) uint8 RGB, in `image_frame`; not looked at where that is None.

        Returns:
            (H, W) float32.

        Raises:
            ValueError: it needs the image, and it is not given.
        """
        if self.image and image is None:
            raise ValueError("the stacker needs the image")
        grid = grid_of(frames)
        on_one_grid = torch.from_numpy(on_grid(planes, frames, grid, full))
        network = self._correction()
        network.load_state_dict({name: torch.from_numpy(array) for name, array in self.state_.items()})
        with torch.inference_mode():
            linear = torch.tensordot(torch.from_numpy(self.weights_), on_one_grid, 1)
            seen = image[None] if self.image and image is not None else None
            total = linear + network(stacked_inputs(on_one_grid[None], seen))[0, 0]
        return grid.invert(total.numpy(), full)

    def digest(self) -> str:
        """Identifies what was learned."""
        content = safetensors.numpy.save({"weights": self.weights_, **self.state_})
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def save(self, folder: Path, members: Sequence[str]) -> None:
        """Write what was learned and from which members, in their order, into `folder`."""
        with atomic.replacing(folder / STACKER_WEIGHTS_FILE) as temporary:
            safetensors.numpy.save_file({"weights": self.weights_, **self.state_}, temporary)
        parameters = {key: getattr(self, key) for key in _PARAMETERS}
        atomic.write_json(folder / STACKER_FILE, {"members": list(members), **parameters, "digest": self.digest()})


@dataclass(frozen=True)
class _OfNetworks:
    """A stacker for logits that come in another order, or with others among them."""

    label: str
    stacker: ConvStacker
    positions: tuple[int, ...]

    def image_frame(self, frames: Sequence[Frame], full: Size) -> Frame | None:
        return self.stacker.image_frame([frames[i] for i in self.positions], full)

    def __call__(
        self,
        planes: Sequence[np.ndarray],
        frames: Sequence[Frame],
        weights: Sequence[float],
        full: Size,
        image: np.ndarray | None = None,
    ) -> np.ndarray:
        some = self.positions
        own, their_frames = [planes[i] for i in some], [frames[i] for i in some]
        return self.stacker(own, their_frames, [weights[i] for i in some], full, image)


def load(folder: Path, name: str, names: Sequence[str], digest: str) -> _OfNetworks:
    """The stacker of a blend.

    Args:
        folder: of the blend.
        name: of the stacker, one of `NAMES`.
        names: the networks whose logits it will be given, in order.
        digest: what the blend says the stacker is.

    Returns:
        A combination (`ensemble.voting.Combination`) of those networks' logits.

    Raises:
        UserError: a file is missing or damaged, of another fit than the blend, or `names` lacks a member.
    """
    try:
        saved = _SAVED.read(folder / STACKER_FILE)
        state = safetensors.numpy.load_file(folder / STACKER_WEIGHTS_FILE)
        parameters: dict[str, Any] = {key: value for key, value in saved.items() if key in _PARAMETERS}
        stacker = ConvStacker(**parameters)
        stacker.weights_ = state.pop("weights")
        stacker.state_ = state
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or folder / STACKER_WEIGHTS_FILE} is missing: {_CURE}.") from None
    except (KeyError, safetensors.SafetensorError):
        raise UserError(f"{folder / STACKER_WEIGHTS_FILE} is damaged: {_CURE}.") from None
    if stacker.digest() != digest:
        raise UserError(f"{folder / STACKER_WEIGHTS_FILE} is not of the fit that wrote the blend: {_CURE}.")
    members = saved["members"]
    lacking = [member for member in members if member not in names]
    if lacking:
        raise UserError(f"the stacker in {folder} needs {lacking[0]}, which is not among the networks: {_CURE}.")
    return _OfNetworks(f"{name} {digest}", stacker, tuple(names.index(member) for member in members))
