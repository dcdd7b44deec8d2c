"""`python -m report.group_labels`: can a group's label (the make of a car) be told from its images?

A classifier on features of a trained network's encoder: each group is judged by the network, and by the classifier, of
the fold that has not seen it. Nothing is trained but the classifier, on what the competition's metadata say of groups.
`make classify` calls it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure as Drawing
from tqdm import tqdm

import atomic
from command_line import UserError, program
from competition import Competition
from ensemble.blend import find_blend
from folder_lock import fill
from folds.csv_table import read_table, write_table
from folds.images import TrainingSet, find_training_set
from folds.run_layout import LABELS_DIR, LABELS_FILE, LABELS_PAGE_FILE
from folds.seen import Seen
from models import checkpoint
from models.features import encoder_of, pooled_features
from models.precision import native
from predict.members import Member
from program_flags import CompetitionName, DataFolder, NonNegative, RunsFolder, places
from report import page
from report.charts import Chart, drawn
from report.label_classifier import TOP, Judged, cross_fitted

_BATCH = 8
# more labels make a picture that nobody can read
_MOST_LABELS = 60


def labels_of(training: TrainingSet, label: str) -> dict[str, str]:
    """What the competition's metadata say of the training groups: {group: label}, of those that they list.

    Args:
        training: the images.
        label: a column of the metadata; empty for the one by which reports break scores down.

    Raises:
        UserError: there are no such metadata, or fewer than two labels that two groups share.
    """
    facts = training.competition
    column = label or facts.metadata_breakdown
    if facts.metadata_file is None or column is None:
        raise UserError(
            f"{facts.name} has no column of metadata that labels groups by default: name one, if it has any (--label)."
        )
    path = training.data / facts.metadata_file
    try:
        table = read_table(path, [facts.metadata_key], "copy it again", numbers=[])
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy it there, as it says which label a group has.") from None
    if column not in table.columns:
        known = ", ".join(c for c in table.columns if c != facts.metadata_key)
        raise UserError(f"{path} has no column {column!r}; known: {known} (--label).")
    listed = table.drop_duplicates(facts.metadata_key).set_index(facts.metadata_key)[column].dropna().astype(str)
    keys = _keys(training, facts)
    found = {group: str(listed[key]) for group, key in keys.items() if key in listed.index}
    shared = pd.Series(found, dtype=str).value_counts()
    if (shared > 1).sum() < 2:
        raise UserError(f"{path} has no two values of {column} that two groups share each: name another (--label).")
    return found


def _keys(training: TrainingSet, facts: Competition) -> dict[str, str]:
    """What the metadata call each group."""
    groups = training.groups().tolist()
    if facts.has_groups:
        return {group: group for group in groups}
    return {group: facts.key(name) for group, name in zip(groups, training.names, strict=True)}


def folds_of(training: TrainingSet, member: Member) -> dict[str, int]:
    """The fold whose network has not seen a group, as the folds' own records have it: {group: position in the folds}.

    Groups that several have not seen are dealt out to these in turn.

    Raises:
        UserError: a record is missing, or every network has seen some group.
    """
    everything = range(len(training.names))
    groups = training.groups()
    of_image = dict(zip(training.names, groups.tolist(), strict=True))
    unseen: list[set[str]] = []
    for folder in member.folds:
        seen = Seen.read(folder)
        if seen is None:
            raise UserError(f"{folder} has no record of what it has seen: train the fold again (make folds).")
        unseen.append(set(of_image.values()) - {of_image[name] for name in seen.among(training, everything, Seen({}))})
    found: dict[str, int] = {}
    dealt: dict[tuple[int, ...], int] = defaultdict(int)
    for group in sorted(set(of_image.values())):
        free = tuple(k for k, own in enumerate(unseen) if group in own)
        if not free:
            raise UserError(
                f"every network of {member.folder} has seen {group}, so none can judge it honestly: name a variant "
                "that was trained on this split alone (V=...)."
            )
        found[group] = free[dealt[free] % len(free)]
        dealt[free] += 1
    return found


def drawn_images(training: TrainingSet, groups: Sequence[str], per_group: int) -> list[int]:
    """Positions of at most `per_group` images of each of some groups, evenly spread over its names; 0 takes all."""
    of_group: dict[str, list[int]] = {group: [] for group in groups}
    for position, group in enumerate(training.groups().tolist()):
        if group in of_group:
            of_group[group].append(position)
    chosen: list[int] = []
    for own in of_group.values():
        count = min(per_group or len(own), len(own))
        chosen += [own[k * len(own) // count] for k in range(count)]
    return sorted(chosen)


def features_of(member: Member, training: TrainingSet, positions: Sequence[int]) -> list[np.ndarray]:
    """Per fold of a member, (N, D) float32: what its network's encoder says of some images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = [checkpoint.load(folder)[0].to(device).eval() for folder in member.folds]
    encoders = [encoder_of(network.to(memory_format=torch.channels_last), member.name) for network in loaded]  # type: ignore[call-overload]
    precisions = [member.precision_of(folder, native(device.type)) for folder in member.folds]
    found: list[list[np.ndarray]] = [[] for _ in encoders]
    with tqdm(total=len(positions), desc="features", unit="image", disable=None) as bar:
        for start in range(0, len(positions), _BATCH):
            some = positions[start : start + _BATCH]
            images = np.stack([training.input_of(position, member.frame) for position in some])
            for own, encoder, precision in zip(found, encoders, precisions, strict=True):
                own.append(pooled_features(encoder, member.variant, images, precision))
            bar.update(len(some))
    return [np.concatenate(own) for own in found]


def confusion_chart(judged: Judged, what: str) -> Chart:
    """Heat map of the likeliest label by the true one, each row as shares of its groups."""
    counts = judged.confusion()
    used = np.flatnonzero(counts.sum(1))[:_MOST_LABELS]
    named = np.array(judged.labels)[used]
    shares = counts[np.ix_(used, used)] / counts[used].sum(1, keepdims=True)
    side = 1.6 + 0.2 * len(used)

    def draw(figure: Drawing, theme: str) -> None:
        axis = figure.add_subplot()
        shown = axis.imshow(shares, cmap="viridis", vmin=0, vmax=max(float(shares.max()), 0.01))
        axis.grid(False)
        axis.set_xticks(range(len(used)), named, rotation=90, fontsize=8)
        axis.set_yticks(range(len(used)), named, fontsize=8)
        axis.set_xlabel("likeliest")
        axis.set_ylabel("true")
        figure.colorbar(shown, ax=axis, shrink=0.7)

    return drawn(draw, (side + 0.8, side), f"{what}: the likeliest by the true one, as shares of each row")


def figure_rows(judged: Judged) -> list[tuple[str, str, float, tuple[float, float]]]:
    """(of what, by what, share, interval) for images and groups, beside chance and the commonest labels."""
    rows = []
    for of, own in (("image", judged), ("group", judged.by_group())):
        for top in TOP:
            among = "first" if top == 1 else f"first {top}"
            rows.append((f"{of}, {among}", "the classifier", own.figure(top)))
            rows.append(
                (
                    f"{of}, {among}",
                    f"the {top} most frequent" if top > 1 else "the most frequent",
                    own.by_frequency(top),
                )
            )
    return [(of, by, figure.share, figure.interval) for of, by, figure in rows]


def _write(folder: Path, judged: Judged, what: str, member: Member, images: int) -> None:
    groups = judged.by_group()
    names, guesses = np.array(judged.labels), groups.guesses(max(TOP))
    table = pd.DataFrame({"group": groups.groups, "label": names[groups.truth]})
    for k in range(guesses.shape[1]):
        table[f"guess{k + 1}"] = names[guesses[:, k]]
        table[f"probability{k + 1}"] = np.take_along_axis(groups.probabilities, guesses[:, k : k + 1], 1)[:, 0]
    atomic.make_folder(folder)
    write_table(folder / LABELS_FILE, table)
    rows = figure_rows(judged)
    confusion = groups.confusion()
    each = [
        {
            "label": name,
            "groups": int(counts.sum()),
            "right": int(counts[i]),
            "taken_for": ", ".join(names[j] for j in np.argsort(-counts, kind="stable")[:3] if j != i and counts[j]),
        }
        for i, (name, counts) in enumerate(zip(judged.labels, confusion, strict=True))
        if counts.sum()
    ]
    page.write(
        folder / LABELS_PAGE_FILE,
        "group_labels.html.j2",
        title=f"{what} told from images",
        what=what,
        network=member.folder.name,
        folds=len(member.folds),
        images=images,
        groups=len(groups.groups),
        labels=len(each),
        chance=1 / len(judged.labels),
        learnable=groups.learnable,
        rows=rows,
        each=sorted(each, key=lambda row: (-int(row["groups"]), str(row["label"]))),
        chart=confusion_chart(groups, what),
    )


@program
def main(
    competition: CompetitionName = "carvana",
    blend: str = "blend",
    variant: str = "",
    label: str = "",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    images: NonNegative = 8,
    out: Path | None = None,
) -> None:
    """Tell a label of groups from their images, by features of a trained network, and say how well that goes.

    Args:
        blend: the fitted blend whose heaviest member is asked where no variant is named.
        variant: the trained variant.
        label: a column of the competition's metadata; by default the one that reports break scores down by.
        images: of each group, at most, evenly spread; 0 takes all.
        out: folder for page and table; runs/<competition>/labels by default.
    """
    facts, data, root = places(competition, data, runs)
    folder = out or root / LABELS_DIR
    fill(folder)
    chosen = find_blend(root, blend, variant)
    member = chosen.members[int(np.argmax(chosen.weights))]
    member.require_network()
    if len(member.folds) < 2:
        raise UserError(f"{member.folder} has one fold: train more (make folds), as each judges what it has not seen.")
    training = find_training_set(facts, data)
    known = labels_of(training, label)
    fold_of = folds_of(training, member)
    positions = drawn_images(training, sorted(known), images)
    groups = training.groups()[positions]
    folds = np.array([fold_of[group] for group in groups])
    labels = np.array([known[group] for group in groups])
    for fold in sorted(set(folds.tolist())):
        if len(set(labels[folds != fold])) < 2:
            raise UserError(
                "the groups outside one fold have fewer than two labels: take more groups, or --label another."
            )
    judged = cross_fitted(features_of(member, training, positions), folds, groups, labels)
    what = label or str(facts.metadata_breakdown)
    _write(folder, judged, what, member, len(positions))
    print(f"{what}: {len(judged.labels)} of {len(set(groups.tolist()))} groups, {len(positions)} images")
    for of, by, share, (low, high) in figure_rows(judged):
        print(f"  {of:16} {by:22} {share:.3f}  {low:.3f}..{high:.3f}")
    learnable = judged.by_group().learnable
    print(f"  by chance {1 / len(judged.labels):.3f}; {learnable:.3f} have a label that groups of other folds have")
    print(f"page   {folder / LABELS_PAGE_FILE}")
    print(f"table  {folder / LABELS_FILE}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
