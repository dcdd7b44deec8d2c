"""What a blend.json says, in words and as a table for people."""

from __future__ import annotations

from ensemble.blend_file import Expected, Figures, FittedBlend
from kernels.metrics import metric_in, score_in

# what a figure says of the choice that it belongs to; blends of before there was an outer loop nested weights alone
_NESTED_BEFORE = ("weights",)


def nested_in(figures: Figures) -> str:
    """What was chosen without the fold that is scored, in words, for a `cv` of blend.json."""
    return ", ".join(figures.get("nested", _NESTED_BEFORE))


def averaged_folds_note(expected: Expected | None) -> str:
    """What an `expected` of blend.json is not about, as a sentence; empty for blends that do not say."""
    folds = expected.get("submission_averaged_folds", 1) if expected else 1
    if folds == 1:
        return ""
    return f"of networks of one fold each, as they were scored; the submission averages the networks of {folds}"


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
    for other, figures in blend.get("gains", {}).items():
        low, high = figures["interval"]
        if low == high == 0:
            continue
        lines.append(f"{f'  above {other}':36} {figures['gain']:+.5f}  {low:+.5f}..{high:+.5f}")
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
        verdict = "kept" if fit["kept"] else "not kept, as its interval is not above 0"
        lines.append(f"a fitted threshold ({fit['fitted']:g}) gains {fit['nested_gain']:+.6f}: {verdict}")
    for repair, measured in blend.get("postprocess", {}).items():
        verdict = "kept" if measured["kept"] else "not kept, as its interval is not above 0"
        lines.append(f"{repair} ({measured['size_px']} px) gains {measured['nested_gain']:+.6f}: {verdict}")
    if "refiner_fit" in blend:
        refiner = blend["refiner_fit"]
        verdict = "kept" if refiner["kept"] else "not kept, as its interval is not above 0"
        lines.append(row(f"  with the refiner ({refiner['name']})", refiner["after"]))
        lines.append(f"the refiner gains {refiner['nested_gain']:+.6f}: {verdict}")
    if "presence_fit" in blend:
        presence = blend["presence_fit"]
        verdict = "kept" if presence["kept"] else "not kept, as its interval is not above 0"
        told = f"no mask where networks see nothing ({presence['threshold']:g})"
        lines.append(f"{told} gains {presence['nested_gain']:+.6f}: {verdict}")
    lines.append("intervals: over groups of images; not over seeds, trainings or the choice of the best epoch")
    return lines
