"""What the stages of a network answer to an image, and where the evidence of an output lies; by hooks alone.

Evidence is Grad-CAM (Selvaraju et al., 2017) of a sum over pixels, as for segmentation (Vinogradova et al., 2020): the
channels of a stage, each weighted by the mean gradient of the score with respect to it, summed, and cut off at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch

from command_line import UserError

# modules that make logits of a stage: what they give is the answer and no stage of the way to it
_HEADS = {"logits", "labels", "segmentation_head", "classification_head"}

Score = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Stage:
    """What one stage of a network answers to one image.

    Attributes:
        name: of the module whose output it is, with its place where the module gives several.
        values: (C, h, w) float32.
        evidence: (h, w) float32, 0 and above, in the score's unit; None where the score does not depend on the stage.
    """

    name: str
    values: np.ndarray
    evidence: np.ndarray | None

    def strength(self) -> np.ndarray:
        """(C,) float32: the standard deviation of each channel over the image; a channel that says nothing has 0."""
        strength: np.ndarray = self.values.std(axis=(1, 2))
        return strength

    def strongest(self, count: int) -> list[int]:
        """At most `count` channels, the strongest first."""
        return [int(k) for k in np.argsort(-self.strength(), kind="stable")[:count]]


@dataclass(frozen=True)
class _Output:
    """One output of a module, in the order of execution."""

    name: str
    tensor: torch.Tensor
    convolution: bool = False
    # one of several features of an encoder, each a stage of its own
    feature: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return self.tensor.shape[2], self.tensor.shape[3]


def _is_planes(output: Any) -> bool:
    return isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[1] > 0


@contextmanager
def _recorded(network: torch.nn.Module, outputs: list[_Output], heads: list[torch.Tensor]) -> Iterator[None]:
    """While this is open, planes that the network's modules give go to `outputs`, those of its heads to `heads`."""

    def hook_of(name: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if not _HEADS.isdisjoint(name.split(".")):
                if isinstance(output, torch.Tensor):
                    heads.append(output)
            elif isinstance(module, torch.nn.Identity):
                pass
            elif _is_planes(output):
                outputs.append(_Output(name, output, isinstance(module, torch.nn.Conv2d)))
            elif isinstance(output, (list, tuple)) and sum(map(_is_planes, output)) > 1:
                # an encoder's features: they stand for what lies within it
                outputs[:] = [o for o in outputs if not o.name.startswith(f"{name}.")]
                outputs.extend(_Output(f"{name} {i}", o, feature=True) for i, o in enumerate(output) if _is_planes(o))

        return hook

    names = [name for name, _ in network.named_modules()]
    # what holds a head gives that head's answer in turn
    above = {name.removesuffix(f".{head}") for name in names for head in _HEADS if name.endswith(f".{head}")}
    hooks = [
        module.register_forward_hook(hook_of(name))
        for name, module in network.named_modules()
        if name and name not in above
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_of_each_size(outputs: Sequence[_Output]) -> list[_Output]:
    """The last output of every run of outputs of one size; where the size never changes, of every convolution."""
    runs = [list(run) for _, run in groupby(outputs, lambda output: (output.size, output.feature))]
    if len(runs) == 1:
        starts = [i for i, output in enumerate(outputs) if output.convolution] + [len(outputs)]
        runs = [list(outputs[a:b]) for a, b in pairwise(starts)]
    return [run[-1] for run in runs if run]


def _stages(outputs: Sequence[_Output], inputs: torch.Tensor, answers: Sequence[torch.Tensor]) -> list[_Output]:
    height, width = inputs.shape[2:]
    given = {tensor.data_ptr() for tensor in (inputs, *answers)}

    def whole_image(output: _Output) -> bool:
        # planes in the image's proportions: no vectors of whole images, and no tokens or channels last
        h, w = output.size
        return min(h, w) > 1 and abs(h * width - w * height) <= max(height, width)

    # a container that passes on a head's answer is no stage either
    kept = [o for o in outputs if whole_image(o) and o.tensor.data_ptr() not in given]
    return _last_of_each_size(kept)


def look_inside(network: torch.nn.Module, inputs: torch.Tensor, score: Score) -> tuple[np.ndarray, list[Stage]]:
    """What every stage of a network answers to one image, and where the evidence for a score lies.

    A stage is the last output of a run of modules whose outputs have one size, in the order of execution, so a
    U-Net has one at each level on its way down and one at each on its way up.

    Args:
        network: maps (1, C, h, w) to logits (1, K, h, w); in evaluation mode. Left as it was.
        inputs: (1, C, h, w) float32, normalised, on the network's device.
        score: a differentiable function of the logits, (1, K, h, w) -> (), such as `foreground_score`.

    Returns:
        The logits, (K, h, w) float32, as the network gives them alone; and the stages in the order of execution.

    Raises:
        UserError: the network has no layers to look into.
    """
    outputs: list[_Output] = []
    heads: list[torch.Tensor] = []
    with _recorded(network, outputs, heads), torch.enable_grad():
        # evidence lies in stages whose weights training leaves alone too
        logits = network(inputs.detach().requires_grad_())
        found = _stages(outputs, inputs, (logits, *heads))
        if not found:
            raise UserError(f"a {type(network).__name__} has no layers to look into: choose another variant (V=...).")
        tensors = [output.tensor for output in found]
        total = score(logits)
        gradients = torch.autograd.grad(total, tensors, allow_unused=True)
    stages = []
    for output, gradient in zip(found, gradients, strict=True):
        values = output.tensor.detach()[0].float()
        evidence = None
        if gradient is not None and bool(gradient.any()):
            weights = gradient[0].float().mean((1, 2))
            evidence = torch.einsum("c,chw->hw", weights, values).relu().cpu().numpy()
        stages.append(Stage(output.name, values.cpu().numpy(), evidence))
    return logits.detach()[0].float().cpu().numpy(), stages


def foreground_score(plane: int) -> Score:
    """The sum of one plane's logits over the pixels that it calls foreground; over all where it calls none so."""

    def score(logits: torch.Tensor) -> torch.Tensor:
        values = logits[0, plane]
        foreground = values.detach() > 0
        return values[foreground].sum() if bool(foreground.any()) else values.sum()

    return score


def pixel_score(plane: int, row: int, column: int) -> Score:
    """One plane's logit at one pixel of the network's input."""
    return lambda logits: logits[0, plane, row, column]
