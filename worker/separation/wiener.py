"""A Wiener mask from an estimate: keeps of the mix what the estimate explains, with the mix's own phase."""

from __future__ import annotations

import numpy as np
import scipy.fft

FFT = 1024
HOP = 256

# Root-Hann both ways: the squared windows of four overlapping frames sum to 2 everywhere.
_WINDOW = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)).astype(np.float32)
_OVERLAP_GAIN = 2.0
_FRAMES_AT_ONCE = 512


def wiener(mix: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """The part of `mix` that `estimate` explains: ISTFT(M * X) with M = |Y|^2 / (|Y|^2 + |X - Y|^2).

    mix, estimate: float32 [n], one channel each. Gives float32 [n]. A mask of 1 gives the mix back. Where both are
    silent, so is the result. Memory beyond copies of the two is bounded, whatever n.
    """
    length = mix.shape[0]
    margin = FFT - HOP
    frames = -(-(length + margin) // HOP)
    padded = (frames - 1) * HOP + FFT
    x = np.zeros(padded, np.float32)
    y = np.zeros(padded, np.float32)
    x[margin : margin + length] = mix
    y[margin : margin + length] = estimate
    out = np.zeros(padded, np.float32)
    for first in range(0, frames, _FRAMES_AT_ONCE):
        some = min(_FRAMES_AT_ONCE, frames - first)
        begin = first * HOP
        end = begin + (some - 1) * HOP + FFT
        masked = _masked(_spectra(x[begin:end]), _spectra(y[begin:end]))
        pieces = scipy.fft.irfft(masked, n=FFT, axis=1)
        pieces *= _WINDOW / _OVERLAP_GAIN
        # Every fourth of a frame lands on a hop of its own: four strided additions do the overlap-add.
        for quarter in range(FFT // HOP):
            at = begin + quarter * HOP
            out[at : at + some * HOP].reshape(some, HOP)[:] += pieces[:, quarter * HOP : (quarter + 1) * HOP]
    return out[margin : margin + length]


def _spectra(samples: np.ndarray) -> np.ndarray:
    """complex64 [frames, FFT / 2 + 1]."""
    framed = np.lib.stride_tricks.sliding_window_view(samples, FFT)[::HOP]
    spectra: np.ndarray = scipy.fft.rfft(framed * _WINDOW, axis=1)
    return spectra


def _masked(mix: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    wanted = _power(estimate)
    whole = wanted + _power(mix - estimate)
    mask = np.divide(wanted, whole, out=np.zeros_like(wanted), where=whole > 0)
    masked: np.ndarray = mix * mask
    return masked


def _power(spectra: np.ndarray) -> np.ndarray:
    power: np.ndarray = np.square(spectra.real) + np.square(spectra.imag)
    return power
