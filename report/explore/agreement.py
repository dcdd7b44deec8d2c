"""How well masks of neighbouring views agree, and which agree less with their neighbours than others of their view."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

# how far below the median of its step a mask lies, in robust deviations, before it is worth a look
STRANGE = 4.0
_LEAST_GROUPS = 5


@dataclass(frozen=True)
class Agreement:
    """Masks of one group from different views.

    Attributes:
        views: that there are.
        iou: (V, V) mean over groups; nan where no two masks were compared.
        steps: from each view to the next, and from the last to the first: ("01-02", 5 %, median, 95 %) of the IoU.
        mean_iou, mean_dice: over all steps and groups.
        strange: (group, view, deviations) of masks that agree with both their neighbours much less than the masks of
            other groups do, worst first.
    """

    views: list[str]
    iou: np.ndarray
    steps: list[tuple[str, float, float, float]]
    mean_iou: float
    mean_dice: float
    strange: list[tuple[str, str, float]]


def _strange(deviations: dict[tuple[str, str], list[float]]) -> list[tuple[str, str, float]]:
    # both neighbours must say so: one alone may be the one that is wrong
    each = [(group, view, max(own)) for (group, view), own in deviations.items() if len(own) > 1]
    return sorted((row for row in each if row[2] <= -STRANGE), key=lambda row: row[2])


def agreement(pairs: pd.DataFrame) -> Agreement | None:
    """Sum up the pairs that `survey` has compared; None where there are none.

    Args:
        pairs: group, first, second, iou, dice; first sorts before second.
    """
    if not len(pairs):
        return None
    views = sorted({*pairs["first"], *pairs["second"]})
    place = {view: i for i, view in enumerate(views)}
    iou = np.full((len(views), len(views)), np.nan)
    np.fill_diagonal(iou, 1)
    for first, second, mean in pairs.groupby(["first", "second"])["iou"].mean().reset_index().to_numpy():
        iou[place[first], place[second]] = iou[place[second], place[first]] = mean
    order = list(pairwise(views))
    if len(views) > 2:
        # round a turntable the last is beside the first
        order.append((views[0], views[-1]))
    by_step = dict(list(pairs.groupby(["first", "second"])))
    steps, parts = [], []
    deviations: dict[tuple[str, str], list[float]] = {}
    for first, second in order:
        if (first, second) not in by_step:
            continue
        own = by_step[first, second]
        low, middle, high = np.percentile(own["iou"], [5, 50, 95])
        steps.append((f"{first}-{second}", float(low), float(middle), float(high)))
        parts.append(own)
        spread = 1.4826 * float(np.median(np.abs(own["iou"] - middle)))
        if len(own) >= _LEAST_GROUPS and spread > 0:
            for group, value in zip(own["group"], own["iou"], strict=True):
                for view in (first, second):
                    deviations.setdefault((str(group), view), []).append(float((value - middle) / spread))
    if not parts:
        return None
    every = pd.concat(parts)
    return Agreement(views, iou, steps, float(every["iou"].mean()), float(every["dice"].mean()), _strange(deviations))
