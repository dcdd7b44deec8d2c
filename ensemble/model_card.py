"""The model card of a blend that is handed on, as Markdown: use, training data, evaluation, limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from competition import Competition
from ensemble.blend_file import FittedBlend, scores_file
from ensemble.blend_table import nested_in
from folds.csv_table import read_table
from folds.run_layout import WEIGHTS_FILE
from folds.task import read_manifest
from kernels.metrics import metric_in, score_in
from predict.members import Member


def scores_by_view(folder: Path, competition: Competition, fitted: FittedBlend) -> dict[str, tuple[float, int]]:
    """The out-of-fold score of a blend by view, and of how many images; none where images have no views, or the table
    of images is not there.

    Args:
        folder: of the blend.
        competition: whose images they are.
        fitted: its blend.json.
    """
    path = folder / scores_file(metric_in(fitted["cv"]))
    if not competition.has_views or not path.exists():
        return {}
    table = read_table(path, ["image", "group"], "choose the blend again (make fit)", numbers=["nested"])
    views = [str(competition.view(name)) for name in table["image"]]
    by_view = table.assign(view=views).groupby("view")["nested"]
    return {str(view): (float(scores.mean()), len(scores)) for view, scores in by_view}


def networks_of(members: Sequence[Member]) -> str:
    """How many networks members have, in words, such as "10 networks (2 members x 5 folds)"."""
    count, folds = len(members), len(members[0].folds)
    return (
        f"{count * folds} network{'s' * (count * folds != 1)} ({count} member{'s' * (count != 1)} x "
        f"{folds} fold{'s' * (folds != 1)})"
    )


def _combined(fitted: FittedBlend, members: Sequence[Member]) -> str:
    """How networks become one mask, as sentences."""
    steps = []
    if len(members[0].folds) > 1:
        steps.append("The logits of each member's folds are averaged.")
    if len(members) > 1:
        steps.append(f"Members are blended by `{fitted['kind']}`.")
    repairs = ", ".join(name for name, _ in fitted.get("postprocess_kept", [])) or "none"
    steps.append(f"Threshold on logits: {fitted['threshold']:g}; post-processing: {repairs}.")
    return " ".join(steps)


def _megabytes(member: Member) -> float:
    return sum((fold / WEIGHTS_FILE).stat().st_size for fold in member.folds) / 1e6


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _trained(manifest: dict[str, Any]) -> str:
    recipe, epochs = manifest.get("recipe", {}), manifest.get("epochs_run", "-")
    told = [recipe.get("name", "-"), f"{epochs} epoch{'s' * (epochs != 1)}"]
    if "batch" in recipe and "learning_rate" in recipe:
        told += [f"batches of {recipe['batch']}", f"learning rate {recipe['learning_rate']:g}"]
    return ", ".join(told)


def _members(fitted: FittedBlend, members: Sequence[Member], manifests: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        _row(["member", "weight", "input", "parameters", "networks", "MB", "out of fold (95 %)", "recipe"]),
        _row(["---"] * 8),
    ]
    for member, weight, manifest in zip(members, fitted["weights"], manifests, strict=True):
        figures = fitted["member_cv"][member.name]
        low, high = figures["interval"]
        height, width = member.variant.size
        lines.append(
            _row(
                [
                    f"`{member.name}`",
                    f"{weight:.3f}",
                    f"{height}x{width}",
                    f"{manifest['parameters']:,}" if "parameters" in manifest else "-",
                    str(len(member.folds)),
                    f"{_megabytes(member):.1f}",
                    f"{score_in(figures):.4f} ({low:.4f}..{high:.4f})",
                    _trained(manifest),
                ]
            )
        )
    return lines


# whose labels a round's images have, in words
_LABELLED = {
    "own-fold": "for each fold by its own networks",
    "blend": "by the networks of all folds, so that figures out of fold are too high",
    "out-of-fold": "each by the networks that had not seen it",
}
_SOURCE = {"test": "test images", "folder": "images from outside", "training": "training images"}


def _before(members: Sequence[Member], manifests: Sequence[dict[str, Any]]) -> str:
    """What members learned beside the training images in their last training, as sentences; empty where nothing."""
    told = []
    for member, manifest in zip(members, manifests, strict=True):
        if start := manifest.get("recipe", {}).get("init_from", ""):
            told.append(f"`{member.name}` was initialised from `{start.split(' fold ')[0]}`.")
        if member.variant.weights == "imagenet":
            told.append(f"The encoder of `{member.name}` was pretrained on ImageNet.")
        rounds = [
            f"`{own['run']}`: {own['images']:,} {_SOURCE.get(own['source'], own['source'])} in fold 0, labelled "
            f"{_LABELLED.get(own['labels'], own['labels'])}"
            for own in manifest.get("rounds", [])
        ]
        if rounds:
            told.append(f"Pseudo-labels were used in training: {'; '.join(rounds)}.")
    return " ".join(told)


def card(
    competition: Competition,
    fitted: FittedBlend,
    members: Sequence[Member],
    by_view: dict[str, tuple[float, int]],
    *,
    runs: str,
    weights: str,
    agreement: str,
) -> str:
    """The card, as Markdown.

    Args:
        competition: what it was trained for.
        fitted: its blend.json.
        members: as they are handed on.
        by_view: what `scores_by_view` found.
        runs: the folder that `--runs` will name.
        weights: how the networks' weights are stored, in words.
        agreement: how far its masks are those of the blend that it was made from, as a sentence.
    """
    manifests = [read_manifest(member.folds[0]) or {} for member in members]
    metric = metric_in(fitted["cv"])
    low, high = fitted["cv"]["interval"]
    images = sum(manifests[0]["images"].values())
    before = _before(members, manifests)
    selected = nested_in(fitted["cv"]).replace("way", "blending method").replace("repairs", "post-processing")
    selected = " and ".join(selected.rsplit(", ", 1))
    lines = [
        f"# Model card: {competition.title}, blend `{fitted['name']}`",
        "",
        f"Predicts {competition.size[0]}x{competition.size[1]} masks with {networks_of(members)}. "
        f"{_combined(fitted, members)} {weights}",
        "",
        *_members(fitted, members, manifests),
        "",
        "## Use",
        "",
        "```",
        f'make predict C={competition.name} IMAGES=photos OUT=masks ARGS="--runs {runs} --blend {fitted["name"]}"',
        "```",
        "",
        "## Training data",
        "",
        f"{images:,} training images of {competition.title} (data digest {fitted['data_digest']}), split into "
        f"{len(members[0].folds)} folds (digest {fitted['folds_digest']}); each network was trained on all folds but "
        "one. The `manifest.json` of a fold records its recipe, library versions and commit, `seen.json` its images. "
        f"{before}".rstrip(),
        "",
        "## Evaluation",
        "",
        f"Out-of-fold {metric.label} {score_in(fitted['cv']):.4f} (95 % interval {low:.4f}..{high:.4f}; worst image "
        f"{fitted['cv']['worst']:.4f}), with {selected} selected without the fold that is scored. Every "
        "image was predicted by networks that had not seen it; `make predict` averages the networks of all folds, "
        "which this figure does not measure. The interval covers variation between groups of images, not between "
        f"training runs. {agreement}".rstrip(),
    ]
    if by_view:
        lines += ["", _row(["view", metric.label, "images"]), _row(["---"] * 3)]
        lines += [_row([view, f"{score:.4f}", str(count)]) for view, (score, count) in by_view.items()]
    lines += [
        "",
        "## Limits",
        "",
        "Trained for images of this competition only; expect errors on others. `make predict` reports how far the "
        "networks agree on each image, and warns of images that may be unlike the training data.",
        "",
        "## Data and licence",
        "",
        "This folder contains no images and no masks. "
        + (
            "The competition's rules say what weights trained on its images may be used for: "
            f"https://www.kaggle.com/c/{competition.slug}/rules."
            if competition.slug
            else "The training images are rendered by this project and come under its licence."
        ),
        "",
    ]
    return "\n".join(lines)
