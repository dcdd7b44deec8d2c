"""`python -m predict.import_member`: predictions made by other programs as a member of the ensemble.

Their out-of-fold logits are stored, scored and blended like those of a network that was trained here. What they were
made with stays unknown; that no network has predicted what it was trained on is checked as far as the folds tell.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

import atomic
import provenance
from command_line import UserError, program
from competition import Competition
from folder_lock import fill
from folds import split
from folds.images import TrainingSet, find_training_set, list_images
from folds.run_layout import (
    CACHE_DIR,
    FOLDS_FILE,
    MANIFEST_FILE,
    OOF_STORE,
    TEST_STORE,
    check_name_of_run,
    fold_folder,
    is_finished,
)
from folds.scoring import full_size_score
from folds.store import LogitStore
from folds.task import read_manifest
from folds.truth import load_truth
from kernels.metrics import find_metric
from models.frame import Frame
from models.variant import IMPORTED, Fit, Variant
from models.variants import VARIANTS
from path_names import inside
from predict.foreign import Predictions, Values, open_predictions
from program_flags import CompetitionName, DataFolder, Jobs, RunsFolder, places


def _variant(name: str, predictions: Predictions, fit: Fit) -> Variant:
    return Variant(name=name, network=IMPORTED, size=predictions.size, recipe=IMPORTED, fit=fit, tta=())


def _shown(names: set[str]) -> str:
    return f"{len(names)} image{'' if len(names) == 1 else 's'}, {min(names)} first"


def _their_folds(predictions: Predictions, folds: Path | None, training: TrainingSet) -> pd.DataFrame | None:
    """The split that the predictions come from, as far as they say it: by a table, or by folders named after folds."""
    if folds is not None:
        return split.read(folds, training)
    stems = {Path(name).stem: name for name in training.names}
    named = {stems[stem]: file.fold for stem, file in predictions.files.items()}
    unnamed = {name for name, fold in named.items() if fold is None}
    if len(unnamed) == len(named):
        return None
    if unnamed:
        raise UserError(
            f"some predictions lie in folders named after folds (fold0, fold_0), and {_shown(unnamed)}, do not: put "
            "each into its fold's folder, or give the folds as a table (--folds)."
        )
    table = pd.DataFrame({"image": list(named), "fold": list(named.values())})
    return split.check(table, training, next(iter(predictions.files.values())).path.parent.parent)


def _check_split(theirs: pd.DataFrame | None, ours: pd.DataFrame, table: Path, *, same_folds: bool) -> None:
    """Refuse predictions of networks that may have been trained on what they predict, or on its group."""
    if theirs is None:
        if not same_folds:
            raise UserError(
                "nothing says which fold each prediction comes from: put them into folders fold0, fold1, ..., give a "
                f"table (--folds CSV with the columns image and fold), or say that they follow {table} (--same-folds)."
            )
        return
    differs = theirs["fold"].to_numpy() != ours["fold"].to_numpy()
    if differs.any():
        names = set(ours["image"][differs])
        raise UserError(
            f"the predictions follow another split than {table} ({_shown(names)}, lie in another fold), so blending "
            "them with networks of this one would leak: predict again by this split, or train here by theirs (make "
            "folds ARGS='--folds-csv CSV' in another runs folder)."
        )


def _check_names(predictions: Predictions, names: list[str], where: Path) -> None:
    """Every image must have a prediction."""
    lacking = {name for name in names if Path(name).stem not in predictions.files}
    if lacking:
        raise UserError(
            f"{_shown(lacking)}, of {where} have no prediction: predict them too, and name each file after its image."
        )


def _import_oof(
    predictions: Predictions, variant: Variant, training: TrainingSet, table: pd.DataFrame, run: Path, jobs: int
) -> float:
    """Store the out-of-fold logits and write each fold's manifest; returns their mean score at full size."""
    competition, metric = training.competition, find_metric(training.competition.metric)
    frame, full = Frame(variant.size, variant.fit), competition.size
    fold = table["fold"].to_numpy()
    digest = split.digest(table)
    version = frame.version(full)
    store = LogitStore.create(
        run / OOF_STORE,
        training.names,
        (1, *variant.size),
        variant=variant.name,
        **variant.head_attributes(),
        tta=[],
        data_digest=training.digest,
        folds_digest=digest,
        frame_version=version,
        imported=predictions.digest,
    )
    truth = load_truth(training, run.parent / CACHE_DIR, jobs=jobs)
    scores = np.zeros(len(training.names))
    for position, name in enumerate(tqdm(training.names, "import", unit="image", disable=None)):
        logits = predictions.logits(Path(name).stem)
        store.write(name, logits[None])
        scores[position] = full_size_score(store.rounded(logits), frame, truth.of(position), full, metric)
    for k in range(int(fold.max()) + 1):
        held_out = fold == k
        manifest = {
            "variant": variant.to_json(),
            "fold": k,
            "frame_version": version,
            "data_digest": training.digest,
            "folds_digest": digest,
            "images": {"train": int((~held_out).sum()), "held_out": int(held_out.sum())},
            metric.name: float(scores[held_out].mean()),
            "imported": {"digest": predictions.digest, "values": predictions.values},
            "git_commit": provenance.git_commit(),
            "versions": provenance.versions(),
        }
        atomic.write_json(fold_folder(run, k) / MANIFEST_FILE, manifest)
    return float(scores.mean())


def _earlier(run: Path) -> dict[str, str] | None:
    """What an earlier import into the run says of itself. Raises UserError where the run is a trained one's."""
    manifest = read_manifest(fold_folder(run, 0))
    if manifest is None:
        return None
    if "imported" not in manifest:
        raise UserError(f"{run} holds a network that was trained here: choose another name (NAME=...).")
    found: dict[str, str] = manifest["imported"]
    return found


def _is_whole(run: Path, folds: int) -> bool:
    """Whether an earlier import was not killed, and nothing that it wrote is damaged by now."""
    if not all(is_finished(fold_folder(run, k)) for k in range(folds)):
        return False
    store = LogitStore.open(run / OOF_STORE)
    return not store.verify() and not store.missing()


def _import_test(source: Path, values: Values, run: Path, data: Path, competition: Competition, jobs: int) -> int:
    """Store the test images' logits; returns their number."""
    folder = data / competition.test_dir
    images = list_images(folder, competition) if folder.is_dir() else []
    predictions = open_predictions(source, values, images=images, jobs=jobs)
    manifest = read_manifest(fold_folder(run, 0))
    if manifest is None:
        raise UserError(f"{run} has no out-of-fold predictions, without which it cannot be blended: give OOF=... too.")
    variant = Variant.from_json(manifest["variant"])
    if predictions.size != variant.size:
        raise UserError(
            f"the test set's predictions have {predictions.size[0]}x{predictions.size[1]} pixels and the out-of-fold "
            f"ones {variant.size[0]}x{variant.size[1]} (height x width): give those of one network, at one size."
        )
    _check_names(predictions, images, folder)
    names = images or sorted(stem + competition.image_suffix for stem in predictions.files)
    store = LogitStore.create(
        run / TEST_STORE,
        names,
        (1, *variant.size),
        variant=variant.name,
        **variant.head_attributes(),
        tta=[],
        imported=predictions.digest,
    )
    store.verify()
    for name in tqdm(store.missing(), "import", unit="image", disable=None):
        store.write(name, predictions.logits(Path(name).stem)[None])
    return len(names)


@program
def main(
    name: str,
    oof: Path | None = None,
    test: Path | None = None,
    competition: CompetitionName = "carvana",
    data: DataFolder = None,
    runs: RunsFolder = Path("runs"),
    folds: Path | None = None,
    same_folds: bool = False,
    values: Values = "auto",
    test_values: Values = "auto",
    fit: Fit = "resize",
    jobs: Jobs = -1,
) -> None:
    """Take predictions made by another program as a member like any other: scored, blended, submitted.

    One file an image (NPZ as nnU-Net writes it, NPY, or PNG of 8 or 16 bits), named after it, all of one size. The
    folders of nnU-Net's results are taken as they lie: the PNG beside an NPZ, and files that belong to no image, are
    skipped, and counted in what is printed.

    Args:
        name: of the member, and of its folder in the runs folder.
        oof: folder of the out-of-fold predictions, in folders fold0, fold1, ... (or fold_0, ...) by the fold that held
            the image out.
        test: folder of the test set's predictions; may come later.
        folds: CSV with the columns image and fold, instead of folders named after folds.
        same_folds: the predictions follow this runs folder's own split, though neither folders nor a table say so.
        values: what the out-of-fold numbers are; auto tells from all of them together.
        test_values: what the test set's numbers are.
        fit: how the predictions cover the image: resized as a whole, or padded at the right and the bottom.
    """
    # 1) what cannot be meant is refused before anything is read
    facts, home, root = places(competition, data, runs)
    run = inside(root, name, "NAME")
    if name in VARIANTS:
        raise UserError(f"{name} is a variant that is trained here: choose another name (NAME=...).")
    check_name_of_run(root, name, "NAME=...")
    if oof is None and test is None:
        raise UserError(
            "nothing to import: give a folder of out-of-fold predictions (OOF=...) or the test set's (TEST=...)."
        )
    fill(run)
    before = _earlier(run)

    # 2) the out-of-fold predictions, against the images and the split
    if oof is not None:
        table_path = root / FOLDS_FILE
        if not table_path.exists():
            raise UserError(
                f"{table_path} is missing: train a variant first (make folds V=...), which makes the split."
            )
        training = find_training_set(facts, home)
        table = split.read(table_path, training)
        predictions = open_predictions(oof, values, images=training.names, jobs=jobs)
        if before is not None and before["digest"] != predictions.digest:
            raise UserError(
                f"{run} holds other predictions: remove the folder to import these, or choose another NAME."
            )
        _check_names(predictions, list(training.names), training.data / facts.train_dir)
        _check_split(_their_folds(predictions, folds, training), table, table_path, same_folds=same_folds)
        if before is not None and _is_whole(run, int(table["fold"].max()) + 1):
            print(f"{run}: these out-of-fold predictions are there already")
        else:
            mean = _import_oof(predictions, _variant(name, predictions, fit), training, table, run, jobs)
            size = f"{predictions.size[0]}x{predictions.size[1]}"
            label = find_metric(facts.metric).label
            print(f"{run}: {len(training.names)} out-of-fold {predictions.values} of {size}, {label} {mean:.4f}")

    # 3) the test set's
    if test is not None:
        count = _import_test(test, test_values, run, home, facts, jobs)
        print(f"{run / TEST_STORE}: {count} images")
    print(f"choose a blend with it: make ensemble C={facts.name}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
