"""What a fold's training leaves behind to look at: metrics.csv, its picture, TensorBoard's images, alarms."""

from __future__ import annotations

import models.torchvision_compat  # noqa: F401

import csv
import time
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

import atomic
from folds.run_layout import CURVES_FILE, METRICS_FILE
from folds.spent import Spent
from kernels.metrics import DICE, Metric

# and, last, the mask's score
_COLUMNS = ("epoch", "step", "train_loss", "val_loss")
# epochs of score 0 in a row that are an alarm
_DEAD_EPOCHS = 3
# drawing takes a tenth of a second or more: on short epochs it would be felt
_DRAW_EVERY_S = 60
_SHOWN = 3
_SHOWN_WIDTH_PX = 192

Row = dict[str, float]


def draw_curves(rows: list[Row], label: str, path: Path, metric: Metric = DICE) -> None:
    """Draw loss and score by epoch into a PNG.

    Args:
        rows: of metrics.csv, at least one.
        label: title.
        path: of the picture; replaced whole.
        metric: of the score.
    """
    # without pyplot, which keeps state for the whole process; imported late, since it takes a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), dpi=100)
    # fixed: finding the room takes as long as the drawing
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.14, top=0.91, wspace=0.2)
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] + 1 for row in rows]
    for key, name in (("train_loss", "training"), ("val_loss", "validation")):
        losses.plot(epochs, [row[key] for row in rows], marker=".", label=name)
    losses.set(xlabel="epoch", ylabel="loss", title=label)
    losses.legend()
    scores.plot(epochs, [row[metric.logged] for row in rows], marker=".", color="tab:green")
    best = max(rows, key=lambda row: row[metric.logged])
    scores.set(xlabel="epoch", ylabel=f"{metric.label} at full size", title=f"best {best[metric.logged]:.4f}")
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def panels(image: np.ndarray, mask: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """One sample for the eye: image, true mask, predicted probability, side by side.

    Args:
        image: (h, w, C) uint8.
        mask: (h, w) uint8 coverage.
        logits: (h, w) float32.

    Returns:
        (h', 3 w', 3) uint8, reduced to a width of at most 192 px a panel.
    """
    with np.errstate(over="ignore"):
        probability = np.rint(255 / (1 + np.exp(-logits))).astype(np.uint8)
    # of two stacked images the second is the one to segment
    colours = image[..., -3:] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2)
    shown = np.concatenate([colours, *(np.repeat(plane[..., None], 3, 2) for plane in (mask, probability))], axis=1)
    factor = min(1.0, _SHOWN_WIDTH_PX / image.shape[1])
    size = (3 * max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(shown, size, interpolation=cv2.INTER_AREA)


class Bar(TQDMProgressBar):
    """Lightning's progress bar; a fold's bars stay, one an epoch."""

    def __init__(self) -> None:
        super().__init__(leave=True)

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> Any:
        """What stands beside the bar: without the name of a folder that is always the same."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class EpochRecord(Callback):
    """Writes metrics.csv whole after each epoch, its picture beside it, and a few validation masks for TensorBoard.

    Its rows lie in Lightning's checkpoints: a resumed run has the rows of the epochs before, and no other.

    Args:
        folder: of the fold.
        label: variant and fold.
        lines: print one line an epoch, for runs whose output is shared with others or kept in a log.
        mask_plane: which of the output's planes is the mask.
        metric: that masks are scored by.

    Attributes:
        rows: of metrics.csv.
        alarms: sentences about what is wrong with this training though it goes on.
        earlier: what the epochs cost that processes before this one have trained.
    """

    def __init__(self, folder: Path, label: str, *, lines: bool, mask_plane: int = 0, metric: Metric = DICE) -> None:
        self._folder = folder
        self._label = label
        self._lines = lines
        self._mask_plane = mask_plane
        self._metric = metric
        self._start = self._drawn = time.perf_counter()
        self._begun = Spent.so_far()
        self._spent = Spent()
        self._resumed_at = 0
        self.earlier = Spent()
        self.rows: list[Row] = []
        self.alarms: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"rows": self.rows, "alarms": self.alarms, "spent": tuple(self._spent.after(self.earlier))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.rows, self.alarms = list(state_dict["rows"]), list(state_dict["alarms"])
        # states of earlier versions do not tell
        self.earlier = Spent(*state_dict.get("spent", ()))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once where the run had stopped early before it was killed."""
        self._resumed_at = trainer.current_epoch
        if any(stopping.wait_count >= stopping.patience for stopping in trainer.early_stopping_callbacks):
            trainer.should_stop = True

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show TensorBoard the first few masks; `outputs` are the logits (N, K, h, w)."""
        if batch_idx or not trainer.is_global_zero or trainer.sanity_checking:
            return
        images, targets, positions = (part[:_SHOWN].cpu().numpy() for part in batch)
        masks = targets if targets.ndim == 3 else targets[..., self._mask_plane]
        planes = outputs[:_SHOWN, self._mask_plane].float().cpu().numpy()
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for image, mask, plane, position in zip(images, masks, planes, positions, strict=True):
                    logger.experiment.add_image(
                        f"validation/{position}", panels(image, mask, plane), trainer.current_epoch, dataformats="HWC"
                    )

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the epoch's row; print its line; raise the alarm."""
        metrics = trainer.callback_metrics
        row: Row = {"epoch": trainer.current_epoch, "step": trainer.global_step - 1}
        # further heads have metrics of their own
        score = self._metric.logged
        known = (*_COLUMNS, score)
        columns = (*known, *sorted(key for key in metrics if key.startswith("val_") and key not in known))
        row |= {key: float(metrics[key]) for key in columns[2:]}
        self.rows.append(row)
        spent = Spent.so_far().since(self._begun)
        # of all devices' processes
        used = trainer.strategy.reduce(torch.tensor(spent.cpu_seconds, device=pl_module.device), reduce_op="sum")
        self._spent = spent._replace(cpu_seconds=float(used))
        if not trainer.is_global_zero:
            return
        with atomic.replacing(self._folder / METRICS_FILE) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        if time.perf_counter() - self._drawn > _DRAW_EVERY_S:
            draw_curves(self.rows, self._label, self._folder / CURVES_FILE, self._metric)
            self._drawn = time.perf_counter()
        done, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        if self._lines:
            left = (time.perf_counter() - self._start) / (done - self._resumed_at) * (epochs - done)
            print(
                f"{self._label}  epoch {done}/{epochs}  loss {row['train_loss']:.4f}"
                f"  {self._metric.label} {row[score]:.4f}  {left:.0f} s left",
                flush=True,
            )
        dead = min(_DEAD_EPOCHS, epochs)
        if not self.alarms and len(self.rows) >= dead and all(r[score] < 1e-6 for r in self.rows[-dead:]):
            alarm = (
                f"validation {self._metric.label} of {self._label} was 0 for {dead} epochs up to epoch {done}: mixed "
                "precision underflows or the network is dead; try --precision float32, or a lower --learning-rate."
            )
            self.alarms.append(alarm)
            print(f"warning: {alarm}", flush=True)

    def finish(self) -> None:
        """Draw the whole curve. No hook of the trainer's: a run that was killed between its last epoch's state and the
        end has none called when it goes on."""
        if self.rows:
            draw_curves(self.rows, self._label, self._folder / CURVES_FILE, self._metric)
