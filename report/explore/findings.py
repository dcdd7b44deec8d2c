"""What of all that was found about the data is worth a sentence at the top of the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.metrics import Metric
from report.explore.agreement import Agreement
from report.explore.ceilings import Ceiling
from report.explore.facts import Fact
from report.explore.likeness import Likeness
from report.explore.listing import Listing
from report.explore.shift import Shift
from report.explore.survey import Survey

_NAMED = 8


@dataclass(frozen=True)
class Found:
    """Everything about the data.

    Attributes:
        listing, survey: of files and images.
        faults: names of files by what is wrong with them, of both.
        facts: of the metadata.
        ceilings, ceiling_masks: by input size, and on how many masks.
        within, across: near-duplicates between groups of the training set, and between train and test.
        shift: between train and test.
        agreement: of masks between views.
    """

    listing: Listing
    survey: Survey
    faults: dict[str, list[str]]
    facts: list[Fact]
    ceilings: list[Ceiling]
    ceiling_masks: int
    within: Likeness
    across: Likeness | None
    shift: Shift | None
    agreement: Agreement | None


def few(names: list[str]) -> str:
    """The first of some names, and how many more there are.

    >>> few(["a", "b"]), few(list("abcdefghijk"))
    ('a, b', 'a, b, c, d, e, f, g, h and 3 more')
    """
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _of_masks(found: Found) -> list[str]:
    areas = found.survey.images["area_share"].dropna()
    told = [f"Masks cover {areas.mean():.1%} of the frame on average ({areas.min():.1%} to {areas.max():.1%})."]
    facts = found.listing.competition
    for kind, share, expected in (("empty", 0, facts.empty_masks), ("full", 1, facts.full_masks)):
        count = int((areas == share).sum())
        if count and expected:
            told.append(f"{count} of {len(areas)} masks are {kind} ({count / len(areas):.1%}).")
        elif count:
            told.append(f"{count} masks are {kind}, which none should be in this competition.")
    return told


def ladder(ceilings: list[Ceiling], metric: Metric) -> str:
    """From which input size on a larger one has next to nothing to gain: where a tenth of the loss at the smallest
    size is left."""
    losses = [1 - ceiling.score for ceiling in ceilings]
    enough = [c for c, lost in zip(ceilings, losses, strict=True) if lost <= max(losses[-1] / 10, 1e-12)]
    smallest = ceilings[-1]
    text = f"A perfect network of {smallest.size[0]}x{smallest.size[1]} inputs has {metric.label} {smallest.score:.4f}"
    if not enough:
        return f"{text}, and one of {ceilings[0].size[0]}x{ceilings[0].size[1]} {ceilings[0].score:.4f}."
    best = enough[-1]
    return (
        f"{text}; at {best.size[0]}x{best.size[1]}, {best.score:.4f}, nine tenths of what that lacks are won, and all "
        f"larger inputs together have {1 - best.score:.4f} left to gain from size alone."
    )


def findings(found: Found, metric: Metric) -> list[str]:
    """The sentences, in the order of the page; the metric is the competition's."""
    told = []
    if count := sum(map(len, found.faults.values())):
        told.append(f"{count} files need a look: " + "; ".join(f"{len(v)} {k}" for k, v in found.faults.items()) + ".")
    for fact in found.facts:
        if fact.counts and fact.only_in_test:
            told.append(f"In the test set and not in train, by {fact.column}: {few(fact.only_in_test)}.")
        if fact.outside:
            told.append(f"{fact.outside} test entries have a {fact.column} beyond all of train.")
    told += _of_masks(found)
    if found.ceilings:
        told.append(ladder(found.ceilings, metric))
    if found.agreement:
        told.append(
            f"Masks of neighbouring views agree with IoU {found.agreement.mean_iou:.4f}; "
            f"{len(found.agreement.strange)} masks agree strangely little with both neighbours."
        )
    if found.within.pairs:
        told.append(
            f"{len(found.within.pairs)} pairs of training images from different groups are nearly the same: a split by "
            "group may have one in training and the other held out."
        )
    if found.across and found.across.pairs:
        firsts = np.unique([pair[1] for pair in found.across.pairs])
        told.append(f"{len(firsts)} test images are nearly the same as a training image.")
    if found.shift:
        verdict = "are told apart" if found.shift.told_apart else "are not told apart better than by chance"
        told.append(
            f"By statistics of their images, train and test {verdict}: AUC {found.shift.auc:.3f}, where so "
            f"few groups can have {found.shift.by_chance:.3f} by chance."
        )
    return told
