"""Every JSON file that is read: what is not as its schema says is refused where it is read, in one sentence."""

from __future__ import annotations

import copy
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import UserError
from ensemble.pixels import names_of_features
from folds.recipes import RECIPES
from json_file import Schema
from models.variants import VARIANTS
from tests.synthetic_runs import fitted_blend

ROOT = Path(__file__).parent.parent
SHA = "0f" * 32
FIGURES = {"dice": 0.9, "interval": [0.8, 0.95], "worst": 0.5}
GAIN = {"gain": 0.01, "interval": [-0.01, 0.02]}
MEASURED = {"nested_gain": 0.01, "interval": [0.0, 0.02], "kept": True}
TTA = {"transforms": ["hflip"], "dice": 0.9, "gain": 0.01, "interval": [0.0, 0.1], "passes": 2.0}
SENT = {
    "content_sha256": SHA,
    "file_sha256": SHA,
    "tag": "[0]",
    "state": "sent",
    "when": "w",
    "message": "m",
    "file": "f",
}
VARIANT = json.loads(json.dumps(VARIANTS["unet-resnet18"].to_json()))

# a good content of every kind of file, with all of its fields
GOOD: dict[str, Any] = {
    "ensemble.blend_file:BLEND": fitted_blend(
        {"a": "0a", "b": "0b"},
        [0.25, 0.75],
        0.1,
        vote="majority",
        cv={**FIGURES, "nested": ["weights"], "weights": {"a": 1.0}},
        gains={"best-single": GAIN},
        chosen_without={"0": {"kind": "greedy"}},
        expected={"groups": 3, "interval": [0.8, 0.9], "averaged_folds": 1, "submission_averaged_folds": 5},
        not_searched=["c"],
        threshold_fit={"fitted": 0.1, **MEASURED},
        postprocess={"fill-holes": {"size_px": 100, **MEASURED}},
        postprocess_kept=[["fill-holes", 100]],
        stacker_digest="0f",
    ),
    "ensemble.blend_file:TEST_SCORE": {"test_dice": 0.9},
    "ensemble.pixel_report:PIXEL_REPORT": {
        "images": 3, "band_px": 900.5, "changed_px": 30.5, "righted": 0.8, "gain": -0.001, "groups": {"edge": 0.01},
        "examples": [
            {"image": "a", "top": 0, "left": 3, "height": 4, "width": 5, "before": "1 2", "after": "", "gain": 0.1}
        ],
    },
    "ensemble.pixels_file:_SAVED": {
        "members": ["a"], "weights": [1.0], "width": 2.5, "trained_on": [320, 480], "features": names_of_features(1),
        "digest": "0f",
    },
    "ensemble.tta_gain:TTA_GAINS": {
        "variant": "a", "plain": {"dice": 0.9, "interval": [0.8, 1.0]}, "each": [TTA], "all": TTA, "chosen": TTA,
    },
    "ensemble.photographs:_STATE": {},
    "folds.composites:_SETTINGS": {"seed": 0, "positions": 20, "mirrored": True, "blocks": 20},
    "folds.derived:_CHECKSUMS": {"masks.npy": {"bytes": 3, "crc32c": "0f0f0f0f"}},
    "folds.export_composites:_ANY": {},
    "folds.pseudo_set:PSEUDO": {
        "digest": "0f0f0f0f0f0f0f0f", "competition": "carvana", "blend": "blend", "source": "test",
        "labels": "own-fold", "images": "photos", "teachers": [{"name": "a", "weights_digest": "0f", "rounds": []}],
        "makers": [{"fold": 0, "blend": {}}], "considered": 3, "taken": 2, "least": 0.9,
        "expected": 0.95, "expected_interval": [0.9, 0.99], "known_truth": {"dice": 0.9},
        "calibration": {
            "images": 4, "mean_error": 0.01, "bias": -0.01, "rank_correlation": 0.5, "taken": 2, "taken_score": 0.9,
        },
    },
    "folds.contents:_RECORD": {"a.jpg": ["0f1e2d3c4b5a69788796", 1234, 5, 6]},
    "folds.precision:_BEGUN": {"precision": "bf16"},
    "folds.recipes:_FIELDS": RECIPES["strong"].to_json() | {"losses": {"mask": "bce"}, "loss_weights": {"mask": 1.0}},
    "folds.recipes:RECIPE": RECIPES["strong"].to_json(),
    "folds.seen:_RECORD": {"digest": "blake2b", "groups": {"00087a6bd4dc": "0f 1e"}},
    "folds.task:MANIFEST": {
        "variant": VARIANT, "recipe": RECIPES["demo"].to_json(), "fold": 0, "seed": 0, "frame_version": 2,
        "data_digest": "d", "folds_digest": "f", "images": {"train": 4, "held_out": 1}, "dice": 0.9,
    },
    "folds.task:_BEGUN": {"threads": 1},
    "folds.verdict:VERDICT": {
        "before": "a", **GAIN, "kept": True, "optimistic": False, "weights": ["0f"], "weights_before": ["0e"],
        "rounds": [],
    },
    "kaggle_client.credentials:_LOGIN": {"username": "u", "refresh_token": "r", "access_token": "a"},
    "kaggle_client.credentials:_PAIR": {"username": "u", "key": "k"},
    "kaggle_client.download:_LEDGER": {"train": 4, "metadata.csv": 1},
    "kaggle_client.sent:_ENTRY": {**SENT, "cv_score": 0.9, "metric": "iou"},
    "kaggle_client.sent:_SENT": [{**SENT, "cv_iou": 0.9}],
    "kaggle_client.verify_download:_VERIFIED": {"size": [1280, 1918], "good": {"train/a.jpg": [3, 10, 11]}},
    "models.variant:VARIANT": VARIANT,
    "notebooks.merge:_OBJECT": {},
    "notebooks.record:_PUSHED": {"kernel": "o/s", "when": "w", "git_commit": "c", "code_sha256": SHA, "fetched": False},
    "notebooks.remote:_DATASET": {"status": "ready", "current_version_number": 2},
    "notebooks.remote:_INVENTORY": {"sha256": SHA},
    "notebooks.remote:_LOG": [{"data": "epoch 1"}],
    "studio.composites:_PARAMETERS": {},
    "studio.render:_PARAMETERS": {},
    "submit.direct:_EMPTY_ROWS": ["a.jpg"],
    "submit.stream:_STATE": {},
    "submit.submission_file:_MANIFEST": {
        "file": "submission.csv.gz", "sha256": SHA, "bytes": 3, "rows": 1, "git_commit": "c",
        "cv_dice": 0.9, "cv_iou": 0.8,
    },
}  # fmt: skip

# what may be anything: arguments of networks' constructors
FREE = {("models.variant:VARIANT", "options"), ("folds.task:MANIFEST", "variant", "options")}
NO_JSON = [b"", b"{", b"\xff\xfe\x00", b"\x00" * 64, b"[" * 10_000, b"{'a': 1}"]

BLEND = "ensemble.blend_file:BLEND"
# kind, field, a value that is of its type and yet out of range, and what the sentence says
OUT_OF_RANGE = [
    (BLEND, "weights", [0.5, -0.5], r"weights\.1 is -0\.5, expected a number greater than or equal to 0"),
    (BLEND, "weights", [0.5, 0.6], r"weights sum to 1\.1, expected 1"),
    (BLEND, "weights", [0.0, 0.0], r"weights sum to 0, expected 1"),
    (BLEND, "weights", [1.0], r"weights has 1 entries, expected one for each of 2 members"),
    (BLEND, "members", ["a", "a"], r"members names 'a' twice"),
    (BLEND, "members", [], r"members is \[\], expected"),
    (BLEND, "members", ["a", "../b"], r"members\.1: '\.\./b' names no folder, as it holds a slash"),
    (BLEND, "members", ["a", "c"], r"weights_digests\.c is missing"),
    (BLEND, "vote", "louder", r"vote is 'louder', expected one of logits, probability"),
    (BLEND, "threshold", 99, r"threshold is 99, expected a number less than 16"),
    (BLEND, "postprocess_kept", [["shave", 1]], r"postprocess_kept names 'shave', expected one of repair-thin"),
    (BLEND, "postprocess_kept", [["fill-holes", -1]], r"postprocess_kept\.0\.1 is -1, expected a number greater"),
    (BLEND, "cv", {**FIGURES, "dice": 2.0}, r"dice is 2\.0, expected"),
    ("folds.task:MANIFEST", "dice", 1.5, r"dice is 1\.5, expected a number from 0 to 1"),
    ("folds.task:MANIFEST", "fold", -1, r"fold is -1, expected"),
    ("models.variant:VARIANT", "size", [0, 64], r"below 1"),
    ("models.variant:VARIANT", "fit", "crop", r"fit is 'crop', expected 'resize', 'pad'"),
    ("models.variant:VARIANT", "depth", 3, r"depth is no field of it"),
    ("models.variant:VARIANT", "name", "../a", r"name: '\.\./a' names no folder"),
    ("submit.submission_file:_MANIFEST", "sha256", "0f", r"sha256 is '0f', expected"),
]  # fmt: skip


def schema(kind: str) -> Schema[Any]:
    module, _, name = kind.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Schema)
    return found


def leaves(value: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where every number, text and truth value in a JSON value is."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, entry in entries:
        yield from leaves(entry, (*way, key))
    if not isinstance(value, dict | list | tuple):
        yield way


def changed(value: Any, way: tuple[str | int, ...], to: Any) -> Any:
    """A copy with another value there; without what is there if `to` is `...`."""
    value = copy.deepcopy(value)
    if not way:
        return to
    place = value
    for key in way[:-1]:
        place = place[key]
    if to is ...:
        del place[way[-1]]
    else:
        place[way[-1]] = to
    return value


def plain(kind: str) -> Any:
    return json.loads(json.dumps(GOOD[kind]))


def refused(kind: str, path: Path, content: bytes) -> str:
    """The sentence by which a content is refused; nothing else may be raised."""
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        schema(kind).read(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} is damaged (") and sentence.endswith(f"): {schema(kind).hint}.")
    assert "\n" not in sentence
    # the remedy of most: a good copy
    path.write_text(json.dumps(GOOD[kind]))
    schema(kind).read(path)
    return sentence


def test_the_table_above_has_every_kind_of_file() -> None:
    found = set()
    for path in ROOT.glob("*/*.py"):
        if path.parent.name not in ("tests", ".venv"):
            names = re.findall(r"^(\w+) = Schema\(", path.read_text(), re.MULTILINE)
            found |= {f"{path.parent.name}.{path.stem}:{name}" for name in names}
    assert found == set(GOOD)


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_no_json_or_another_kind_of_value_is_refused(kind: str, tmp_path: Path) -> None:
    schema(kind).of(GOOD[kind])
    for content in NO_JSON:
        assert "no JSON" in refused(kind, tmp_path / "f.json", content)
    other = b"[]" if isinstance(GOOD[kind], dict) else b"{}"
    for content in (b"null", b"7", b'"text"', other):
        refused(kind, tmp_path / "f.json", content)


@pytest.mark.parametrize("kind", GOOD)
def test_every_field_is_of_its_type_and_finite(kind: str, tmp_path: Path) -> None:
    good = plain(kind)
    for way in leaves(good):
        if (kind, *way)[:2] in FREE or (kind, *way)[:3] in FREE or not way:
            continue
        was = good
        for key in way:
            was = was[key]
        wrong: list[Any] = [[{}], {"": []}]
        wrong += [float("nan"), float("inf"), "1"] if isinstance(was, int | float) else [7]
        wrong += [1] if isinstance(was, bool) else [True]
        for to in wrong:
            if isinstance(was, bool) and to is True:
                continue
            sentence = refused(kind, tmp_path / "f.json", json.dumps(changed(good, way, to)).encode())
            assert str(way[0]) in sentence
        # a field that is missing is refused, or is one that older files lack
        path = tmp_path / "f.json"
        path.write_text(json.dumps(changed(good, way, ...)))
        try:
            schema(kind).read(path)
        except UserError as error:
            assert f"{path} is damaged (" in str(error)


@pytest.mark.parametrize(("kind", "field", "value", "sentence"), OUT_OF_RANGE)
def test_what_is_out_of_range_is_named(kind: str, field: str, value: Any, sentence: str, tmp_path: Path) -> None:
    content = json.dumps(GOOD[kind] | {field: value}).encode()
    assert re.search(sentence, refused(kind, tmp_path / "f.json", content))


def test_a_list_with_one_bad_entry_names_it(tmp_path: Path) -> None:
    content = json.dumps([SENT, {**SENT, "state": "lost"}]).encode()
    sentence = refused("kaggle_client.sent:_SENT", tmp_path / "sent.json", content)
    assert "1.state is 'lost', expected 'sending' or 'sent'" in sentence


def test_fields_of_later_versions_are_kept_where_they_may_be() -> None:
    assert schema(BLEND).of(GOOD[BLEND] | {"new": 1})["new"] == 1


def test_a_schema_of_secrets_shows_none(tmp_path: Path) -> None:
    for kind in ("kaggle_client.credentials:_PAIR", "kaggle_client.credentials:_LOGIN"):
        for wrong in ('["%s"]', '{"key": ["%s"], "refresh_token": ["%s"]}', '{"username": {"%s": 1}}', '{"key": "%s"'):
            assert "CANARY" not in refused(kind, tmp_path / "f.json", wrong.replace("%s", "CANARY").encode())
