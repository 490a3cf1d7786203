"""A picture to look at: the image with its masks in colours that differ, and the prompts."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.params import SegmentationPrompt
from worker.media.images import Picture
from worker.segmentation import rle
from worker.segmentation.segmenter import Check

LONGEST_SIDE = 1600
_MOST_NAMES = 24
_GOLDEN = 0.618033988749895
_LIGHTS = ((0.62, 0.95), (0.45, 0.85), (0.75, 0.75))
_INK, _PAPER = (20, 22, 26), (255, 255, 255)


def colours(count: int) -> list[tuple[int, int, int]]:
    """Colours of which neighbours differ most: hues a golden section of the circle apart, in three lightnesses."""
    made = []
    for i in range(count):
        light, saturation = _LIGHTS[(i // 8) % len(_LIGHTS)]
        red, green, blue = colorsys.hls_to_rgb((0.08 + i * _GOLDEN) % 1, light, saturation)
        made.append((round(255 * red), round(255 * green), round(255 * blue)))
    return made


def draw(
    picture: Picture,
    masks: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    prompts: Sequence[SegmentationPrompt],
    path: Path,
    check: Check,
) -> None:
    """Writes a PNG of at most `LONGEST_SIDE` pixels. masks: records, each with segmentation and area; the larger lie
    below. names: one for each, empty where it is not to be written."""
    scale = min(1.0, LONGEST_SIDE / max(picture.width, picture.height))
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    canvas = cv2.resize(picture.pixels, (width, height), interpolation=cv2.INTER_AREA)
    palette = colours(len(masks))
    outlines = []
    for i in sorted(range(len(masks)), key=lambda i: -masks[i]["area"]):
        check()
        mask = rle.resized(rle.decode(masks[i]["segmentation"]), height, width)
        if not mask.any():
            continue
        colour = np.array(palette[i], np.float32)
        canvas[mask] = np.rint(canvas[mask] * 0.5 + colour * 0.5).astype(np.uint8)
        lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        outlines.append((i, lines, _inside(mask)))
    for i, lines, _ in outlines:
        cv2.drawContours(canvas, lines, -1, _INK, 4, cv2.LINE_AA)
        cv2.drawContours(canvas, lines, -1, palette[i], 2, cv2.LINE_AA)
    image = Image.fromarray(canvas)
    pencil = ImageDraw.Draw(image)
    for prompt in prompts:
        _draw_prompt(pencil, prompt, scale)
    if len(names) <= _MOST_NAMES:
        for i, _, (x, y) in outlines:
            if names[i]:
                _write(pencil, names[i], x, y, width)
    image.save(path, format="PNG", compress_level=6)


def _inside(mask: np.ndarray) -> tuple[int, int]:
    """A point [x, y] deep in the mask."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def _draw_prompt(pencil: ImageDraw.ImageDraw, prompt: SegmentationPrompt, scale: float) -> None:
    if prompt.box is not None:
        corners = [round(value * scale) for value in prompt.box]
        pencil.rectangle(corners, outline=_INK, width=4)
        pencil.rectangle([corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1], outline=_PAPER, width=2)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        x, y = round(x * scale), round(y * scale)
        fill = (40, 170, 90) if label else (210, 50, 60)
        pencil.ellipse((x - 7, y - 7, x + 7, y + 7), fill=fill, outline=_PAPER, width=2)
        pencil.line((x - 4, y, x + 4, y), fill=_PAPER, width=2)
        if label:
            pencil.line((x, y - 4, x, y + 4), fill=_PAPER, width=2)


def _write(pencil: ImageDraw.ImageDraw, name: str, x: int, y: int, width: int) -> None:
    font = ImageFont.load_default(16)
    text = name if len(name) <= 28 else name[:27] + "…"
    half = pencil.textlength(text, font=font) / 2 + 6
    x = round(min(max(x, half), max(half, width - half)))
    pencil.rounded_rectangle((x - half, y + 10, x + half, y + 32), 5, fill=_INK)
    pencil.text((x, y + 21), text, font=font, fill=_PAPER, anchor="mm")
