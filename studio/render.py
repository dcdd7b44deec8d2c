"""`python -m studio.render`: render the embedded competition in Carvana's own layout; `make data C=studio` calls it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

import atomic
from command_line import UserError, program
from competition import COMPETITIONS, Competition
from folder_listing import is_empty
from folder_lock import fill
from json_file import Schema
from program_flags import NonNegative, Positive, Processes, Seed
from studio.cars import Car, build, draw_car, palette
from studio.scene import VIEWS, background, draw_camera, noise_tile, picture

MANIFEST_FILE = "manifest.json"
_PARAMETERS_FILE = "parameters.json"
_PARAMETERS = Schema(dict[str, Any], "remove the folder, or choose another --out")
# what decides the pictures, beside the parameters: raise it when they change
_VERSION = 1
_JPEG_QUALITY = 90
_MAKES = {
    "sedan": ("Alder", "Merle"), "hatchback": ("Brisk", "Pip"), "estate": ("Corva", "Haven"),
    "suv": ("Denali Vale", "Tor"), "pickup": ("Oxbow", "Drover"), "convertible": ("Lark", "Solene"),
}  # fmt: skip
# millimetres a step of the depth maps; 0 is where the car is not
DEPTH_STEP_M = 0.001


@dataclass(frozen=True)
class _Task:
    """One car of a set; its draw depends on the seed, the set and its number alone."""

    out: Path
    seed: int
    test: bool
    number: int
    views: int
    depth: bool

    def rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, int(self.test), self.number, *key))

    @property
    def car_id(self) -> str:
        # the first digit keeps training and test cars apart, the last three keep cars of a set apart
        middle = int(self.rng(1).integers(16**8))
        return f"{8 * self.test + self.number % 8:x}{middle:08x}{self.number % 4096:03x}"

    def car(self) -> Car:
        return draw_car(self.rng(0))


def _gif(mask: np.ndarray) -> bytes:
    image = Image.fromarray(mask.view(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    # the palette as it is: optimising it would renumber a mask of one level
    image.save(buffer, "GIF", optimize=False)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(content)


def _encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    done, content = cv2.imencode(suffix, image, options)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {suffix}")
    return bytes(content)


def _paths(task: _Task, view: int, competition: Competition) -> list[Path]:
    """Image, mask and, if asked for, depth map of one view."""
    name = f"{task.car_id}_{view:02}{competition.image_suffix}"
    images, masks = competition.train_dir, competition.masks_dir
    if task.test:
        images, masks = competition.test_dir, str(competition.test_masks_dir)
    paths = [task.out / images / name, task.out / masks / competition.mask_name(name)]
    if task.depth:
        paths.append(task.out / f"{images}_depth" / name.replace(competition.image_suffix, ".png"))
    return paths


def _render_car(task: _Task, competition: Competition) -> int:
    """Render what is missing of a car; returns its number of views."""
    cv2.setNumThreads(1)
    views = range(1, VIEWS + 1, VIEWS // task.views)
    wanted = {view: _paths(task, view, competition) for view in views}
    missing = [view for view, paths in wanted.items() if not all(path.exists() for path in paths)]
    if missing:
        car = task.car()
        mesh, colours, studio = build(car), palette(car), task.rng(2)
        camera = draw_camera(studio, competition.size)
        empty = background(camera, studio, competition.size)
        noise = noise_tile(studio)
    for view in missing:
        image, mask, depth = picture(
            mesh, view, camera, empty, colours, noise, task.rng(3, view), with_depth=task.depth
        )
        paths = wanted[view]
        if depth is not None:
            steps = np.rint(depth / DEPTH_STEP_M).clip(0, 65535).astype(np.uint16)
            _write(paths[2], _encoded(".png", steps))
        _write(paths[1], _gif(mask))
        jpeg = _encoded(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
        _write(paths[0], jpeg)
    return len(wanted)


def _tables(tasks: list[_Task], out: Path, competition: Competition) -> None:
    rows = ['"id","year","make","model","trim1","trim2"']
    for task in sorted(tasks, key=lambda t: t.car_id):
        car, rng = task.car(), task.rng(4)
        make = _MAKES[car.body][int(rng.integers(2))]
        trims = str(rng.choice(["Base", "S", "SE", "Sport"])), str(rng.choice(["", "w/Nav", "w/Tech"]))
        rows.append(",".join(f'"{v}"' for v in (task.car_id, rng.integers(2008, 2017), make, car.body.title(), *trims)))
    atomic.write_text(out / str(competition.metadata_file), "\n".join(rows) + "\n")
    names = sorted(
        _paths(t, v, competition)[0].name for t in tasks if t.test for v in range(1, VIEWS + 1, VIEWS // t.views)
    )
    sample = "".join(f"{name},1 1\n" for name in names)
    atomic.write_text(out / competition.sample_file, ",".join(competition.header) + "\n" + sample)


def render_competition(
    out: Path, *, cars: int, test_cars: int, seed: int = 0, views: int = VIEWS, jobs: int = -1, depth: bool = False
) -> bool:
    """Render a competition folder: train/, train_masks/, test/, test_masks/, metadata.csv, sample_submission.csv.

    The same parameters give the same bytes, whatever `jobs`; more cars leave the others as they are.

    Args:
        out: the folder. Images that are there are kept if the folder was begun with the same parameters.
        cars, test_cars: cars in each set, at most 4,096.
        seed: of everything.
        views: turntable positions a car, a divisor of 16.
        jobs: processes, as joblib counts them.
        depth: write train_depth/ and test_depth/ too: 16-bit PNG, distance from the camera along its axis in
            millimetres, 0 where the car is not.

    Returns:
        Whether anything had to be done.

    Raises:
        UserError: a number is out of range, or the folder holds a rendering of other parameters, or other files.
    """
    competition = COMPETITIONS["studio"]
    if not (0 < cars <= 4096 and 0 < test_cars <= 4096):
        raise UserError(f"{cars} training and {test_cars} test cars: ask for 1 to 4096 of each.")
    if views < 1 or VIEWS % views:
        raise UserError(f"{views} views do not divide the turntable's {VIEWS}: ask for 1, 2, 4, 8 or 16.")
    parameters = {
        "cars": cars, "test_cars": test_cars, "seed": seed, "views": views, "depth": depth, "version": _VERSION,
    }  # fmt: skip
    state = out / _PARAMETERS_FILE
    if state.exists():
        if _PARAMETERS.read(state) != parameters:
            raise UserError(f"{out} was rendered with other parameters: remove the folder, or choose another --out.")
    elif not is_empty(out):
        raise UserError(f"{out} holds other files: choose an empty --out, or remove the folder.")
    tasks = [_Task(out, seed, False, n, views, depth) for n in range(cars)]
    tasks += [_Task(out, seed, True, n, views, depth) for n in range(test_cars)]
    wanted = {path for t in tasks for v in range(1, VIEWS + 1, VIEWS // views) for path in _paths(t, v, competition)}
    if (out / MANIFEST_FILE).exists() and all(path.exists() for path in wanted):
        return False
    atomic.write_json(state, parameters)
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    with tqdm(total=len(tasks) * views, desc="render", unit="image", disable=None) as bar:
        for done in parallel(joblib.delayed(_render_car)(task, competition) for task in tasks):
            bar.update(done)
    _tables(tasks, out, competition)
    # last: its existence means the folder is complete
    atomic.write_json(out / MANIFEST_FILE, parameters)
    return True


@program
def main(
    out: Path = Path("data/studio"),
    cars: Positive = 20,
    test_cars: NonNegative = 6,
    seed: Seed = 0,
    views: Positive = VIEWS,
    jobs: Processes = -1,
    depth: bool = False,
) -> None:
    """Render the embedded competition.

    Args:
        out: the folder.
        cars: training cars.
        test_cars: test cars, whose masks go to test_masks/.
        seed: of everything.
        views: turntable positions a car, a divisor of 16.
        jobs: processes, as joblib counts them.
        depth: write depth maps too.
    """
    fill(out)
    done = render_competition(out, cars=cars, test_cars=test_cars, seed=seed, views=views, jobs=jobs, depth=depth)
    what = f"{cars} training and {test_cars} test cars, {views} views each, in {out}"
    print(f"rendered {what}" if done else f"{what}: already rendered")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
