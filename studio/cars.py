"""Parametric cars: what is drawn at random of a car, and its mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studio.mesh import (
    CHROME,
    DARK,
    FABRIC,
    GLASS,
    HEADLIGHT,
    METAL,
    PAINT,
    PLASTIC,
    PLATE,
    TAILLIGHT,
    Mesh,
    box,
    ellipsoid,
    grid,
    join,
    rod,
    wheel,
)

# side profile of each body: (share of the length from rear -0.5 to front 0.5, share of the height)
PROFILES: dict[str, list[tuple[float, float]]] = {
    "sedan": [
        (-0.50, 0.40), (-0.495, 0.60), (-0.46, 0.68), (-0.34, 0.71), (-0.18, 0.965), (-0.04, 1.0), (0.07, 0.97),
        (0.24, 0.67), (0.40, 0.60), (0.475, 0.52), (0.50, 0.36),
    ],
    "hatchback": [
        (-0.50, 0.36), (-0.495, 0.62), (-0.46, 0.72), (-0.38, 0.94), (-0.18, 1.0), (0.06, 0.975), (0.25, 0.66),
        (0.42, 0.58), (0.48, 0.50), (0.50, 0.34),
    ],
    "estate": [
        (-0.50, 0.36), (-0.495, 0.64), (-0.475, 0.74), (-0.43, 0.94), (-0.20, 1.0), (0.06, 0.97), (0.24, 0.67),
        (0.41, 0.59), (0.48, 0.50), (0.50, 0.35),
    ],
    "suv": [
        (-0.50, 0.36), (-0.495, 0.62), (-0.48, 0.72), (-0.445, 0.95), (-0.25, 1.0), (0.06, 0.98), (0.21, 0.68),
        (0.42, 0.62), (0.485, 0.53), (0.50, 0.34),
    ],
    "pickup": [
        (-0.50, 0.36), (-0.497, 0.60), (-0.48, 0.625), (-0.13, 0.625), (-0.115, 0.93), (-0.02, 1.0), (0.09, 0.97),
        (0.21, 0.68), (0.42, 0.64), (0.485, 0.54), (0.50, 0.36),
    ],
    "convertible": [
        (-0.50, 0.42), (-0.49, 0.64), (-0.45, 0.72), (-0.30, 0.75), (-0.20, 0.93), (-0.06, 1.0), (0.05, 0.96),
        (0.20, 0.70), (0.40, 0.62), (0.475, 0.53), (0.50, 0.38),
    ],
}  # fmt: skip

# length, width, height in metres, ground clearance, wheel radius
SIZES: dict[str, tuple[float, float, float, float, float]] = {
    "sedan": (4.80, 1.84, 1.46, 0.17, 0.33),
    "hatchback": (4.10, 1.76, 1.50, 0.17, 0.31),
    "estate": (4.75, 1.83, 1.50, 0.17, 0.33),
    "suv": (4.75, 1.93, 1.76, 0.23, 0.38),
    "pickup": (5.40, 1.98, 1.84, 0.27, 0.40),
    "convertible": (4.40, 1.80, 1.32, 0.15, 0.33),
}

# name, RGB; about as often as on the road, white and silver close to the wall among them
PAINTS: list[tuple[str, tuple[int, int, int]]] = [
    ("white", (238, 238, 236)), ("white", (232, 230, 224)), ("silver", (186, 189, 192)), ("silver", (200, 202, 204)),
    ("grey", (104, 107, 111)), ("black", (24, 24, 27)), ("black", (33, 34, 38)), ("red", (150, 22, 26)),
    ("blue", (28, 46, 128)), ("blue", (70, 104, 150)), ("brown", (84, 66, 52)), ("gold", (172, 156, 124)),
    ("green", (36, 66, 50)),
]  # fmt: skip

_STATIONS = 150
_AROUND = 65


@dataclass(frozen=True)
class Car:
    """One car's draw. Lengths in metres."""

    body: str
    paint_name: str
    paint: tuple[int, int, int]
    length: float
    width: float
    height: float
    clearance: float
    wheel_radius: float
    belt: float
    spokes: int
    spoke_share: float
    rim_grey: int
    glass_grey: int
    antenna: str
    antenna_length: float
    rails: bool
    spoiler: bool
    mirror_scale: float


def draw_car(rng: np.random.Generator) -> Car:
    """Draw a car; the same state of `rng` gives the same car."""
    body = str(rng.choice(list(PROFILES), p=[0.32, 0.16, 0.10, 0.24, 0.10, 0.08]))
    length, width, height, clearance, radius = SIZES[body]
    name, colour = PAINTS[int(rng.integers(len(PAINTS)))]
    shift = rng.integers(-8, 9, 3)
    return Car(
        body=body,
        paint_name=name,
        paint=tuple(int(v) for v in np.clip(np.array(colour) + shift, 10, 245)),  # type: ignore[arg-type]
        length=length * rng.uniform(0.94, 1.05),
        width=width * rng.uniform(0.97, 1.03),
        height=height * rng.uniform(0.96, 1.05),
        clearance=clearance * rng.uniform(0.9, 1.1),
        wheel_radius=radius * rng.uniform(0.95, 1.06),
        belt=rng.uniform(0.61, 0.66),
        spokes=int(rng.choice([5, 5, 6, 7, 8, 10])),
        spoke_share=rng.uniform(0.3, 0.6),
        rim_grey=int(rng.choice([40, 120, 170, 190, 205])),
        glass_grey=int(rng.integers(18, 60)),
        antenna=str(rng.choice(["none", "fin", "roof", "fender"], p=[0.3, 0.25, 0.3, 0.15])),
        antenna_length=rng.uniform(0.25, 0.75),
        rails=bool(body in ("suv", "estate") and rng.random() < 0.7),
        spoiler=bool(body in ("sedan", "hatchback", "suv", "convertible") and rng.random() < 0.35),
        mirror_scale=rng.uniform(0.85, 1.2),
    )


def _profile(car: Car, x: np.ndarray) -> np.ndarray:
    """Height of the upper outline at `x`, corners rounded."""
    share, rise = np.array(PROFILES[car.body]).T
    fine = np.linspace(-0.5, 0.5, 801)
    line = np.interp(fine, share, rise)
    kernel = np.hanning(41 if car.body != "pickup" else 21)
    padded = np.pad(line, len(kernel) // 2, mode="reflect", reflect_type="odd")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    # rounding must not eat the ends, where front and rear are steep
    edge = np.clip((0.5 - np.abs(fine)) / 0.03, 0, 1)
    return np.interp(x / car.length, fine, edge * smooth + (1 - edge) * line) * car.height


def _body(car: Car, wheels: list[float]) -> Mesh:
    """The painted shell with its glass, lights and sills: cross-sections lofted along the length."""
    # stations crowd at the ends, where the outline is steep
    s = np.linspace(-1, 1, _STATIONS)
    x = 0.5 * car.length * np.sign(s) * (1 - (1 - np.abs(s)) ** 1.25)
    x = np.sort(x)
    top = _profile(car, x)
    ends = np.abs(2 * x / car.length)
    low = car.clearance + 0.16 * car.height * np.clip((ends - 0.86) / 0.14, 0, 1) ** 2
    half = 0.5 * car.width * (1 - 0.30 * ends**5) * (1 - 0.05 * (x < 0) * ends**2)
    belt = np.minimum(car.belt * car.height, top - 0.01)
    cabin = np.clip((top - belt) / (car.height - car.belt * car.height), 0, 1)
    roof_half = half * (1 - 0.26 * cabin)

    # half a cross-section from below the middle to above it: floor, side, window, roof
    t_floor, t_side = np.linspace(0, 1, 5)[:-1], np.linspace(0, 1, 24)[:-1]
    t_window, t_roof = np.linspace(0, 1, 20)[:-1], np.linspace(0, 1, 19)
    section = np.empty((_STATIONS, _AROUND, 2))
    for i in range(_STATIONS):
        bulge = 1 - 0.10 * (2 * t_side - 0.9) ** 2
        y = np.concatenate([
            half[i] * 0.9 * t_floor,
            half[i] * bulge,
            half[i] * 0.92 + (roof_half[i] * 0.94 - half[i] * 0.92) * t_window,
            roof_half[i] * 0.94 * (1 - t_roof),
        ])  # fmt: skip
        crown = 0.035 * car.height * cabin[i] + 0.02
        z = np.concatenate([
            np.full(len(t_floor), low[i]),
            low[i] + (belt[i] - low[i]) * t_side,
            belt[i] + (top[i] - crown - belt[i]) * t_window,
            top[i] - crown * (1 - t_roof) ** 2,
        ])  # fmt: skip
        section[i, :, 0], section[i, :, 1] = y, z
    for _ in range(3):
        section[:, 1:-1] = 0.25 * section[:, :-2] + 0.5 * section[:, 1:-1] + 0.25 * section[:, 2:]
    points = np.empty((_STATIONS, _AROUND, 3))
    points[..., 0] = x[:, None]
    points[..., 1:] = section

    cell = (points[:-1, :-1] + points[1:, 1:]) / 2
    cx, cy, cz = cell[..., 0], cell[..., 1], cell[..., 2]
    share = cx / car.length
    slope = np.abs(np.gradient(top, x))[:-1, None]
    column = np.broadcast_to(np.arange(_AROUND - 1), cx.shape)
    roof_from = len(t_floor) + len(t_side) + len(t_window)
    window_from = len(t_floor) + len(t_side)
    tall = (top - belt)[:-1, None]
    cells = np.full(cx.shape, PAINT)
    if car.body == "convertible":
        cells[(column >= window_from) & (tall > 0.06)] = FABRIC
    side_glass = (column > window_from + 1) & (column < roof_from - 3) & (tall > 0.62 * (1 - car.belt) * car.height)
    pillar = (np.abs(share - 0.0) < 0.011) | (np.abs(share + 0.17) < 0.012)
    cells[side_glass & ~pillar] = GLASS
    screen = (column >= roof_from + 1) & (slope > 0.38) & (tall > 0.05) & (cabin[:-1, None] < 0.93)
    if car.body == "pickup":
        screen &= share > -0.2
    cells[screen] = GLASS
    cells[(column < len(t_floor) + 2)] = PLASTIC
    lamp_z = cz / car.height
    front, rear = share > 0.455, share < -0.468
    cells[front & (lamp_z > 0.41) & (lamp_z < 0.53) & (np.abs(cy) > 0.30 * car.width)] = HEADLIGHT
    cells[rear & (lamp_z > 0.46) & (lamp_z < 0.60) & (np.abs(cy) > 0.31 * car.width)] = TAILLIGHT
    cells[(share > 0.47) & (lamp_z > 0.30) & (lamp_z < 0.44) & (np.abs(cy) < 0.26 * car.width)] = DARK
    cells[(share > 0.46) & (lamp_z > 0.17) & (lamp_z < 0.25) & (np.abs(cy) < 0.34 * car.width)] = DARK
    for centre in wheels:
        arch = (cx - centre) ** 2 + (cz - car.wheel_radius) ** 2 < (1.06 * car.wheel_radius) ** 2
        cells[arch & (np.abs(cy) > 0.3 * car.width) & (column < window_from)] = DARK
    other = points * np.array([1.0, -1.0, 1.0])
    # mirrored cells turn their normals inwards: swap the two directions of the grid
    left, right = grid(points, cells), grid(other[:, ::-1], cells[:, ::-1])
    return join([left, right])


def build(car: Car) -> Mesh:
    """The mesh of a car."""
    axles = [0.305 * car.length, -0.295 * car.length]
    parts = [_body(car, axles)]
    face = 0.5 * car.width + 0.005
    # the wheel wells' round edge: a dark disc just outside the shell, which is drawn in coarser cells
    turn, out = np.meshgrid(np.linspace(-0.15, np.pi + 0.15, 61), [0.0, 1.16 * car.wheel_radius], indexing="ij")
    for axle in axles:
        for side in (1, -1):
            disc = np.stack([axle + out * np.cos(turn), 0 * turn, car.wheel_radius + out * np.sin(turn)], -1)
            disc[..., 1] = side * (0.492 * car.width)
            parts.append(grid(disc, DARK))
    parts += [
        wheel((axle, side, car.wheel_radius), car.wheel_radius, 0.22, car.spokes, car.spoke_share)
        for axle in axles
        for side in (face, -face)
    ]
    belt = car.belt * car.height
    for side in (1, -1):
        y = side * (0.5 * car.width + 0.07)
        m = car.mirror_scale
        parts.append(ellipsoid((0.185 * car.length, y, belt + 0.075), (0.07 * m, 0.12 * m, 0.085 * m), PAINT))
        stem = np.array([0.185 * car.length, side * 0.43 * car.width, belt + 0.02])
        parts.append(rod(stem, np.array([0.185 * car.length, y, belt + 0.04]), 0.03, PLASTIC))
    roof_x = -0.16 * car.length if car.body != "pickup" else -0.06 * car.length
    roof = float(_profile(car, np.array([roof_x]))[0])
    if car.antenna == "fin":
        parts.append(ellipsoid((roof_x, 0.0, roof), (0.10, 0.025, 0.07), PAINT))
    elif car.antenna == "roof":
        base = np.array([roof_x, 0.0, roof - 0.01])
        parts.append(rod(base, base + car.antenna_length * np.array([-0.5, 0.0, 0.87]), 0.007, DARK))
    elif car.antenna == "fender":
        base = np.array([0.30 * car.length, 0.38 * car.width, 0.60 * car.height])
        parts.append(rod(base, base + car.antenna_length * np.array([-0.15, 0.0, 0.98]), 0.006, DARK))
    if car.rails:
        for side in (1, -1):
            y = side * 0.33 * car.width
            x0, x1 = -0.36 * car.length, 0.0
            material = CHROME if car.rim_grey > 180 else PLASTIC
            parts.append(box((x0, y - 0.015, roof + 0.01), (x1, y + 0.015, roof + 0.045), material))
            parts += [
                box((foot, y - 0.015, roof - 0.055), (foot + 0.05, y + 0.015, roof + 0.025), PLASTIC)
                for foot in (x0, (x0 + x1) / 2, x1 - 0.05)
            ]
    if car.spoiler:
        tail = -0.455 * car.length if car.body in ("sedan", "convertible") else -0.415 * car.length
        height = float(_profile(car, np.array([tail]))[0]) + (0.10 if car.body == "sedan" else 0.02)
        wide = 0.36 * car.width
        parts.append(box((tail - 0.12, -wide, height), (tail + 0.08, wide, height + 0.03), PAINT))
        if car.body == "sedan":
            parts += [
                box((tail - 0.05, y - 0.02, height - 0.14), (tail + 0.03, y + 0.02, height), PAINT)
                for y in (-0.7 * wide, 0.7 * wide)
            ]
    end = 0.5 * car.length + 0.01
    for x, z in ((end, 0.28 * car.height), (-end, 0.40 * car.height)):
        parts.append(box((x - 0.02, -0.25, z - 0.07), (x + 0.01, 0.25, z + 0.07), PLATE))
    under = 0.4 * car.length, 0.35 * car.width
    parts.append(box((-under[0], -under[1], car.clearance + 0.03), (*under, car.clearance + 0.1), DARK))
    return join(parts)


def palette(car: Car) -> tuple[np.ndarray, np.ndarray]:
    """(12, 3) float32 RGB and (12,) float32 gloss of the materials."""
    glass = car.glass_grey
    rows = {
        PAINT: (car.paint, 0.42),
        GLASS: ((glass, glass + 3, glass + 6), 0.55),
        3: ((26, 26, 27), 0.04),
        METAL: ((car.rim_grey,) * 3, 0.30),
        DARK: ((15, 15, 16), 0.05),
        HEADLIGHT: ((208, 212, 216), 0.60),
        TAILLIGHT: ((150, 18, 22), 0.40),
        PLATE: ((226, 230, 234), 0.10),
        PLASTIC: ((30, 30, 32), 0.10),
        CHROME: ((190, 192, 194), 0.60),
        FABRIC: ((28, 28, 30), 0.02),
    }
    colours = np.zeros((12, 3), np.float32)
    gloss = np.zeros(12, np.float32)
    for material, (colour, shine) in rows.items():
        colours[material], gloss[material] = colour, shine
    return colours, gloss
