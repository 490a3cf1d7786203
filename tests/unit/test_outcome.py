"""What an exception means for a job."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CATALOGUE, NightshiftError
from common.states import Reason
from worker.outcome import (
    Cancel,
    Cancelled,
    Failed,
    LeaseGone,
    Lost,
    Retry,
    Yielded,
    YieldNow,
    backoff,
    of_exception,
)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Cancel(), Cancelled()), (Lost(), LeaseGone()), (YieldNow(Reason.DRAINED), Yielded(Reason.DRAINED))],
)
def test_orders(error: Exception, outcome: object) -> None:
    assert of_exception(error) == outcome


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_a_coded_error_is_tried_again_exactly_where_that_can_help(code: str) -> None:
    error = NightshiftError(code, "It broke.", hint="Mend it.")
    outcome = of_exception(error)
    assert isinstance(outcome, Retry if CATALOGUE[code].retryable else Failed)
    assert outcome.error == {
        "code": code, "message": "It broke.", "hint": "Mend it.", "retryable": CATALOGUE[code].retryable
    }  # fmt: skip


def test_an_unknown_error_is_tried_again_and_keeps_secrets() -> None:
    outcome = of_exception(RuntimeError("postgresql://me:hunter2@db/x ns_0123456789abcdef whsec_0123456789abcdef"))
    assert isinstance(outcome, Retry)
    for secret in ("hunter2", "0123456789abcdef"):
        assert secret not in str(outcome.error)


@given(failures=st.integers(0, 50), base=st.floats(0.01, 600), seed=st.integers())
def test_backoff_doubles_within_bounds(failures: int, base: float, seed: int) -> None:
    whole = min(3600.0, base * 2**failures)
    assert whole / 2 <= backoff(failures, base, Random(seed)) <= whole
