"""Whether the test images differ from the training images: a classifier that tries to tell them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from report.explore.survey import STATISTICS

_FOLDS = 5
# images of a set that are asked after; more make it slower, and the answer no other
_MOST_IMAGES = 2_000
_TREES = 60


@dataclass(frozen=True)
class Shift:
    """How well train and test are told apart: areas under the ROC curve, 0.5 where not at all, 1 where always.

    Attributes:
        auc: of images whose group the classifier has not seen; the mean of five folds.
        by_fold: of each.
        by_chance: what sets that do not differ hardly ever exceed: 0.5 and three standard errors, over groups.
        statistics: by statistic: auc of it alone (at least 0.5), and the medians of train and test.
    """

    auc: float
    by_fold: list[float]
    by_chance: float
    statistics: dict[str, dict[str, float]]

    @property
    def told_apart(self) -> bool:
        """Whether more is told than chance would."""
        return self.auc > self.by_chance


def _aucs(features: np.ndarray, is_test: np.ndarray, groups: np.ndarray) -> list[float]:
    """Of each fold whose groups the classifier has not seen and that holds both sets."""
    # a second to import
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    aucs = []
    for train, held_out in StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(features, is_test, groups):
        if len(set(is_test[train])) == len(set(is_test[held_out])) == 2:
            forest = RandomForestClassifier(_TREES, min_samples_leaf=3, class_weight="balanced", random_state=0)
            said = forest.fit(features[train], is_test[train]).predict_proba(features[held_out])[:, 1]
            aucs.append(float(roc_auc_score(is_test[held_out], said)))
    return aucs


def shift(images: pd.DataFrame) -> Shift | None:
    """Tell train from test by their images' statistics.

    Args:
        images: a row an image, as `survey` makes them.

    Returns:
        None where one of the sets has fewer groups than there are folds.
    """
    if images.groupby("set")["group"].nunique().reindex(["train", "test"], fill_value=0).min() < _FOLDS:
        return None
    parts = [part.sample(min(len(part), _MOST_IMAGES), random_state=0) for _, part in images.groupby("set")]
    drawn = pd.concat(parts)
    features = drawn[list(STATISTICS)].to_numpy(float)
    is_test = (drawn["set"] == "test").to_numpy()
    # a group that is in both sets must not be on both sides
    codes = np.unique(drawn["group"].to_numpy(str), return_inverse=True)[1]
    by_fold = _aucs(features, is_test, codes)
    if not by_fold:
        return None
    of_train, of_test = (len(np.unique(codes[is_test == which])) for which in (False, True))
    # of the rank sum; images of one group are no more than one
    error = ((of_train + of_test + 1) / (12 * of_train * of_test)) ** 0.5
    from sklearn.metrics import roc_auc_score

    each = {}
    for name in STATISTICS:
        values = drawn[name].to_numpy(float)
        auc = float(roc_auc_score(is_test, values))
        each[name] = {
            "auc": max(auc, 1 - auc),
            "train_median": float(np.median(values[~is_test])),
            "test_median": float(np.median(values[is_test])),
        }
    ordered = dict(sorted(each.items(), key=lambda item: -item[1]["auc"]))
    return Shift(float(np.mean(by_fold)), by_fold, min(0.5 + 3 * error, 1.0), ordered)
