"""A blend as one torch module, from an image of any size to its mask: all networks, and what lies before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from command_line import UserError
from ensemble.blend import Blend
from ensemble.voting import LINEAR
from models import checkpoint
from models.network_input import normalise
from models.networks.window_graph import graph_of_network
from models.tta import find_transforms, mean_logits
from predict.members import Member
from predict.tile_graph import graph_of

# the logit of what a vote has decided without doubt, as ensemble.voting has it
_SURE = 16.0


def _logit(probability: torch.Tensor) -> torch.Tensor:
    limit = torch.tanh(torch.tensor(_SURE / 2))
    return 2 * torch.atanh((2 * probability - 1).clamp(-limit, limit))


def _probability(planes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return _logit((torch.sigmoid(planes) * weights).sum(0))


def _geometric(planes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return _logit(torch.exp((torch.nn.functional.logsigmoid(planes) * weights).sum(0)))


def _majority(planes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    votes = ((planes > 0) * weights).sum(0)
    return torch.where(votes > 0.5 + 1e-6, _SURE, -_SURE)


# what ensemble.voting does to arrays, from full-size logits (M, H, W) and weights (M, 1, 1) that sum to 1 to (H, W)
VOTES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "probability": _probability,
    "geometric": _geometric,
    "majority": _majority,
}


class _MemberNetwork(torch.nn.Module):
    """A member's logits: its folds and its test-time augmentations averaged."""

    def __init__(self, member: Member, folds: int) -> None:
        super().__init__()
        loaded = [checkpoint.load(folder)[0].eval() for folder in member.folds[: folds or None]]
        self.networks = torch.nn.ModuleList(graph_of_network(network) for network in loaded)
        self._variant = member.variant
        self._frame = member.frame
        self._transforms = find_transforms(member.variant.tta)
        self._mask = member.variant.planes_of("mask").start

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(H, W) float32 logits of the mask, from (H, W, 3) uint8."""
        frame = graph_of(self._frame, (image.shape[0], image.shape[1]))
        inputs = normalise(frame.to_input(image), self._variant)
        found = [mean_logits(network, inputs, self._transforms) for network in self.networks]
        return frame.to_full(torch.stack(found).mean(0)[:, self._mask])


class WholeNetwork(torch.nn.Module):
    """A blend of networks as one network, in float32.

    Logits are not rounded as stored ones are, and are summed at full size. Repairs of the mask, and what empties masks,
    are left out: `left_out` names them.

    Args:
        blend: what is fitted.
        folds: networks of each member; 0 takes all its folds.

    Raises:
        UserError: a member was imported; or the blend has boosted pixels, which cannot be left out.
    """

    def __init__(self, blend: Blend, folds: int = 0) -> None:
        super().__init__()
        self.label = blend.combination.label
        if self.label != LINEAR.label and self.label not in VOTES:
            raise UserError(
                f"a blend by {self.label.split()[0]} cannot be exported: choose another way "
                "(make fit ARGS=--no-pixels)."
            )
        pairs = [(m, w) for m, w in zip(blend.members, blend.weights, strict=True) if w != 0]
        for member, _ in pairs:
            member.require_network()
        self.networks = torch.nn.ModuleList(_MemberNetwork(member, folds) for member, _ in pairs)
        self._weights = [float(weight) for _, weight in pairs]
        self._threshold = float(blend.threshold)
        self.left_out = [name for name, _ in blend.repairs] + ["presence"] * (blend.gate is not None)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict.

        Args:
            image: (H, W, 3) uint8 RGB, of any size.

        Returns:
            The mask, (H, W) uint8 of 0 and 255, and logits, (H, W) float32, above 0 where the mask is.
        """
        logits = self._combined([network(image) for network in self.networks]) - self._threshold
        return (logits > 0).to(torch.uint8) * 255, logits

    def _combined(self, planes: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.label == LINEAR.label:
            total = planes[0] * self._weights[0]
            for plane, weight in zip(planes[1:], self._weights[1:], strict=True):
                total = total + plane * weight
            return total
        weights = torch.tensor(self._weights)[:, None, None]
        return VOTES[self.label](torch.stack(list(planes)), weights / weights.sum())
