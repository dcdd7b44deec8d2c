"""A windowed network is its inner network on the windows that its finder finds, and nothing outside of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from competition import Size
from models.build import build, completed
from models.frame import Frame, frame_of
from models.networks.windowed_unet import WindowedUNet, unwindowed
from models.openvino_runtime import is_installed
from models.runtimes import OPENVINO, RUNTIMES
from models.tta import find_transforms
from models.variant import Variant
from models.variants import VARIANTS
from predict.blocks import Place
from predict.photographs import load, network_logits
from predict.replicas import ReplicaPool
from tests.synthetic_runs import save_member

# a batch of 448x640: 7x10 windows' steps, 64x80 cells of the finder
HEIGHT, WIDTH = 448, 640
# a fortieth of the longer side
MARGIN = 16
# rows and columns of pixels, each a multiple of the finder's cells
BOXES = [(slice(80, 200), slice(320, 600)), (slice(200, 240), slice(8, 40)), (slice(0, 448), slice(264, 272))]


class Found(torch.nn.Module):
    """Says where boxes are, whatever it is shown: of image n, box n; None is nowhere."""

    def __init__(self, boxes: list[tuple[slice, slice] | None]) -> None:
        super().__init__()
        self.boxes = boxes
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        pixels = torch.full((len(x), 1, HEIGHT, WIDTH), -4.0)
        for plane, box in zip(pixels, self.boxes, strict=True):
            if box is not None:
                plane[0, box[0], box[1]] = 4
        return self.scale * torch.nn.functional.adaptive_max_pool2d(pixels, (height, width))


def variant() -> Variant:
    options = {"widths": (4, 4, 6, 6, 8), "fold": 4, "finder_widths": (4, 8), "finder_fold": 2}
    return replace(VARIANTS["windowed-unet-full"], size=(HEIGHT, WIDTH), options=options, fit="resize")


def network(boxes: list[tuple[slice, slice] | None]) -> WindowedUNet:
    torch.manual_seed(1)
    made = build(variant())
    assert isinstance(made, WindowedUNet)
    made.finder = Found(boxes)  # type: ignore[assignment]
    return made


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, HEIGHT, WIDTH, generator=generator).contiguous(memory_format=torch.channels_last)


def inside(logits: torch.Tensor) -> tuple[slice, slice]:
    """The window of one image's logits (K, h, w): where they are not those of outside."""
    seen = (logits != -12).any(0)
    rows, columns = (seen.any(axis).nonzero().flatten() for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


@torch.inference_mode()
def test_an_image_is_predicted_in_a_window_around_what_was_found_whatever_lies_beside_it() -> None:
    windowed, batch = network([*BOXES]).eval(), images(3)
    logits = windowed(batch)
    assert logits.shape == (3, 1, HEIGHT, WIDTH)
    for n, (rows, columns) in enumerate(BOXES):
        r, c = inside(logits[n])
        assert (r.stop - r.start) % 64 == (c.stop - c.start) % 64 == 0
        # the finder's cells are eight pixels, and there is a margin wherever the image has one
        for window, box, whole in ((r, rows, HEIGHT), (c, columns, WIDTH)):
            assert window.start <= max(box.start - MARGIN, 0) and window.stop >= min(box.stop + MARGIN, whole)
            assert window.stop - window.start <= box.stop - box.start + 2 * (MARGIN + 8) + 64
        torch.testing.assert_close(logits[n : n + 1, :, r, c], windowed.network(batch[n : n + 1, :, r, c]))
        alone = network([BOXES[n]]).eval()(batch[n : n + 1])
        assert torch.equal(alone[0], logits[n])


@torch.inference_mode()
def test_where_nothing_is_found_the_whole_image_is_the_window() -> None:
    windowed, batch = network([None]).eval(), images(1)
    assert torch.equal(windowed(batch), windowed.network(batch))
    assert torch.equal(unwindowed(windowed)(batch), windowed.network(batch))


@torch.inference_mode()
def test_test_time_augmentation_moves_the_window_along() -> None:
    windowed = network([BOXES[0]]).eval()
    mirrored = [(rows, slice(WIDTH - columns.stop, WIDTH - columns.start)) for rows, columns in BOXES[:1]]
    plain, flip = (inside(network([box]).eval()(images(1))[0]) for box in (BOXES[0], mirrored[0]))
    assert flip == (plain[0], slice(WIDTH - plain[1].stop, WIDTH - plain[1].start))
    scale = find_transforms(["scale0.75"])[1]
    size = scale.resized((HEIGHT, WIDTH))
    assert windowed(torch.zeros(1, 3, *size)).shape == (1, 1, *size)


def test_training_gives_similar_windows_one_size_and_every_image_its_own_place() -> None:
    windowed, batch = network([BOXES[0], BOXES[1], BOXES[0], BOXES[1]]).train(), images(4)
    logits = windowed(batch)
    windows = [inside(plane) for plane in logits.detach()]
    assert windows[0] == windows[2] and windows[1] == windows[3] and windows[0] != windows[1]
    wanted = torch.zeros_like(logits)
    for plane, box in zip(wanted, windowed.finder.boxes, strict=True):  # type: ignore[arg-type]
        plane[0, box[0], box[1]] = 1
    # it knew: the loss is that of its certainty
    assert windowed.finder_loss(wanted).item() == pytest.approx(np.log1p(np.exp(-4)), rel=1e-4)
    torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted).backward()
    assert all(parameter.grad is not None for parameter in windowed.network.parameters())
    assert windowed.finder.scale.grad is None


Learned = tuple[WindowedUNet, torch.Tensor, list[float]]
LEARNED_BOXES = [BOXES[0], (slice(200, 360), slice(40, 240))]


@pytest.fixture(scope="module")
def learned() -> Learned:
    """A network whose finder has learned to see two bright boxes; these images; its losses."""
    torch.manual_seed(3)
    windowed = build(variant()).train()
    assert isinstance(windowed, WindowedUNet)
    for norm in (module for module in windowed.finder.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 0.5
    optimiser = torch.optim.Adam(windowed.finder.parameters(), 0.02)
    losses = []
    batch, wanted = images(2) * 0.1, torch.zeros(2, 1, HEIGHT, WIDTH)
    for n, (rows, columns) in enumerate(LEARNED_BOXES):
        batch[n, :, rows, columns] += 2
        wanted[n, :, rows, columns] = 1
    for _ in range(40):
        windowed(batch)
        loss = windowed.finder_loss(wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return windowed.eval(), batch, losses


def test_the_finder_learns_where_something_is(learned: Learned) -> None:
    windowed, batch, losses = learned
    assert max(losses[-4:]) < 0.5 * min(losses[:4])
    with torch.inference_mode():
        logits = windowed(batch)
    for plane, (rows, columns) in zip(logits, LEARNED_BOXES, strict=True):
        r, c = inside(plane)
        assert r.start <= rows.start and r.stop >= rows.stop and c.start <= columns.start and c.stop >= columns.stop
        assert (r.stop - r.start) * (c.stop - c.start) < 0.7 * HEIGHT * WIDTH


@torch.inference_mode()
def test_without_windows_the_same_region_is_left() -> None:
    windowed, batch = network([BOXES[0]]).eval(), images(1)
    r, c = inside(windowed(batch)[0])
    rows, columns = inside(unwindowed(windowed)(batch)[0])
    # windows are rounded up, and a cell's edge may be spread by one
    assert r.start <= rows.start + 8 and rows.stop - 8 <= r.stop and rows.stop - rows.start > 140
    assert c.start <= columns.start + 8 and columns.stop - 8 <= c.stop and columns.stop - columns.start > 300


@pytest.mark.parametrize("name", RUNTIMES)
@torch.inference_mode()
def test_every_runtime_has_the_same_windows(name: str, learned: Learned) -> None:
    if name == OPENVINO and not is_installed():
        pytest.skip("OpenVINO is not installed (requirements-cpu.txt)")
    windowed, batch, _ = learned
    wanted = windowed(batch)
    ready = RUNTIMES[name](windowed, variant(), torch.device("cpu"))
    found = ready.mean_logits(batch, find_transforms(()))
    assert [inside(plane) for plane in found] == [inside(plane) for plane in wanted]
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=0.03 * float(wanted.abs().max()))


@pytest.mark.parametrize("size", [(301, 447), (33, 64), (500, 640), (448, 576), (440, 633)], ids=str)
def test_photographs_of_other_sizes_are_resized_and_neither_tiled_nor_lost_in_padding(
    size: Size, tmp_path: Path
) -> None:
    windowed = replace(variant(), fit="pad")
    frame, path = frame_of(windowed), tmp_path / "photograph.png"
    assert frame_of(replace(windowed, network="folded-unet")).of(size).fit == "pad"
    cv2.imwrite(str(path), np.random.default_rng(7).integers(0, 256, (*size, 3)).astype(np.uint8))
    pool = ReplicaPool([save_member(tmp_path, windowed, 1)])
    with pool.running():
        (result,) = network_logits(pool, [(Place("photograph", 0, 1), load(path, [frame]))], polled=True)
    pads = size in ((448, 576), (440, 633))
    assert result.frames == [frame if pads else Frame((HEIGHT, WIDTH))]
    assert result.planes[0].shape == (HEIGHT, WIDTH)
    assert result.frames[0].invert(result.planes[0], size).shape == size


def test_it_starts_from_the_network_within_it_too(tmp_path: Path) -> None:
    torch.manual_seed(6)
    windowed = build(variant())
    assert isinstance(windowed, WindowedUNet)
    options = {key: variant().options[key] for key in ("widths", "fold")}
    inner = build(replace(variant(), network="folded-unet", options=options))
    state = completed(variant(), windowed, inner.state_dict())
    finder = {name: tensor.clone() for name, tensor in windowed.finder.state_dict().items()}
    windowed.load_state_dict(state)
    assert all(torch.equal(tensor, inner.state_dict()[name]) for name, tensor in windowed.network.state_dict().items())
    assert all(torch.equal(tensor, finder[name]) for name, tensor in windowed.finder.state_dict().items())
    # its own are taken as they are, and other networks' too
    assert completed(variant(), windowed, state).keys() == state.keys()
    assert completed(VARIANTS["a-cnn-128"], inner, inner.state_dict()).keys() == inner.state_dict().keys()
