"""A picture of waveforms, one above the other on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.media.waveform import Peaks

WIDTH = 1600
_MARGIN = 32
_LABEL = 176
_ROW = 124
_GAP = 14
_AXIS = 44
_TOP = 28
# Drawn larger and scaled down: Pillow's lines have no smooth edges of their own.
_OVERSAMPLE = 2

_PAPER = (250, 250, 248)
_LANE = (241, 242, 240)
_INK = (38, 42, 48)
_FAINT = (128, 133, 140)
_GRID = (221, 223, 222)
_COLOURS = (
    (76, 86, 106),
    (0, 121, 140),
    (214, 102, 62),
    (120, 94, 168),
    (74, 139, 83),
    (190, 138, 32),
    (178, 70, 110),
)
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)


def draw_waveforms(rows: Sequence[tuple[str, Peaks]], path: Path, duration: float) -> None:
    """Writes a PNG: a labelled lane for each row, first on top, over `duration` seconds.

    All lanes share one vertical scale, so that their levels compare; within a lane the light shape spans lowest to
    highest sample of all channels, the dark one the RMS level.
    """
    scale = _OVERSAMPLE
    height = _TOP + len(rows) * (_ROW + _GAP) + _AXIS
    image = Image.new("RGB", (WIDTH * scale, height * scale), _PAPER)
    draw = ImageDraw.Draw(image)
    left, right = (_MARGIN + _LABEL) * scale, (WIDTH - _MARGIN) * scale
    top, bottom = _TOP * scale, (_TOP + len(rows) * (_ROW + _GAP) - _GAP) * scale
    loudest = max((_highest(peaks) for _, peaks in rows), default=0.0)
    gain = 0.94 / max(loudest, 1e-3)

    for i in range(len(rows)):
        y = (_TOP + i * (_ROW + _GAP)) * scale
        draw.rounded_rectangle((left, y, right, y + _ROW * scale), 6 * scale, fill=_LANE)
    _draw_axis(draw, left, right, top, bottom, duration)
    for i, (name, peaks) in enumerate(rows):
        y = (_TOP + i * (_ROW + _GAP)) * scale
        colour = _COLOURS[i % len(_COLOURS)]
        _draw_label(draw, name, peaks, y, colour)
        end = left + (right - left) * min(1.0, peaks.duration / duration if duration > 0 else 0.0)
        _draw_lane(draw, peaks, (left, round(end)), y, gain, colour)
    image.resize((WIDTH, height), Image.Resampling.LANCZOS).save(path, format="PNG", optimize=True)


def _highest(peaks: Peaks) -> float:
    if peaks.low.size == 0:
        return 0.0
    return float(max(peaks.high.max(), -peaks.low.min()))


def _draw_lane(
    draw: ImageDraw.ImageDraw, peaks: Peaks, span: tuple[int, int], y: int, gain: float, colour: tuple[int, int, int]
) -> None:
    half = _ROW * _OVERSAMPLE / 2
    middle = y + half
    columns = span[1] - span[0]
    draw.line((span[0], middle, span[1], middle), fill=_mixed(colour, 0.45), width=_OVERSAMPLE)
    if peaks.low.shape[1] == 0 or columns <= 0:
        return
    low, high, rms = (_columns(a, columns, f) for a, f in ((peaks.low, "min"), (peaks.high, "max"), (peaks.rms, "max")))
    light, reach = _mixed(colour, 0.42), half - _OVERSAMPLE
    for x in range(columns):
        up, down = min(1.0, high[x] * gain), max(-1.0, low[x] * gain)
        draw.line((span[0] + x, middle - up * reach, span[0] + x, middle - down * reach), fill=light)
        level = min(1.0, rms[x] * gain)
        upper, lower = min(level, max(up, 0.0)), max(-level, min(down, 0.0))
        draw.line((span[0] + x, middle - upper * reach, span[0] + x, middle - lower * reach), fill=colour)


def _columns(values: np.ndarray, columns: int, how: str) -> list[float]:
    """One value a column, over all channels: the extreme of the pixels that fall on it, else the nearest pixel's."""
    folded = values.min(axis=0) if how == "min" else values.max(axis=0)
    edges = np.arange(columns) * folded.size // columns
    reduce = np.minimum.reduceat if how == "min" else np.maximum.reduceat
    column_values: list[float] = reduce(folded, edges).tolist()
    return column_values


def _draw_label(draw: ImageDraw.ImageDraw, name: str, peaks: Peaks, y: int, colour: tuple[int, int, int]) -> None:
    scale = _OVERSAMPLE
    x, middle = _MARGIN * scale, y + _ROW * scale / 2
    draw.rounded_rectangle((x, middle - 26 * scale, x + 5 * scale, middle + 26 * scale), 2 * scale, fill=colour)
    font, small = _font(19), _font(13)
    text = name
    while len(text) > 4 and draw.textlength(text, font=font) > (_LABEL - 34) * scale:
        text = text[:-4] + "..."
    draw.text((x + 16 * scale, middle - 2 * scale), text, font=font, fill=_INK, anchor="ls")
    peak = _highest(peaks)
    level = f"peak {20 * np.log10(peak):.1f} dB" if peak > 0 else "silent"
    draw.text((x + 16 * scale, middle + 20 * scale), level, font=small, fill=_FAINT, anchor="ls")


def _draw_axis(draw: ImageDraw.ImageDraw, left: int, right: int, top: int, bottom: int, duration: float) -> None:
    if duration <= 0:
        return
    font = _font(14)
    step = next((s for s in _STEPS if duration / s <= 12), _STEPS[-1])
    for i in range(int(duration / step + 1e-9) + 1):
        x = left + (right - left) * i * step / duration
        draw.line((x, top, x, bottom + 6 * _OVERSAMPLE), fill=_GRID, width=_OVERSAMPLE)
        draw.text((x, bottom + 12 * _OVERSAMPLE), _clock(i * step, step, duration), font=font, fill=_FAINT, anchor="mt")


def _clock(seconds: float, step: float, duration: float) -> str:
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:04.1f}" if step < 1 else f"{int(rest):02d}"
    return f"{hours}:{minutes:02d}:{tail}" if duration >= 3600 else f"{minutes}:{tail}"


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    """The colour thinned with the lane's."""
    r, g, b = (round(c * share + p * (1 - share)) for c, p in zip(colour, _LANE, strict=True))
    return r, g, b


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _OVERSAMPLE)
