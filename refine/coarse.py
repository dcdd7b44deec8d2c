"""What a refiner learns from: a blend's out-of-fold logits, as it was chosen without the fold that the refiner is
scored on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ensemble.blend import Blend, Refiner, blend_of
from ensemble.blend_file import FittedBlend
from ensemble.chosen_without import chosen_without
from ensemble.oof_data import OofData
from folds.images import TrainingSet
from folds.inputs import Inputs
from folds.scoring import score_of
from models.frame import Frame, load_for
from predict.presence import said_of


@dataclass(frozen=True)
class Coarse:
    """Out-of-fold logits of a blend, and the masks and scores that follow from them. Pickles to workers.

    Attributes:
        blend: as it was chosen without a fold, over the networks of `oof`.
        oof: the networks' logits, and the truth.
        training: the images.
    """

    blend: Blend
    oof: OofData
    training: TrainingSet

    @staticmethod
    def without(fold: int, folder: Path, fitted: FittedBlend, oof: OofData, training: TrainingSet) -> Coarse:
        """Those of the blend in `folder` as it was chosen without a fold; arguments as the attributes."""
        return Coarse(blend_of(folder, chosen_without(fitted, fold), oof.members), oof, training)

    def _images(self, position: int) -> dict[Frame, np.ndarray]:
        """What a stacker looks at; of other blends nothing."""
        frames = self.blend.image_frames(self.oof.full)
        if not frames:
            return {}
        return load_for(frames, self.training.image_path(self.oof.images[position]), self.oof.full)[0]

    def logits(self, position: int) -> np.ndarray:
        """(H, W) float32 of the image at `position`, the mask where they are above 0."""
        combined = self.blend.combined(self.oof.planes(position), self.oof.full, self._images(position))
        return combined - np.float32(self.blend.threshold)

    def score(self, position: int, refiner: Refiner | None = None, inputs: Inputs | None = None) -> float:
        """The score of the image at `position`, with all that comes after the logits; with a refiner before that, if
        one is given, which finds the image in `inputs`."""
        blend, images = self.blend, self._images(position)
        if refiner is not None:
            frame = refiner.image_frame(self.oof.full)
            if frame is not None and inputs is not None:
                images[frame] = np.asarray(inputs.image(position))
            blend = replace(blend, refiners=(refiner,))
        said = said_of(self.oof.stores, self.oof.images[position]) if blend.gate is not None else []
        logits = blend.logits(self.oof.planes(position), self.oof.full, images, said)
        return score_of(np.ascontiguousarray(logits), self.oof.truth.of(position), self.oof.metric)
