import models.torchvision_compat  # noqa: F401

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from folds import optimisation
from folds.recipes import RECIPES, Monitor, Optimiser, Schedule
from models.precision import Precision

DEMO = RECIPES["demo"]


def rates(name: Schedule, steps: int, warmup: float = 0.25) -> list[float]:
    recipe = replace(DEMO, schedule=name, warmup=warmup, learning_rate=1e-2)
    chosen = optimisation.optimiser([torch.nn.Parameter(torch.zeros(1))], recipe)
    schedule = optimisation.schedule(chosen, recipe, steps)
    seen = []
    for _ in range(steps):
        seen.append(chosen.param_groups[0]["lr"])
        chosen.step()
        if schedule:
            schedule["scheduler"].step()
    return seen


def test_cosine_rises_to_the_rate_and_falls_to_nothing() -> None:
    seen = rates("cosine", 100)
    top = seen.index(max(seen))
    assert max(seen) == pytest.approx(1e-2)
    assert top == 24
    assert seen[0] == pytest.approx(1e-2 / 25)
    assert seen[:top] == sorted(seen[:top])
    assert seen[top:] == sorted(seen[top:], reverse=True)
    assert seen[-1] < 1e-5
    assert rates("cosine", 10, warmup=0)[0] == pytest.approx(1e-2)
    # shorter than any warm-up
    assert all(rate > 0 for rate in rates("cosine", 1, warmup=1.0))


def test_one_cycle_rises_and_falls_and_constant_does_not() -> None:
    seen = rates("one-cycle", 100)
    assert max(seen) == pytest.approx(1e-2)
    assert seen[-1] < 1e-5
    assert set(rates("constant", 5)) == {1e-2}


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("steps", range(1, 7))
def test_runs_of_a_few_steps_have_rates(steps: int, warmup: float) -> None:
    for name in ("one-cycle", "cosine"):
        assert all(0 <= rate <= 1e-2 * (1 + 1e-9) for rate in rates(name, steps, warmup=warmup))


@pytest.mark.parametrize(("monitor", "sign"), [("val_loss", -1), ("val_dice", 1)])
def test_plateau_waits_for_its_patience_and_ignores_gains_below_its_threshold(monitor: Monitor, sign: int) -> None:
    recipe = replace(RECIPES["a-unet"], monitor=monitor)
    chosen = optimisation.optimiser([torch.nn.Parameter(torch.zeros(1))], recipe)
    schedule = optimisation.schedule(chosen, recipe, 10)
    assert schedule is not None
    assert schedule["monitor"] == monitor
    value, seen = 0.5, []
    for gain in (0.1, 0.1, 5e-5, 0, 0, 0, 0, 0):
        value += sign * gain
        schedule["scheduler"].step(value)
        seen.append(chosen.param_groups[0]["lr"])
    # four epochs that do not count, then the fifth lowers the rate
    assert seen == pytest.approx([1e-4] * 6 + [1e-5] * 2)


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "sgd"])
def test_every_optimiser_descends(name: Optimiser) -> None:
    value = torch.nn.Parameter(torch.tensor([3.0]))
    chosen = optimisation.optimiser([value], replace(DEMO, optimiser=name, learning_rate=0.05, weight_decay=0))
    for _ in range(200):
        chosen.zero_grad()
        value.square().sum().backward()
        chosen.step()
    assert abs(float(value.detach())) < 0.3


def test_the_moving_average_is_the_sum_it_says() -> None:
    average = optimisation.MovingAverage(0.5)
    module: Any = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(2))
    module.register_buffer("seen", torch.tensor(0))
    averaged: Any = torch.optim.swa_utils.AveragedModel(module, use_buffers=True, **average._kwargs)
    expected = None
    for step, value in enumerate((1.0, 4.0, 2.0, 8.0)):
        with torch.no_grad():
            module.weight.fill_(value)
            module.seen.fill_(step)
        averaged.update_parameters(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert averaged.module.weight.tolist() == pytest.approx([expected] * 2)
    assert int(averaged.module.seen) == 3


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_fused_step_clips_its_gradients(precision: Precision) -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    chosen = optimisation.optimiser([weight], DEMO, precision)
    assert chosen.defaults["fused"]
    weight.grad = torch.full((4,), 30.0)
    # Lightning refuses to, of a step that might undo a scaling of the loss
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(chosen, 1.0)
    assert float(weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    chosen.step()
    assert bool((weight < 0).all())


def test_a_step_whose_loss_is_scaled_is_not_fused() -> None:
    chosen = optimisation.optimiser([torch.nn.Parameter(torch.zeros(1))], DEMO, "fp16")
    assert not chosen.defaults["fused"]
