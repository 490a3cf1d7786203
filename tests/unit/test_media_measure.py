from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.media.measure import si_sdr

RNG = np.random.default_rng(0)
SPEECH = RNG.standard_normal((2, 20_000))
NOISE = RNG.standard_normal((2, 20_000))


@settings(max_examples=20)
@given(st.floats(-20, 40), st.floats(0.01, 100))
def test_is_the_ratio_of_independent_parts_at_any_scale(db: float, scale: float) -> None:
    estimate = scale * (SPEECH + NOISE * 10 ** (-db / 20))
    assert si_sdr(SPEECH, estimate) == pytest.approx(db, abs=1.0)
    assert si_sdr(SPEECH, estimate) == pytest.approx(si_sdr(SPEECH, -3 * estimate), abs=1e-6)


def test_by_hand() -> None:
    """s = (1, -1, 0, 0), e = s + (0, 0, 0.5, -0.5): |s|^2 = 2, |s - e|^2 = 0.5, 6.02 dB."""
    reference = np.array([1.0, -1.0, 0.0, 0.0])
    assert si_sdr(reference, np.array([1.0, -1.0, 0.5, -0.5])) == pytest.approx(10 * math.log10(4))


def test_the_ends_of_the_scale() -> None:
    reference = np.array([1.0, -1.0, 0.0, 0.0])
    assert si_sdr(reference, 0.5 * reference) == math.inf
    assert si_sdr(reference, np.zeros(4)) == -math.inf
    with pytest.raises(ValueError, match="silent"):
        si_sdr(np.ones(4), reference)
    with pytest.raises(ValueError, match="shapes differ"):
        si_sdr(reference, np.ones(5))
