"""Spans beyond the recording's end are refused, those that reach beyond it are cut off, and neither in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import NightshiftError
from common.params import SeparationParams
from tests import media
from worker.engine import Artifact, Event, Limits, Note, Work
from worker.separation import spans
from worker.separation.fixed_rate import FixedRate
from worker.separation.pipeline import SeparationEngine


def params(*prompts: list[Any]) -> SeparationParams:
    """Of each prompt its spans."""
    given = [{"description": f"sound {i}", "spans": list(one)} for i, one in enumerate(prompts)]
    return SeparationParams.model_validate({"prompts": given})


def run(path: Path, wanted: SeparationParams, separator: FixedRate | None = None) -> list[Event]:
    work = Work("job", wanted, media.sources(path), path.parent / "scratch", block_seconds=1.0)
    return list(SeparationEngine(separator or FixedRate()).run(work))


def notes(events: list[Event]) -> list[tuple[str, str]]:
    return [
        (event.level, event.message) for event in events if isinstance(event, Note) and event.code == "span_clamped"
    ]


second = st.floats(0, 20).map(lambda value: round(value, 3))


@given(st.lists(st.lists(st.tuples(st.sampled_from("+-"), second, second), max_size=3), min_size=1, max_size=3), second)
def test_a_span_is_kept_cut_off_or_refused_by_where_it_lies(given: list[Any], seconds: float) -> None:
    asked = [[span for span in one if span[1] < span[2]] for one in given]
    late = [(i, j) for i, one in enumerate(asked) for j, span in enumerate(one) if span[1] >= seconds]
    if late:
        with pytest.raises(NightshiftError) as refused:
            spans.clamped(params(*asked), seconds)
        assert refused.value.pointer == f"/params/prompts/{late[0][0]}/spans/{late[0][1]}"
    else:
        assert len(spans.clamped(params(*asked), seconds)) == sum(span[2] > seconds for one in asked for span in one)


def test_a_span_beyond_the_end_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    source = media.make(tmp_path / "in.wav", 8000, 1, 3.0)
    separator = FixedRate()
    with pytest.raises(NightshiftError) as refused:
        run(source, params([["+", 0.0, 1.0]], [["+", 1.0, 2.0], ["-", 3.0, 4.0]]), separator)
    error = refused.value
    assert (error.code, error.pointer) == ("span_outside", "/params/prompts/1/spans/1")
    assert error.extra == {"duration_seconds": 3.0} and "3.000 s" in error.detail and not error.retryable
    assert separator.computed == []


def test_a_span_that_reaches_beyond_the_end_is_noted(tmp_path: Path) -> None:
    source = media.make(tmp_path / "in.wav", 8000, 1, 3.0)
    events = run(source, params([["+", 0.0, 3.0]], [["+", 2.5, 4.0]]))
    assert notes(events) == [
        ("info", "The span of 'sound-1' from 2.5 to 4 s counts as ending with the recording, at 3.000 s.")
    ]
    assert sum(isinstance(event, Artifact) and event.role == "stem" for event in events) == 4


@pytest.mark.parametrize("suffix", [".mp3", ".opus", ".m4a"])
def test_lengths_are_counted_where_a_span_depends_on_them(tmp_path: Path, suffix: str) -> None:
    """Whatever a compressed file says of itself."""
    source = media.make(tmp_path / f"in{suffix}", 48_000, 2, 2.0)
    seconds = spans.length(source, Limits(), lambda: None)
    assert seconds == pytest.approx(2.0, abs=0.06)
    assert notes(run(source, params([["+", 0.5, seconds]]))) == []
    with pytest.raises(NightshiftError, match="span_outside"):
        run(source, params([["+", seconds, seconds + 1]]))


def test_a_truncated_file_is_not_refused_for_what_it_lost(tmp_path: Path) -> None:
    """It was accepted as long as it says it is; what is there is separated, and what is not is told."""
    source = media.truncate(media.make(tmp_path / "in.wav", 8000, 1, 4.0), 0.5)
    events = run(source, params([["+", 0.5, 1.0], ["-", 3.0, 3.5]]))
    ((level, message),) = notes(events)
    assert level == "warning" and "from 3 to 3.5 s reaches into what is missing" in message


def test_counting_stops_when_told(tmp_path: Path) -> None:
    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        spans.length(media.make(tmp_path / "in.wav", 8000, 1, 3.0), Limits(), check)
