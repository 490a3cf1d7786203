"""How many bytes planned results will have."""

from __future__ import annotations

from typing import Any

import pytest

from common.batches.expected import Expected, Form, Measured, Results, form, measured
from common.forecast import Work
from common.jobs.speeds import Done
from common.params import parse_request

LANE = ("rnnoise", "cpu")


def asked(**params: Any) -> Any:
    body = {"input": {"url": "https://media.example/a.mp3"}, "params": {"prompts": ["speech"], **params}}
    return parse_request({"engine": "rnnoise", **body})


def nothing(*_: object) -> Measured | None:
    return None


@pytest.mark.parametrize(
    ("params", "bytes_per_second"),
    [
        ({}, 2 * 88_200),
        ({"outputs": ["target"]}, 88_200),
        ({"channels": "mono"}, 88_200),
        ({"output": {"format": "wav"}}, 2 * 176_400),
        ({"output": {"format": "mp3"}}, 2 * 24_000),
        ({"output": {"format": "opus", "bitrate_kbps": 64}, "channels": "mono"}, 2 * 8_000),
    ],
)
def test_a_rule_of_thumb_by_format_and_stems(params: dict[str, Any], bytes_per_second: int) -> None:
    wanted = Expected()
    wanted.add(asked(**params), 100.0)
    assert wanted.results(nothing, {}) == Results(100 * bytes_per_second, 0)


def test_what_finished_jobs_of_the_same_form_made_goes_before_the_rule() -> None:
    def done(size: int, length: float, **params: Any) -> Done:
        outputs = [{"bytes": size}, {"bytes": size}, {"name": "peaks"}]
        return Done(asked(**params).model_dump(mode="json"), {"outputs": outputs}, length)

    jobs = [done(1000, 10.0), done(3000, 10.0), done(9, 10.0, output={"format": "mp3"}), done(9, 10.0, channels="mono")]
    found = measured(jobs, Form("separation", "flac"))
    assert found == Measured(8000 / 40, 2)
    assert measured(jobs, Form("separation", "wav")) is None
    wanted = Expected()
    for _ in range(3):
        wanted.add(asked(), 10.0)
    assert wanted.results(lambda _, of: measured(jobs, of), {}) == Results(3 * 2 * 2000, 2)


def test_unknown_lengths_are_taken_from_the_known_ones_or_from_other_jobs() -> None:
    wanted = Expected()
    for seconds in (None, 0.0):
        wanted.add(asked(outputs=["target"]), seconds)
    assert wanted.work() == [Work(*LANE, 0, 0.0, 0.0, 2)]
    assert wanted.results(nothing, {}) == Results(None, 0)
    assert wanted.results(nothing, {LANE: 50.0}) == Results(2 * 50 * 88_200, 0)
    wanted.add(asked(outputs=["target"]), 10.0)
    wanted.add(asked(outputs=["target"]), 30.0)
    assert wanted.work() == [Work(*LANE, 2, 40.0, 30.0, 2)]
    assert wanted.results(nothing, {LANE: 50.0}) == Results((40 + 2 * 20) * 88_200, 0)


def test_of_pictures_and_texts_no_rule_tells() -> None:
    assert form({"kind": "transcription", "params": {}}) == (Form("transcription"), 1)
    body = {"kind": "transcription", "engine": "whisper", "input": {"url": "https://media.example/a.mp3"}}
    wanted = Expected()
    wanted.add(parse_request(body), 60.0)
    assert wanted.results(nothing, {}) == Results(None, 0)
    assert wanted.results(lambda *_: Measured(20.0, 7), {}) == Results(1200, 7)
    assert Expected().results(nothing, {}) == Results(0, 0)
