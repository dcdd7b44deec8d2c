"""The networks that come with the repository: they load, and know cars that they have not seen."""

from dataclasses import replace
from pathlib import Path

import pytest

from competition import COMPETITIONS
from ensemble.blend import find_blend
from ensemble.blend_file import read_blend
from ensemble.model_card import card
from ensemble.photographs import main as mask_photographs
from folds.task import read_manifest
from models.variant import Variant
from models.variants import VARIANTS
from studio.render import render_competition
from submit.score import score

ROOT = Path(__file__).parent.parent
TRAINED = ROOT / "trained"
FOLDS = sorted(path.parent for path in TRAINED.rglob("fold*/manifest.json"))
CARDS = sorted(path.parent for path in TRAINED.rglob("README.md"))
STUDIO = COMPETITIONS["studio"]
# of a competition's folder
MOST_BYTES = 40e6


@pytest.mark.parametrize("folder", FOLDS, ids=lambda folder: folder.relative_to(TRAINED).as_posix())
def test_a_networks_variant_is_the_registrys(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None
    variant = Variant.from_json(manifest["variant"])
    # a run's tag follows the variant's name
    name = max((name for name in VARIANTS if f"{variant.name}-".startswith(f"{name}-")), key=len)
    # how it would be trained anew may change; how it was stands beside its weights
    assert variant == replace(VARIANTS[name], name=variant.name, recipe=variant.recipe)


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.relative_to(TRAINED).as_posix())
def test_what_is_handed_on_is_a_blend_with_a_card_and_small(folder: Path) -> None:
    blend = find_blend(folder, "blend")
    card = (folder / "README.md").read_text()
    assert all(f"| `{member.name}` |" in card for member in blend.members)
    assert f"--runs {folder.parent.relative_to(ROOT).as_posix()} " in card
    # without it, nothing would tell that a picture is none that the networks know
    assert blend.agreement_limit is not None
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MOST_BYTES


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.relative_to(TRAINED).as_posix())
def test_cards_are_those_that_would_be_written_today(folder: Path) -> None:
    fitted = read_blend(folder / "blend")
    members = find_blend(folder, "blend").members
    # what was measured when it was made stands behind these beginnings
    runs = folder.parent.relative_to(ROOT).as_posix()
    text = card(COMPETITIONS[folder.name], fitted, members, {}, runs=runs, weights="", agreement="")
    written = (folder / "README.md").read_text().splitlines()
    assert not [line for line in text.splitlines() if not any(other.startswith(line.rstrip()) for other in written)]


@pytest.mark.parametrize("runs", [TRAINED, TRAINED / "fast"], ids=["best", "fast"])
def test_cars_that_they_were_not_trained_on_are_masked(tmp_path: Path, runs: Path) -> None:
    # trained on photographs, asked about rendered cars
    render_competition(tmp_path / "studio", cars=1, test_cars=1, seed=11, views=4, jobs=1)
    images = tmp_path / "studio" / STUDIO.train_dir
    mask_photographs(images=images, out=tmp_path / "masks", competition="carvana", runs=runs)
    result = score(tmp_path / "masks", tmp_path / "studio" / STUDIO.masks_dir, competition=STUDIO)
    assert result.names == sorted(path.name for path in images.iterdir())
    assert result.mean > 0.9, result.scores
