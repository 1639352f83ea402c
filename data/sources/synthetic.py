"""A generated dataset of 100 classes, ten shapes in ten colours, so that a demo needs no download.

A shape's position, size, angle, shade and background differ between images, and a grey shape is drawn behind it:
single pixels do not reveal the class. Image i is a pure function of (split, i).
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

SIDE = 32  # pixels
COLOURS = {
    "red": (225, 40, 40),
    "orange": (240, 140, 20),
    "yellow": (235, 225, 40),
    "lime": (130, 220, 40),
    "green": (20, 130, 50),
    "cyan": (40, 215, 220),
    "blue": (40, 70, 220),
    "violet": (130, 50, 200),
    "pink": (245, 130, 190),
    "brown": (120, 70, 30),
}

Plane = np.ndarray  # float (SIDE, SIDE)


def _star(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) < 0.62 + 0.36 * np.cos(5 * np.arctan2(v, u))


# Whether a point is inside the shape; (u, v) are coordinates relative to the shape, about -1 to 1 across it.
SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda u, v: u**2 + v**2 < 0.8,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.72) < 0.22,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.78,
    "frame": lambda u, v: np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.68) < 0.2,
    "triangle": lambda u, v: (v > -0.6) & (v < 0.95 - 1.75 * np.abs(u)),
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.27) & (np.maximum(np.abs(u), np.abs(v)) < 0.95),
    "bar": lambda u, v: (np.abs(u) < 0.98) & (np.abs(v) < 0.3),
    "bars": lambda u, v: (np.abs(np.abs(u) - 0.55) < 0.22) & (np.abs(v) < 0.85),
    "star": _star,
    "crescent": lambda u, v: (u**2 + v**2 < 0.9) & ((u - 0.5) ** 2 + v**2 > 0.62),
}
CLASSES = [f"{colour}_{shape}" for colour in COLOURS for shape in SHAPES]


def _inside(shape: str, random: np.random.Generator) -> Plane:
    """Mask of the shape at a random position, size (radius of 6.5 to 11 pixels) and angle."""
    radius = random.uniform(6.5, 11)
    centre = random.uniform(radius * 0.7, SIDE - radius * 0.7, size=2)
    angle = random.uniform(-0.4, 0.4)
    y, x = (np.mgrid[:SIDE, :SIDE] - centre[:, None, None]) / radius
    return SHAPES[shape](x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle))


def _background(random: np.random.Generator) -> np.ndarray:
    """A coarse random pattern of muted colours: float (SIDE, SIDE, 3)."""
    coarse = random.uniform(40, 215, size=(4, 4, 1)) + random.uniform(-35, 35, size=(4, 4, 3))
    return np.kron(coarse, np.ones((SIDE // 4, SIDE // 4, 1)))


class SyntheticImages:
    """`per_class` images of every class; label i % 100 for image i."""

    classes = CLASSES

    def __init__(self, split: str, per_class: int) -> None:
        self.stream = {"train": 0, "val": 1}[split]
        self.per_class = per_class

    @property
    def targets(self) -> list[int]:
        return [index % len(CLASSES) for index in range(len(self))]

    def __len__(self) -> int:
        return self.per_class * len(CLASSES)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        label = index % len(CLASSES)
        colour, shape = CLASSES[label].split("_")
        random = np.random.default_rng((self.stream, index))
        pixels = _background(random)
        obstacle = _inside(list(SHAPES)[random.integers(len(SHAPES))], random)
        pixels[obstacle] = random.uniform(40, 215)
        shade = np.array(COLOURS[colour]) * random.uniform(0.75, 1.05) + random.uniform(-14, 14, size=3)
        pixels[_inside(shape, random)] = shade
        pixels += random.normal(0, 10, size=pixels.shape)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), label
