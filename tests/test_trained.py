"""The network that comes with the repository: it loads, and it knows a car that it has not seen."""

from pathlib import Path

from competition import COMPETITIONS
from ensemble.photographs import main as mask_photographs
from folds.task import read_manifest
from models.variant import Variant
from models.variants import find_variant
from studio.render import render_competition
from submit.score import score

TRAINED = Path(__file__).parent.parent / "trained"
STUDIO = COMPETITIONS["studio"]


def test_the_variant_is_the_registrys() -> None:
    manifest = read_manifest(TRAINED / "carvana" / "unet-mobilenetv3-320x512" / "fold0")
    assert manifest is not None
    assert Variant.from_json(manifest["variant"]) == find_variant("unet-mobilenetv3-320x512")


def test_it_masks_a_car_it_was_not_trained_on(tmp_path: Path) -> None:
    # trained on photographs, asked about rendered cars
    render_competition(tmp_path / "studio", cars=1, test_cars=1, seed=11, views=4, jobs=1)
    images = tmp_path / "studio" / STUDIO.train_dir
    mask_photographs(
        images=images, out=tmp_path / "masks", competition="carvana", variant="unet-mobilenetv3-320x512", runs=TRAINED
    )
    result = score(tmp_path / "masks", tmp_path / "studio" / STUDIO.masks_dir, competition=STUDIO)
    assert result.names == sorted(path.name for path in images.iterdir())
    assert result.mean > 0.9, result.scores
