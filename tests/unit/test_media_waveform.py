from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import media
from worker.media.picture import WIDTH, draw_waveforms
from worker.media.waveform import Peaks, PeaksAccumulator


def peaks_of(samples: np.ndarray, cuts: list[int], known: bool, pixels: int = 50, rate: int = 1000) -> Peaks:
    accumulator = PeaksAccumulator(rate, samples.shape[0], samples.shape[1] if known else None, pixels)
    for part in np.split(samples, cuts, axis=1):
        accumulator.add(part)
    return accumulator.result()


@settings(max_examples=80)
@given(
    st.integers(0, 5_000),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.integers(0, 5_000), max_size=5),
    st.integers(1, 60),
)
def test_pixels_are_the_extremes_of_their_samples(
    count: int, channels: int, known: bool, cuts: list[int], pixels: int
) -> None:
    samples = np.random.default_rng(count).uniform(-1, 1, (channels, count)).astype(np.float32)
    peaks = peaks_of(samples, sorted(min(c, count) for c in cuts), known, pixels)
    length, size = peaks.low.shape[1], peaks.samples_per_pixel
    assert (length - 1) * size < count <= length * size or count == length == 0
    assert length <= (pixels if known else 2 * pixels)
    if not known and count > 2 * pixels:
        assert length >= pixels
    for i in range(length):
        part = samples[:, i * size : (i + 1) * size]
        np.testing.assert_array_equal(peaks.low[:, i], part.min(axis=1))
        np.testing.assert_array_equal(peaks.high[:, i], part.max(axis=1))
        np.testing.assert_allclose(peaks.rms[:, i], np.sqrt(np.mean(part.astype(float) ** 2, axis=1)), rtol=1e-5)


def test_hours_take_no_more_room_than_minutes() -> None:
    accumulator = PeaksAccumulator(8_000, 2, pixels=2000)
    block = media.signal(8_000, 2, 60, "noise")
    for _ in range(12 * 60):
        accumulator.add(block)
    peaks = accumulator.result()
    assert 2000 <= peaks.low.shape[1] <= 4000
    assert peaks.duration == 12 * 3600
    np.testing.assert_allclose(peaks.rms[:, :-1], np.sqrt(1 / 12), rtol=0.02)


def test_the_document(tmp_path: Path) -> None:
    samples = np.array([[0.5, -1.0, 0.25, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 2.0]], np.float32)
    peaks_of(samples, [], known=True, pixels=3).save(tmp_path / "peaks.json")
    document = json.loads((tmp_path / "peaks.json").read_text())
    assert document == {
        "version": 2,
        "channels": 2,
        "sample_rate": 1000,
        "samples_per_pixel": 2,
        "bits": 8,
        "length": 3,
        "samples": 5,
        "data": [-127, 64, 0, 0, 0, 32, 0, 0, 127, 127, 127, 127],
        "rms": [100, 0, 22, 0, 127, 127],
    }


def test_the_picture_shows_sound_where_it_is(tmp_path: Path) -> None:
    rate = 8_000
    samples = media.signal(rate, 2, 10, "noise")
    samples[:, : 5 * rate] = 0
    silent = np.zeros_like(samples)
    rows = [("speech", peaks_of(samples, [], True, 2000, rate)), ("residual", peaks_of(silent, [], True, 2000, rate))]
    draw_waveforms(rows, tmp_path / "w.png", 10.0)
    image = np.asarray(Image.open(tmp_path / "w.png").convert("RGB")).astype(int)
    assert image.shape[1] == WIDTH
    coloured = np.abs(image[:, 230:1560] - [241, 242, 240]).sum(axis=2) > 100
    first, second = coloured[40:140], coloured[178:280]
    half = first.shape[1] // 2
    assert first[:, half + 10 :].mean() > 0.5
    assert first[:, : half - 10].mean() < 0.05
    assert second.mean() < 0.05


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_picture_of_next_to_nothing(tmp_path: Path, count: int) -> None:
    peaks = peaks_of(np.zeros((1, count), np.float32), [], known=False)
    draw_waveforms(
        [("a stem with a name that is much too long for its place", peaks)], tmp_path / "w.png", count / 1000
    )
    assert Image.open(tmp_path / "w.png").size[0] == WIDTH
