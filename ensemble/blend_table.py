"""What a blend.json says, in words and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemble.blend_file import Expected, Figures, FittedBlend, Gain
from kernels.metrics import metric_in, score_in

# what a figure says of the choice that it belongs to; blends of before there was an outer loop nested weights alone
_NESTED_BEFORE = ("weights",)

# what intervals hold, as measured: `ensemble.intervals` has the cases
COVERAGE = (
    "They hold the mean in 95 of 100 cases where groups err about alike; where one in twenty errs ten times as much as "
    "the others, in 57 of 100 with 12 groups and 91 with 50."
)


def nested_in(figures: Figures) -> str:
    """What was chosen without the fold that is scored, in words, for a `cv` of blend.json."""
    return ", ".join(figures.get("nested", _NESTED_BEFORE))


def averaged_folds_note(expected: Expected | None) -> str:
    """What an `expected` of blend.json is not about, as a sentence; empty for blends that do not say."""
    folds = expected.get("submission_averaged_folds", 1) if expected else 1
    if folds == 1:
        return ""
    return f"of networks of one fold each, as they were scored; the submission averages the networks of {folds}"


def verdict_on(figures: Mapping[str, Any]) -> str:
    """Whether what these figures of blend.json are of was kept, in words."""
    if figures["kept"]:
        return "kept"
    if figures["interval"][0] <= 0 or "worst_loss" not in figures:
        return "not kept, as its interval is not above 0"
    return f"not kept, as losses of {figures['worst_loss']:.5f} that no group here had could outweigh it"


def _gain_lines(blend: FittedBlend) -> list[str]:
    """What the blend is above its members: the one that is the best as it is first, then those of a nested choice."""
    lines: list[str] = []

    def add(label: str, gain: Gain, holds: str) -> None:
        low, high = gain["interval"]
        if low == high == 0:
            return
        lines.append(f"{f'  above {label}':36} {gain['gain']:+.5f}  {low:+.5f}..{high:+.5f}")
        if holds:
            lines.append(f"    ({holds})")

    if "gain_over_best" in blend:
        best = blend["gain_over_best"]
        add(best["member"], best, "the best member as it is, so by these images: rather too small than too large")
    nested = {
        "best-single": "nested: the member the other folds call the best; right on average, its interval holds 0.9"
    }
    for other, gain in blend.get("gains", {}).items():
        add(other, gain, nested.get(other, ""))
    return lines


def table_lines(blend: FittedBlend) -> list[str]:
    """The out-of-fold figures of a blend (the content of blend.json), its members and its rivals, as lines of text."""
    metric = metric_in(blend["cv"])
    head = f"out-of-fold {metric.label} at full size"
    lines = [f"{head:36}    mean  95 % interval    worst"]

    def row(label: str, figures: Figures) -> str:
        low, high = figures["interval"]
        return f"{label:36}  {score_in(figures):.4f}  {low:.4f}..{high:.4f}  {figures['worst']:.4f}"

    lines += [row(label, figures) for label, figures in blend["member_cv"].items()]
    lines.append("ways of blending, each with weights fitted without the fold that is scored")
    lines += [row(f"  {label}", figures) for label, figures in blend["candidates"].items()]
    lines.append(f"the blend, chosen without the fold that is scored: {nested_in(blend['cv'])}")
    lines.append(row(f"{blend['name']} = {blend['kind']}", blend["cv"]))
    others = {decision["kind"] for decision in blend.get("chosen_without", {}).values()} - {blend["kind"]}
    if others:
        lines.append(f"  without some fold, another way was chosen: {', '.join(sorted(others))}")
    lines += _gain_lines(blend)
    expected = blend.get("expected")
    if expected:
        low, high = expected["interval"]
        lines.append(f"{'  to be expected on the test set':36}          {low:.4f}..{high:.4f}")
        if note := averaged_folds_note(expected):
            lines.append(f"    ({note})")
    weights = ", ".join(f"{w:.3f} {name}" for name, w in zip(blend["members"], blend["weights"], strict=True))
    fit = blend["threshold_fit"]
    lines.append(f"weights: {weights}; threshold {blend['threshold']:g}")
    if fit is not None:
        lines.append(f"a fitted threshold ({fit['fitted']:g}) gains {fit['nested_gain']:+.6f}: {verdict_on(fit)}")
    for repair, measured in blend.get("postprocess", {}).items():
        gain = f"gains {measured['nested_gain']:+.6f}"
        lines.append(f"{repair} ({measured['size_px']} px) {gain}: {verdict_on(measured)}")
    if "presence_fit" in blend:
        presence = blend["presence_fit"]
        told = f"no mask where networks see nothing ({presence['threshold']:g})"
        lines.append(f"{told} gains {presence['nested_gain']:+.6f}: {verdict_on(presence)}")
    lines.append("intervals: over groups of images; not over seeds, trainings or the choice of the best epoch.")
    lines.append(COVERAGE)
    return lines
