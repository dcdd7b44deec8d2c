"""Predictions made elsewhere: whatever files they come in, they are a member like any other, or are refused."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

import ensemble.fit
import ensemble.photographs
import folds.train
import report.write
import submit.make
from command_line import UserError
from ensemble.blend import find_blend
from folds.store import LogitStore
from models.variants import VARIANTS
from notebooks.pack import blend_files
from predict.import_member import main
from submit.writer import open_rows, split_row
from tests.conftest import ellipse, png_header
from tests.tiny_folds import TINY

# divides neither the frame nor anything else
SIZE = (101, 151)


def _npz(folder: Path, stem: str, logits: np.ndarray) -> None:
    """As nnU-Net 2 writes it: classes, one slice, height, width."""
    probability = 1 / (1 + np.exp(-logits))
    np.savez_compressed(folder / stem, probabilities=np.stack([1 - probability, probability])[:, None])


def _softmax(folder: Path, stem: str, logits: np.ndarray) -> None:
    """As nnU-Net 1 wrote it, in half precision."""
    probability = 1 / (1 + np.exp(-logits))
    np.savez_compressed(folder / stem, softmax=np.stack([1 - probability, probability])[:, None].astype(np.float16))


def _npy(folder: Path, stem: str, logits: np.ndarray) -> None:
    np.save(folder / f"{stem}.npy", logits)


def _two_logits(folder: Path, stem: str, logits: np.ndarray) -> None:
    np.save(folder / f"{stem}.npy", np.stack([0.5 - logits / 2, 0.5 + logits / 2], -1))


def _png16(folder: Path, stem: str, logits: np.ndarray) -> None:
    cv2.imwrite(str(folder / f"{stem}.png"), np.rint(65535 / (1 + np.exp(-logits))).astype(np.uint16))


def _png8(folder: Path, stem: str, logits: np.ndarray) -> None:
    grey = np.rint(255 / (1 + np.exp(-logits))).astype(np.uint8)
    cv2.imwrite(str(folder / f"{stem}.png"), np.repeat(grey[..., None], 3, 2))


def _labels(folder: Path, stem: str, logits: np.ndarray) -> None:
    cv2.imwrite(str(folder / f"{stem}.png"), (logits > 0).astype(np.uint8))


Write = Callable[[Path, str, np.ndarray], None]
# how they are written, what they are taken for, and how far a logit may be from what was meant
FORMATS: dict[str, tuple[Write, str, float]] = {
    "nnU-Net 2": (_npz, "probabilities", 0.01),
    "nnU-Net 1, half precision": (_softmax, "probabilities", 0.5),
    "NPY of logits": (_npy, "logits", 0.01),
    "NPY of two classes' logits": (_two_logits, "logits", 0.01),
    "PNG of 16 bits": (_png16, "probabilities", 0.05),
    "PNG of 8 bits in grey as RGB": (_png8, "probabilities", 0.6),
    "PNG of labels": (_labels, "labels", 2.0),
}


@dataclass(frozen=True)
class Case:
    """A competition with a split, and a folder for predictions of another program."""

    data: Path
    runs: Path
    table: pd.DataFrame

    @property
    def where(self) -> dict[str, Any]:
        """What every program is told."""
        return {"competition": "carvana", "data": self.data, "runs": self.runs}

    def logits(self, stem: str) -> np.ndarray:
        """What the other program has predicted: nearly the truth; within 6, so that no format clips it."""
        car, view = "abcdef".index(stem[11]), int(stem[-1]) - 1
        mask = cv2.resize(ellipse(10 * car + view).astype(np.float32), SIZE[::-1], interpolation=cv2.INTER_AREA)
        return (8 * cv2.GaussianBlur(mask, (5, 5), 0) - 4).astype(np.float32)

    def write(self, folder: Path, write: Write, *, layout: str = "fold_{}/validation") -> Path:
        """Out-of-fold predictions in `folder`."""
        for image, fold in zip(self.table["image"], self.table["fold"], strict=True):
            place = folder / layout.format(fold)
            place.mkdir(parents=True, exist_ok=True)
            stem = Path(image).stem
            write(place, stem, self.logits(stem))
        return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two folds of the average mask, whose split the predictions follow."""
    from tests.conftest import write_ellipses

    home = tmp_path_factory.mktemp("foreign")
    data, runs = write_ellipses(home / "data"), home / "runs"
    folds.train.main(competition="carvana", data=data, runs=runs, variant="average-mask", fold="all", folds=2, jobs=1)
    return Case(data, runs, pd.read_csv(runs / "carvana" / "folds.csv"))


@pytest.fixture
def case(made: Case, tmp_path: Path) -> Case:
    """The same in folders of the test's own."""
    runs = tmp_path / "runs"
    shutil.copytree(made.runs, runs)
    return Case(made.data, runs, made.table)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_logits_that_were_meant(
    case: Case, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write, values, tolerance = FORMATS[kind]
    main("other", oof=case.write(tmp_path / "oof", write), **case.where)
    assert f"12 out-of-fold {values} of 101x151, Dice 0.99" in capsys.readouterr().out
    store = LogitStore.open(case.runs / "carvana" / "other" / "oof.zarr")
    for image in case.table["image"]:
        expected = case.logits(Path(image).stem)
        found = store.head(image)
        if values == "labels":
            assert ((found > 0) == (expected > 0)).all()
        else:
            assert np.abs(found - expected).max() < tolerance
    main("other", oof=tmp_path / "oof", **case.where)
    assert "there already" in capsys.readouterr().out


def test_it_is_blended_and_submitted_like_a_network_of_ones_own(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = case.data / "train"
    main("other", oof=case.write(tmp_path / "oof", _npz), **case.where)
    ensemble.fit.main(**case.where, pixels=False, jobs=1)
    submission: dict[str, Any] = {**case.where, "images": images, "jobs": 1}
    with pytest.raises(
        SystemExit, match=r"without predictions of these images: .*make import-member .*NAME=other TEST="
    ):
        submit.make.main(**submission)
    for needs_a_network in (
        lambda: submit.make.main(**submission, stream=True),
        lambda: ensemble.photographs.main(images=images, out=tmp_path / "out", runs=case.runs),
    ):
        with pytest.raises(SystemExit, match="other was imported, so its network is not here"):
            needs_a_network()
    # the remedy
    for stem in (Path(name).stem for name in case.table["image"]):
        (tmp_path / "test").mkdir(exist_ok=True)
        _npz(tmp_path / "test", stem, case.logits(stem))
    main("other", test=tmp_path / "test", **case.where)
    submit.make.main(**submission)
    assert "12 rows, checked" in capsys.readouterr().out
    report.write.main(**case.where)
    with pytest.raises(UserError, match="has no network to predict with on Kaggle"):
        list(blend_files(case.runs / "carvana", "blend"))
    assert "other" in (case.runs / "carvana" / "blend" / "report.html").read_text()
    blend = find_blend(case.runs / "carvana", "blend")
    assert [member.name for member in blend.members] == ["other"]
    with open_rows(case.runs / "carvana" / "blend" / "submission.csv.gz") as lines:
        lines.readline()
        for line in lines:
            name, _, text = split_row(line)
            store = LogitStore.open(case.runs / "carvana" / "other" / "test.zarr")
            assert text == blend.row([store.head(name.decode())], (1280, 1918), "row")


def test_other_predictions_of_the_test_set_are_another_submission(case: Case, tmp_path: Path) -> None:
    main("other", oof=case.write(tmp_path / "oof", _npy), **case.where)
    run = case.runs / "carvana" / "other"
    digests = []
    for change in (0, 1):
        folder = tmp_path / f"test{change}"
        folder.mkdir()
        np.save(folder / "x_01.npy", np.full(SIZE, change, np.float32) - 3)
        shutil.rmtree(run / "test.zarr", ignore_errors=True)
        main("other", test=folder, **case.where)
        digests.append(find_blend(case.runs / "carvana", "", variant="other").members[0].imported_digest())
        with pytest.raises(SystemExit, match=r"written with other (predictions|image names)"):
            main("other", test=tmp_path / "oof", **case.where)
    assert digests[0] != digests[1]


def _drop_one(case: Case, folder: Path) -> None:
    next(folder.rglob("*.npy")).unlink()


def _swap_folds(case: Case, folder: Path) -> None:
    (folder / "fold_0").rename(folder / "x")
    (folder / "fold_1").rename(folder / "fold_0")
    (folder / "x").rename(folder / "fold_1")


def _spread_a_group(case: Case, folder: Path) -> None:
    path = next((folder / "fold_0").rglob("*_01.npy"))
    path.rename(folder / "fold_1" / path.name)


def _no_folds(case: Case, folder: Path) -> None:
    for path in list(folder.rglob("*.npy")):
        path.rename(folder / path.name)


def _one_without_fold(case: Case, folder: Path) -> None:
    path = next(folder.rglob("*.npy"))
    path.rename(folder / path.name)


def _twice(case: Case, folder: Path) -> None:
    path = next((folder / "fold_0").rglob("*.npy"))
    shutil.copy(path, folder / "fold_1" / path.name)


def _rewritten(array: Callable[[np.ndarray], np.ndarray]) -> Callable[[Case, Path], None]:
    def change(case: Case, folder: Path) -> None:
        path = sorted(folder.rglob("*.npy"))[-1]
        np.save(path, array(np.load(path)))

    return change


def _not_a_number(logits: np.ndarray) -> np.ndarray:
    logits[3, 4] = np.nan
    return logits


def _cut(case: Case, folder: Path) -> None:
    path = next(folder.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:200])


def _pickled(case: Case, folder: Path) -> None:
    path = next(folder.rglob("*.npy"))
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _instead(folder: Path, suffix: str) -> Path:
    """Where another file of an image goes, whose own is removed."""
    path = sorted(folder.rglob("*.npy"))[3]
    path.unlink()
    return path.with_suffix(suffix)


def _header(shape: tuple[int, int]) -> bytes:
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(written, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    return written.getvalue()


def _absurd_header(case: Case, folder: Path) -> None:
    _instead(folder, ".npy").write_bytes(_header((54_000, 54_000)) + bytes(1000))


def _absurd_archive(case: Case, folder: Path) -> None:
    with zipfile.ZipFile(_instead(folder, ".npz"), "w") as packed:
        packed.writestr("probabilities.npy", _header((54_000, 54_000)) + bytes(1000))


def _bomb(case: Case, folder: Path) -> None:
    # an archive that says to unpack to 2 GiB
    path = _instead(folder, ".npz")
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.npy", _header((11_585, 11_586)) + bytes(1000))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(data)


def _huge_png(case: Case, folder: Path) -> None:
    _instead(folder, ".png").write_bytes(png_header(70_000, 70_000))


def _patched(at: int, value: int) -> Callable[[Case, Path], None]:
    """An archive whose headers say something else, at a place of its local one; of its central one it is two on."""

    def change(case: Case, folder: Path) -> None:
        path = _instead(folder, ".npz")
        np.savez(path, probabilities=np.zeros(SIZE))
        data = bytearray(path.read_bytes())
        central = data.rindex(b"PK\x01\x02")
        for place in (at, central + at + 2):
            data[place : place + 2] = value.to_bytes(2, "little")
        path.write_bytes(data)

    return change


FAULTS: dict[str, tuple[Callable[[Case, Path], None], str]] = {
    "an image is lacking": (_drop_one, r"1 image, \w+_0\d.jpg first, of .* have no prediction"),
    "other folds": (_swap_folds, r"another split than .*folds.csv \(12 images, .* lie in another fold\).* would leak"),
    "a group in two folds": (_spread_a_group, r"images of one group into different folds \(groups 0000"),
    "no folds": (_no_folds, "nothing says which fold each prediction comes from: .*--same-folds"),
    "one outside of folds": (_one_without_fold, "some predictions lie in folders named after folds"),
    "two of one image": (_twice, "are both predictions of 0000.*: remove one"),
    "another size": (_rewritten(lambda a: a[1:]), r"another size \(\(100, 151\)\) than"),
    "another type": (_rewritten(lambda a: a.astype(np.float64)), r"another type \(float64\) than"),
    "other classes": (_rewritten(lambda a: np.stack([a, a])), r"another number of classes \(2\) than"),
    "three classes": (_rewritten(lambda a: np.stack([a, a, a])), r"array of shape \(3, 101, 151\): give"),
    "NaN": (_rewritten(_not_a_number), "holds NaN or infinity: predict the image again"),
    "a file that is cut off": (_cut, "cannot be read .*: copy the file again"),
    "a pickle": (_pickled, "cannot be read .*: copy the file again"),
    "no pixel": (_rewritten(lambda a: a[:, :0]), "holds no pixel: predict the image again"),
    "a header of 22 GiB": (_absurd_header, r"cannot be read \(it says to hold \(54000, 54000\) of float64, more"),
    "a header of 22 GiB in an archive": (_absurd_archive, r"cannot be read \(it says to hold \(54000, 54000\)"),
    "an archive of many zeros": (_bomb, r"cannot be read \(it says to hold \(11585, 11586\), more than any mask"),
    "a PNG that says to be huge": (_huge_png, "cannot be read .it says to have more pixels than any mask"),
    "an encrypted archive": (_patched(6, 1), r"cannot be read \(.*encrypted.*\): copy the file again, or write it"),
    "an archive packed in another way": (_patched(8, 99), r"cannot be read \(That compression method is not supp"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_would_leak_or_lacks_is_one_sentence_and_leaves_nothing_behind(
    case: Case, tmp_path: Path, fault: str
) -> None:
    damage, message = FAULTS[fault]
    folder = case.write(tmp_path / "oof", _npy, layout="fold_{}")
    damage(case, folder)
    with pytest.raises(SystemExit, match=message):
        main("other", oof=folder, **case.where)
    assert not (case.runs / "carvana" / "other").exists()


def test_imported_again_after_a_kill_or_damage_the_bytes_are_the_same(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path / "oof", _npz)
    where = {**case.where, "oof": folder, "test": folder}
    main("other", **where)
    run = case.runs / "carvana" / "other"
    # the first chunk by name, as the store numbers its images
    stores = [run / name / "c.0.0.0.0" for name in ("oof.zarr", "test.zarr")]
    files = [*stores, run / "fold0" / "manifest.json", run / "fold1" / "manifest.json"]
    whole = [path.read_bytes() for path in files]
    for damage in (
        lambda: files[3].unlink(),
        lambda: files[0].unlink(),
        lambda: [path.write_bytes(path.read_bytes()[:-9]) for path in stores],
    ):
        damage()  # type: ignore[no-untyped-call]
        main("other", **where)
        assert [path.read_bytes() for path in files] == whole
    (member,) = find_blend(case.runs / "carvana", "", variant="other").members
    image = LogitStore.open(run / "test.zarr").names[0]
    for path in (stores[1], run / "test.zarr" / "zarr.json"):
        good = path.read_bytes()
        path.write_bytes(good[:-9])
        with pytest.raises(UserError, match=r"make import-member NAME=other TEST=FOLDER"):
            member.imported_logits([image]).read(image)
        main("other", **where)
        assert path.read_bytes() == good


def test_folds_may_be_said_by_a_table_or_by_the_user(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path / "oof", _npy, layout=".")
    table = tmp_path / "theirs.csv"
    case.table.assign(fold=1 - case.table["fold"]).to_csv(table)
    with pytest.raises(SystemExit, match="another split"):
        main("other", oof=folder, folds=table, **case.where)
    case.table[["image", "fold"]].to_csv(table)
    main("other", oof=folder, folds=table, **case.where)
    main("again", oof=folder, same_folds=True, **case.where)
    stores = [case.runs / "carvana" / name / "oof.zarr" for name in ("other", "again")]
    assert all(
        (LogitStore.open(stores[0]).read(n) == LogitStore.open(stores[1]).read(n)).all() for n in case.table["image"]
    )


def test_names_that_are_taken_and_values_that_cannot_be_meant(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    folder = case.write(tmp_path / "oof", _npy)
    mine = case.runs / "carvana" / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    for arguments, message in (
        ({"name": "tiny", "oof": folder}, "a variant that is trained here"),
        ({"name": "../x", "oof": folder}, "it holds a slash"),
        ({"name": "other"}, "nothing to import"),
        ({"name": "other", "test": folder}, "has no out-of-fold predictions"),
        ({"name": "other", "oof": folder, "values": "probabilities"}, "are no probabilities: --values logits"),
        ({"name": "other", "oof": tmp_path / "none"}, "is no folder"),
        ({"name": "other", "oof": case.data / "train"}, "holds no predictions"),
        ({"name": "mine", "oof": folder}, "is no run of a network: choose another name"),
        *(
            ({"name": taken, "oof": folder}, rf"{taken} is the place of something else .* \(NAME=...\)")
            for taken in ("blend", "cache", "folds.csv", "explore", "kaggle", "masks")
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            main(**arguments, **case.where)  # type: ignore[arg-type]
    for name, message in (("cache", "something else than a blend"), ("average-mask", "holds a network, not a blend")):
        with pytest.raises(SystemExit, match=message):
            ensemble.fit.main(**case.where, name=name, jobs=1)
    shutil.rmtree(mine)
    main("other", oof=folder, **case.where)
    changed = case.write(tmp_path / "changed", _npz)
    with pytest.raises(SystemExit, match="holds other predictions: remove the folder"):
        main("other", oof=changed, **case.where)
    shutil.copytree(case.runs / "carvana" / "average-mask", case.runs / "carvana" / "mine")
    with pytest.raises(SystemExit, match="was trained here: choose another name"):
        main("mine", oof=folder, **case.where)


def test_the_results_of_nnunet_are_taken_as_they_lie(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = case.write(tmp_path / "plain", _npz)
    main("plain", oof=plain, test=plain, **case.where)
    home = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
    case.write(home, _npz)
    # labels beside the probabilities, and what else there is
    case.write(home, _labels)
    for path in sorted(home.rglob("*.npz")):
        path.with_suffix(".pkl").write_bytes(b"x")
        path.with_name(f"._{path.name}").write_bytes(b"x")
    for fold in (0, 1):
        cv2.imwrite(str(home / f"fold_{fold}" / "progress.png"), np.zeros((40, 60, 3), np.uint8))
        (home / f"fold_{fold}" / "validation" / "summary.json").write_text("{}")
    (home / "plans.json").write_text("{}")
    # what it gathers of all folds
    gathered = home / "crossval_results_folds_0_1"
    case.write(gathered, _npz, layout=".")
    case.write(gathered / "postprocessed", _labels, layout=".")
    capsys.readouterr()
    main("nnunet", oof=home, test=gathered, **case.where)
    printed = capsys.readouterr().out
    assert "2 files are named after no image and skipped" in printed and "progress.png first" in printed
    assert "36 files are skipped beside a better one of the same image" in printed
    for store in ("oof.zarr", "test.zarr"):
        chunks = [
            {path.name: path.read_bytes() for path in (case.runs / "carvana" / name / store).glob("c.*")}
            for name in ("plain", "nnunet")
        ]
        assert len(chunks[0]) == 12 and chunks[0] == chunks[1]


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        # of one image, or of all of them
        ({3: -0.25}, r"holds values from -0.25 to \S+, and 11 of 12 files hold probabilities: predict it again"),
        ({3: 0.25}, r"holds values from \S+ to 1.\d+, and 11 of 12 files hold probabilities: predict it again"),
        (dict.fromkeys(range(12), -0.02), r"outside of 0 to 1 and yet too near to it for logits: clip"),
    ],
)
def test_probabilities_with_a_slip_are_not_taken_for_logits(
    case: Case, tmp_path: Path, shift: dict[int, float], message: str
) -> None:
    folder = case.write(tmp_path / "oof", lambda home, stem, logits: np.save(home / stem, 1 / (1 + np.exp(-logits))))
    paths = sorted(folder.rglob("*.npy"), key=lambda path: path.name)
    for k, by in shift.items():
        array = np.load(paths[k])
        place = np.unravel_index(array.argmin() if by < 0 else array.argmax(), array.shape)
        array[place] = by if by < 0 else array[place] + by
        np.save(paths[k], array)
    with pytest.raises(SystemExit, match=message):
        main("other", oof=folder, **case.where)
    with pytest.raises(SystemExit, match=rf"\({paths[min(shift)]} first\), which are no probabilities"):
        main("other", oof=folder, values="probabilities", **case.where)
