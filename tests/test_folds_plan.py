import re
from dataclasses import replace
from typing import Any

import pytest

from command_line import UserError
from competition import COMPETITIONS, Competition
from folds.augment import find_augmentation
from folds.plan import check_batch, check_plan, check_recipe, few_steps, plan_of, variants_for, with_weights
from folds.recipes import RECIPES, Recipe
from models.variants import VARIANTS

CARVANA = COMPETITIONS["carvana"]
DEMO = RECIPES["demo"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_a_recipe_that_can_work(name: str) -> None:
    variant, refused = VARIANTS[name], {}
    # networks for small images suit no large ones, and some competitions lack the channels or a head
    for competition in COMPETITIONS.values():
        try:
            check_plan(variant, plan_of(variant, "", {}), competition)
            return
        except UserError as error:
            refused[competition.name] = str(error)
    pytest.fail(f"no competition suits {name}: {refused}")


@pytest.mark.parametrize("competition", COMPETITIONS.values(), ids=COMPETITIONS)
def test_all_variants_are_those_that_suit_the_competition(competition: Competition) -> None:
    chosen = variants_for("all", competition)
    for variant in chosen:
        check_plan(variant, plan_of(variant, "", {}), competition)
    left = set(VARIANTS) - {variant.name for variant in chosen}
    for name in left:
        with pytest.raises(UserError):
            check_plan(VARIANTS[name], plan_of(VARIANTS[name], "", {}), competition)
    # by name, each is taken as it is, and refused with a sentence of its own
    assert [variant.name for variant in variants_for("average-mask,folded-unet-128", competition)] == [
        "average-mask",
        "folded-unet-128",
    ]


@pytest.mark.parametrize("name", [n for n in RECIPES if n != "fitted"])
def test_every_recipe_is_accepted(name: str) -> None:
    check_recipe(RECIPES[name])


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("loss", "hinge", "unknown loss 'hinge'; known: bce"),
        ("augment", "swirl", "unknown augmentation 'swirl'; known: none"),
        ("optimiser", "adagrad", "unknown optimiser 'adagrad' in recipe demo; known: adamw"),
        ("schedule", "steps", "unknown schedule 'steps'"),
        ("precision", "fp8", "unknown precision 'fp8'"),
        ("monitor", "accuracy", "unknown monitor"),
        ("keep", "middle", "unknown keep 'middle' in recipe demo; known: best, last"),
        ("accumulate", 0, "accumulate 0 of recipe demo cannot work: 1 would"),
        ("batch", -2, "batch -2 of recipe demo cannot work: 1 would"),
        ("epochs", 0, "epochs 0"),
        ("ema", 1.0, "ema 1.0 of recipe demo cannot work: 0.999999 would"),
        ("learning_rate", -1e-3, "must be above 0"),
        ("learning_rate", float("nan"), "must be above 0"),
        ("plateau_factor", 1.0, "between 0 and 1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(field: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_recipe(replace(DEMO, **{field: value}))


def test_the_last_weights_are_those_of_a_run_that_does_not_stop_early() -> None:
    with pytest.raises(UserError, match="patience 0"):
        check_recipe(replace(DEMO, keep="last", patience=3))
    for variant in VARIANTS.values():
        plan = plan_of(variant, "", {"keep": "last"})
        assert variant.fitted or (plan.keep, plan.patience) == ("last", 0)


def test_fp16_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU"):
        check_recipe(replace(DEMO, precision="fp16"))


def test_a_batch_larger_than_the_data_is_refused_with_one_that_fits() -> None:
    check_batch(DEMO, 8, where="the images")
    with pytest.raises(UserError, match="--batch 7 works"):
        check_batch(DEMO, 7, where="the images")
    with pytest.raises(UserError, match="--accumulate 2 works"):
        check_batch(replace(DEMO, accumulate=4), 23, where="the images")
    check_batch(replace(DEMO, accumulate=2), 23, where="the images")


@pytest.mark.parametrize("images", [12, 13, 31, 97, 5088])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", RECIPES)
def test_few_steps_are_said_and_what_is_proposed_makes_enough(name: str, devices: int, images: int) -> None:
    recipe = replace(RECIPES[name], batch=min(RECIPES[name].batch, images // devices * devices))
    if not recipe.epochs:
        return
    words = few_steps(recipe, images, where="the images", devices=devices)
    steps = recipe.epochs * max(1, images // recipe.batch // recipe.accumulate)
    assert bool(words) == (steps < 50)
    if words:
        flags: dict[str, Any] = {key: int(value) for key, value in re.findall(r"--(\w+) (\d+)", words)}
        better = replace(recipe, **flags)
        assert better.batch % devices == 0 and better.epochs * (images // better.batch // better.accumulate) >= 50
        assert not few_steps(better, images, where="the images", devices=devices)


def test_the_batch_of_fifteen_images_is_proposed() -> None:
    words = few_steps(DEMO, 12, where="what fold 0 trains on")
    assert "(12 images) gives 1 step an epoch and 8 in all" in words and "--batch 2 --epochs 9 makes 54" in words
    assert not few_steps(replace(DEMO, init_from="a fold 0 1234"), 12, where="what fold 0 trains on")


def test_a_size_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(UserError, match="divisible by 32"):
        check_plan(replace(VARIANTS["unet-mobilenetv3"], size=(150, 256)), DEMO, CARVANA)


def test_plans_take_the_command_lines_changes_and_fitted_variants_do_not() -> None:
    assert plan_of(VARIANTS["unet-mobilenetv3"], "a-unet", {"batch": 3}) == replace(RECIPES["a-unet"], batch=3)
    assert plan_of(VARIANTS["average-mask"], "a-unet", {"batch": 3}) == RECIPES["fitted"]
    with pytest.raises(UserError, match="unknown recipe 'x'"):
        plan_of(VARIANTS["unet-mobilenetv3"], "x", {})
    with pytest.raises(UserError, match="unknown recipe 'x'"):
        plan_of(VARIANTS["average-mask"], "x", {})


def test_weights_can_be_left_out_everywhere_and_asked_for_where_there_are_some() -> None:
    assert with_weights(VARIANTS["unet-resnet34-512"], "none").weights == "none"
    assert with_weights(VARIANTS["unet-resnet18"], "imagenet").weights == "imagenet"
    assert with_weights(VARIANTS["unet-resnet34-512"], "") is VARIANTS["unet-resnet34-512"]
    with pytest.raises(UserError, match="a-cnn-128 has no encoder"):
        with_weights(VARIANTS["a-cnn-128"], "imagenet")


def test_the_published_recipes_are_as_published() -> None:
    unet: Recipe = RECIPES["a-unet"]
    assert (unet.optimiser, unet.learning_rate, unet.batch) == ("rmsprop", 1e-4, 16)
    assert (unet.plateau_factor, unet.plateau_patience, unet.plateau_threshold) == (0.1, 4, 1e-4)
    assert (unet.patience, unet.min_delta, unet.monitor) == (8, 1e-4, "val_loss")
    cnn = RECIPES["a-cnn"]
    assert (cnn.optimiser, cnn.weight_decay, cnn.learning_rate, cnn.epochs) == ("adamw", 0, 1e-3, 20)
    assert cnn.augment == "none"
    assert RECIPES["b-unet"].batch == 4
    (_, rotate) = find_augmentation(RECIPES["c-unet"].augment)()
    assert rotate.rotate == (-8, 8)
