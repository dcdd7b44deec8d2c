"""What goes wrong while a network trains, said in one sentence with the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import atomic
from command_line import UserError
from folds.boundary_crop import crop_size
from folds.task import FoldTask
from models.build import divisor
from models.variant import PRESENCE_HEAD
from shortage import detail, is_out_of_memory


def _smaller_batch(batch: int, accumulate: int, devices: int) -> tuple[int, int]:
    """At most half the batch, and how often it must be accumulated so that a step sees as many images, or nearly."""
    step = batch * accumulate
    halves = [b for b in range(devices, batch // 2 + 1, devices) if step % b == 0]
    if halves and halves[-1] * 4 >= batch:
        return halves[-1], step // halves[-1]
    smaller = batch // 2 // devices * devices
    return smaller, max(1, round(step / smaller))


def _smaller_crop(task: FoldTask) -> str:
    """Crops of half the height and width, as the beginning of an advice; empty where there are none."""
    now = task.recipe.crop or 1.0
    larger, smaller = crop_size(task.variant, now), crop_size(task.variant, now / 2)
    if smaller == larger or PRESENCE_HEAD in [head.name for head in task.variant.heads]:
        return ""
    return f"train on crops (--crop {now / 2:g}), or "


def out_of_memory(task: FoldTask) -> str:
    """The sentence for a fold whose batch does not fit the memory, with values that would need half of it."""
    variant, recipe = task.variant, task.recipe
    batch = recipe.batch
    height, width = crop_size(variant, recipe.crop) if recipe.crop else variant.size
    where = "the memory"
    if torch.cuda.is_available():
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        where = f"the GPU's {total_bytes / 2**30:.0f} GiB ({free_bytes / 2**30:.0f} GiB left)"
    fault = f"{task.label} ran out of memory: a batch of {batch} at {height}x{width} does not fit {where}"
    if batch >= 2 * task.devices:
        smaller, accumulate = _smaller_batch(batch, recipe.accumulate, task.devices)
        return (
            f"{fault}; --batch {smaller} --accumulate {accumulate} needs about {batch // smaller} times less and keeps "
            f"{smaller * accumulate} images a step (now {batch * recipe.accumulate})."
        )
    step = divisor(variant)
    half = [max(step, round(side / 2 / step) * step) for side in variant.size]
    times = variant.size[0] * variant.size[1] / half[0] / half[1]
    precision = ", or train with --precision bf16" if (task.precision or recipe.precision) == "float32" else ""
    return (
        f"{fault}, and no smaller batch exists: {_smaller_crop(task)}give the variant the size {half[0]}x{half[1]} in "
        f"models/variants.py, which needs about {times:.0f} times less{precision}."
    )


def _dead_worker(task: FoldTask, error: Exception) -> str:
    fate = re.search(r"is (killed by signal: \w+)|(exit(?:ed|s)? unexpectedly(?: with exit code \d+)?)", str(error))
    how = f" ({fate.group(1) or fate.group(2)})" if fate else ""
    return (
        f"a process that loads the images of {task.label} died{how}, most often for want of memory: train with fewer "
        "--workers (0 loads without any); the same command goes on from the last completed epoch."
    )


def _out_of_memory(task: FoldTask, error: Exception) -> str:
    """The sentence for memory that ran out, wherever a fold was at."""
    words = detail(error)
    if "DataLoader worker" in str(error) or re.search("shared memory|/torch_", words):
        return (
            f"memory ran out in the processes that load the images of {task.label} ({words}): train with fewer "
            "--workers (0 loads without any); the same command goes on from the last completed epoch."
        )
    if "thread" in words.lower():
        return (
            f"{task.label} cannot start another thread ({words}): train with fewer --jobs, or allow more processes "
            "(ulimit -u); the same command goes on from the last completed epoch."
        )
    return out_of_memory(task)


@contextmanager
def explained(task: FoldTask) -> Iterator[None]:
    """Turn what a fold can fail of into a UserError; what is not known here passes."""
    try:
        with atomic.told(task.folder):
            yield
    except UserError as error:
        # one raised in a loading process carries that process's traceback
        if str(error).startswith("Caught UserError in DataLoader worker"):
            raise UserError(str(error).rstrip().rsplit("UserError: ", 1)[-1]) from error
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(_out_of_memory(task, error)) from error
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            raise UserError(_dead_worker(task, error)) from error
        raise
