"""Pictures for tests, with masks that are known: an object of one texture before a ground of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


@dataclass(frozen=True)
class Composite:
    """pixels: uint8 [height, width, 3].  mask: bool [height, width], the object.  box: [x0, y0, x1, y1] around it, with
    the slack that a hand leaves.  inside: a point [x, y] deep in the object; outside: one that is far from it."""

    pixels: np.ndarray
    mask: np.ndarray
    box: tuple[float, float, float, float]
    inside: tuple[float, float]
    outside: tuple[float, float]

    def save(self, path: Path) -> Path:
        Image.fromarray(self.pixels).save(path)
        return path


def composite(seed: int, width: int = 480, height: int = 360) -> Composite:
    """An ellipse, a many-pointed star or a blob, textured, lit from one side, with a soft edge and a sensor's noise, on
    a ground of two other textures."""
    random = np.random.default_rng(seed)
    hue = random.random()
    ground = _texture(random, width, height, hue, 0.35)
    other = _texture(random, width, height, hue + 0.12, 0.3)
    parts = _smooth(random, width, height, 40) > 0.5
    ground = np.where(parts[..., None], other, ground)
    thing = _texture(random, width, height, hue + 0.4 + 0.2 * random.random(), random.uniform(0.4, 0.7))
    shape = _shape(random, width, height)
    alpha = np.asarray(shape.filter(ImageFilter.GaussianBlur(0.8)), np.float64)[..., None] / 255
    mask = np.asarray(shape) > 127
    light = 0.8 + 0.4 * np.linspace(0, 1, width)[None, :, None]
    picture = (thing * light) * alpha + ground * (1 - alpha)
    picture += random.normal(0, 0.02, picture.shape)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    slack = random.uniform(2, 8, 4)
    box = (
        max(0.0, columns[0] - slack[0]),
        max(0.0, rows[0] - slack[1]),
        min(float(width), columns[-1] + 1 + slack[2]),
        min(float(height), rows[-1] + 1 + slack[3]),
    )
    return Composite(
        (np.clip(picture, 0, 1) * 255).round().astype(np.uint8), mask, box, _deepest(mask), _deepest(~mask)
    )


def _deepest(mask: np.ndarray) -> tuple[float, float]:
    """The middle of the largest circle in the mask, about."""
    import cv2

    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)


def _smooth(random: np.random.Generator, width: int, height: int, scale: float) -> np.ndarray:
    """Smooth noise, each value as often as any other, 0 to 1."""
    import cv2

    noise = cv2.GaussianBlur(random.random((height, width)), (0, 0), scale)
    ranks = np.empty(noise.size)
    ranks[noise.ravel().argsort()] = np.linspace(0, 1, noise.size)
    return ranks.reshape(noise.shape)


def _texture(random: np.random.Generator, width: int, height: int, hue: float, brightness: float) -> np.ndarray:
    """float [height, width, 3]: one hue, with grain in brightness and in hue."""
    import cv2

    grain = 0.5 * _smooth(random, width, height, 2) + 0.5 * _smooth(random, width, height, 12)
    hsv = np.stack(
        [
            ((hue + 0.08 * (_smooth(random, width, height, 8) - 0.5)) % 1) * 360,
            np.full((height, width), 0.65),
            brightness * (0.75 + 0.5 * grain),
        ],
        axis=-1,
    )
    made: np.ndarray = cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB).astype(np.float64)
    return made


def _shape(random: np.random.Generator, width: int, height: int) -> Image.Image:
    size = min(width, height)
    middle = np.array([width, height]) * random.uniform(0.4, 0.6, 2)
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    kind = random.integers(3)
    radius = size * random.uniform(0.18, 0.3) * np.ones_like(angles)
    if kind == 1:
        radius *= 1 + 0.25 * np.cos(angles * random.integers(3, 7))
    elif kind == 2:
        for order in range(2, 6):
            radius *= 1 + 0.12 * np.cos(order * angles + random.uniform(0, 2 * np.pi))
    stretch = random.uniform(0.8, 1.25)
    points = np.stack([radius * np.cos(angles) * stretch, radius * np.sin(angles) / stretch], axis=1) + middle
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon([tuple(point) for point in points.tolist()], fill=255)
    return image


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0
