"""A blend that is handed on masks as it did, from half or a quarter of the bytes where that is asked for."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import safetensors.torch

from competition import COMPETITIONS
from ensemble import photographs
from ensemble.blend import find_blend
from ensemble.blend_file import BLEND_FILE
from ensemble.mask_agreement import whole_masks
from ensemble.ship import CARD_FILE, main
from folds.recipes import find_recipe
from folds.run_layout import OOF_STORE, WEIGHTS_FILE
from models import weight_code
from models.weight_code import Bits
from predict.members import find_members
from studio.render import render_competition
from tests.modes import check_modes, umask
from tests.synthetic_runs import (
    AVERAGE,
    UNET,
    save_blend,
    save_member,
    save_pixels,
    write_photograph,
)

STUDIO = COMPETITIONS["studio"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs" / "studio"
    members = [save_member(root, variant) for variant in (UNET, AVERAGE)]
    save_blend(root, members, [0.75, 0.25], 0.1, postprocess_kept=[["fill-holes", 30]])
    (root / UNET.name / OOF_STORE).mkdir()
    (root / UNET.name / "fold0" / "resume").mkdir()
    return root


def _ship(root: Path, **flags: object) -> Path:
    out = root.parent.parent / "handed-on"
    main(competition="studio", runs=root.parent, data=root.parent.parent / "data", out=out, **flags)  # type: ignore[arg-type]
    return out / "studio"


def test_what_is_handed_on_is_the_blend_and_nothing_that_predicting_does_not_need(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = _ship(root)
    assert find_blend(shipped, "blend").state() == find_blend(root, "blend").state()
    assert json.loads((shipped / "blend" / BLEND_FILE).read_text()) == json.loads(
        (root / "blend" / BLEND_FILE).read_text()
    )
    assert not list(shipped.rglob("resume")) and not list(shipped.rglob("*.zarr"))
    card = (shipped / CARD_FILE).read_text()
    assert (
        "`tiny-unet` | 0.750 | 64x96" in card and "0.5000 (0.4000..0.6000)" in card and "make predict C=studio" in card
    )
    told = capsys.readouterr().out
    assert "4 networks (2 members x 2 folds)" in told
    # both name flags that the program has
    for text in (card, told):
        flags = re.search(r'make predict .* ARGS="(.*)"', text)
        assert flags and set(re.findall(r"--(\w+)", flags[1])) <= set(inspect.signature(photographs.main).parameters)


@pytest.mark.parametrize("bits", [16, 8])
def test_fewer_bytes_give_the_same_masks(bits: Bits, root: Path) -> None:
    data = root.parent.parent / "data"
    render_competition(data, cars=1, test_cars=1, seed=3, views=4)
    shipped = _ship(root, bits=bits, check=3)
    for name in (UNET.name, AVERAGE.name):
        before, after = (folder / name / "fold1" / WEIGHTS_FILE for folder in (root, shipped))
        assert after.stat().st_size < {16: 0.75, 8: 0.6}[bits] * before.stat().st_size
        for key, tensor in safetensors.torch.load_file(after).items():
            if tensor.is_floating_point():
                assert tensor.element_size() == 2, key
    paths = sorted((data / "test").glob("*.jpg"))[:2]
    pairs = zip(*(whole_masks(find_blend(r, "blend"), paths) for r in (root, shipped)), strict=True)
    for ours, theirs in pairs:
        assert np.mean(ours != theirs) < 1e-3
    told = {16: "float16", 8: "8 bits"}[bits]
    assert f"On 3 images, masks by the weights in {told} agree" in (shipped / CARD_FILE).read_text()
    assert json.loads((shipped / UNET.name / "fold0" / "manifest.json").read_text())["stored"] == told


@pytest.mark.parametrize("bits", get_args(Bits))
def test_whoever_gets_the_folder_can_read_it(bits: Bits, root: Path) -> None:
    render_competition(root.parent.parent / "data", cars=1, test_cars=1, seed=3, views=2)
    with umask():
        check_modes(_ship(root, bits=bits, check=1))


@pytest.mark.parametrize(("bits", "advice"), [(16, "32"), (8, "16")])
def test_fewer_bits_are_refused_where_masks_change(
    bits: Bits, advice: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_competition(root.parent.parent / "data", cars=1, test_cars=1, seed=3, views=2)
    monkeypatch.setattr(weight_code, "stored", lambda state, bits: {k: t * 0 for k, t in state.items()})
    with pytest.raises(SystemExit, match=rf"change too much \(.* of 2 images\): use --bits {advice}"):
        _ship(root, bits=bits, check=2)
    assert not (root.parent.parent / "handed-on" / "studio").exists()


def test_what_is_stored_in_few_bits_already_is_said_to_be(root: Path) -> None:
    def again(source: Path, bits: Bits, to: str) -> str:
        out = root.parent.parent / to
        data = root.parent.parent / "data"
        main(competition="studio", runs=source.parent, data=data, out=out, bits=bits, check=1)
        return (out / "studio" / CARD_FILE).read_text()

    render_competition(root.parent.parent / "data", cars=1, test_cars=1, seed=3, views=2)
    shipped = _ship(root, bits=16, check=1)
    assert "agree with those in float32" in (shipped / CARD_FILE).read_text()
    assert "agree with those in float16" in again(shipped, 8, "smaller")
    smaller = root.parent.parent / "smaller" / "studio"
    assert "Weights are stored in 8 bits." in again(smaller, 32, "copied")
    with pytest.raises(SystemExit, match=r"in 8 bits already.* use --bits 8, or leave --bits out"):
        again(smaller, 16, "larger")


def test_what_float16_cannot_hold_is_refused(root: Path) -> None:
    path = root / UNET.name / "fold1" / WEIGHTS_FILE
    state = safetensors.torch.load_file(path)
    name = next(key for key, tensor in state.items() if tensor.is_floating_point())
    safetensors.torch.save_file({**state, name: state[name] * 0 + 1e6}, path)
    blend = json.loads((root / "blend" / BLEND_FILE).read_text())
    blend["weights_digests"][UNET.name] = find_members(root, [UNET.name], 2)[0].weights_digest
    (root / "blend" / BLEND_FILE).write_text(json.dumps(blend))
    with pytest.raises(SystemExit, match=f"{name} of .* is too large for float16: use --bits 8"):
        _ship(root, bits=16)


def _predicted(root: Path, images: Path) -> dict[str, bytes]:
    """What `make predict` makes of some images."""
    out = root.parent.parent / f"masks-of-{root.parent.name}"
    photographs.main(images=images, out=out, competition="studio", runs=root.parent)
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


def test_boosted_pixels_go_along(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "studio"
    members = [save_member(root, variant) for variant in (UNET, replace(UNET, name="tiny-other"))]
    save_pixels(root, members, STUDIO.size)
    for k in range(3):
        write_photograph(tmp_path / "photos" / f"{k}.png", 200 + 31 * k, 301, seed=k)
    shipped = _ship(root)
    assert find_blend(shipped, "blend").state() == find_blend(root, "blend").state()
    before, after = (_predicted(each, tmp_path / "photos") for each in (root, shipped))
    assert before == after and len(before) == 3


def test_fewer_bits_beside_boosted_pixels(root: Path) -> None:
    members = find_members(root, [UNET.name, AVERAGE.name], 2)
    save_pixels(root, members, STUDIO.size)
    render_competition(root.parent.parent / "data", cars=1, test_cars=1, seed=3, views=2)
    shipped = _ship(root, bits=16, check=1)
    assert "On 1 image, masks by the weights in float16 agree" in (shipped / CARD_FILE).read_text()


def test_nothing_is_overwritten(root: Path) -> None:
    shipped = _ship(root)
    with pytest.raises(SystemExit, match=f"{shipped} is there already: remove it"):
        _ship(root)


@pytest.mark.parametrize("bits", get_args(Bits))
def test_rounds_of_self_training_are_told_without_where_they_were(root: Path, bits: Bits) -> None:
    manifests = [root / UNET.name / f"fold{k}" / "manifest.json" for k in range(2)]
    place = "/home/me/runs/studio/blend/first/pseudo.json"
    before: dict[str, Any] = {"run": "tiny-unet-round1", "set": place, "digest": "0" * 16}
    before |= {"images": 1234, "source": "test", "labels": "own-fold"}
    teacher = {"name": "tiny-unet-round1", "weights_digest": "1" * 16, "rounds": [before]}
    own = {**before, "run": "tiny-unet-round2", "set": "elsewhere/mean/second/pseudo.json", "teachers": [teacher]}
    for path in manifests:
        manifest = json.loads(path.read_text())
        manifest["recipe"] = {**find_recipe("demo").to_json(), "init_from": "tiny-unet-round1 fold 0 0123"}
        path.write_text(json.dumps({**manifest, "rounds": [before, own]}))
    shipped = _ship(root, bits=bits)
    for path in manifests:
        text = (shipped / path.relative_to(root)).read_text()
        assert "/home" not in text and "elsewhere" not in text
        first, second = json.loads(text)["rounds"]
        assert first == {**before, "set": "blend/first/pseudo.json"}
        assert second == {**own, "set": "mean/second/pseudo.json", "teachers": [{**teacher, "rounds": [first]}]}
    card = (shipped / CARD_FILE).read_text()
    assert "`tiny-unet` was initialised from `tiny-unet-round1`." in card
    assert "`tiny-unet-round1`: 1,234 test images in fold 0, labelled for each fold by its own networks" in card
