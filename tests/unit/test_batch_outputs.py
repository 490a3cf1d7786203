"""Where results are delivered: the address that is asked for, the buckets that may be, and keys that S3 takes."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.batches.outputs import check_bucket, paths, targets
from common.errors import NightshiftError
from common.jobs.batch import Batch
from common.jobs.job import Job
from common.naming import Template
from common.outbound.backoff import DELIVERY, REFUSED_DELIVERY, next_try
from common.params.batch import Deliver
from common.settings import Settings

NAMES = ("speech.flac", "captions.vtt", "waveform.json", "waveform.png")


class _Batch:
    """As much of a batch and of its job as names need."""

    def __init__(self, title: str, deliver: dict[str, Any] | None) -> None:
        self.name, self.deliver = "nightly", deliver
        self.item, self.batch_item, self.id = {"title": title, "suffix": "1f0c22ab"}, 7, "job_1"
        roles = {"waveform.json": "peaks", "waveform.png": "waveform"}
        self.result = {
            "outputs": [{"name": name, "filename": name, "role": roles.get(name, "stem")} for name in NAMES]
        }  # fmt: skip


def _targets(title: str, deliver: dict[str, Any] | None) -> list[str | None]:
    made = cast(Any, _Batch(title, deliver))
    return targets(cast(Batch, made), Template.parse("{title}.{stem}.{ext}"), cast(Job, made))


def test_pictures_stay_unless_they_are_asked_for() -> None:
    told = {"to": "s3://mine/a/", "overwrite": False, "pictures": False}
    plain = ["s3://mine/a/Pilot-1f0c22ab.speech.flac", "s3://mine/a/Pilot-1f0c22ab.captions.vtt"]
    assert _targets("Pilot", told) == [*plain, None, None]
    assert None not in _targets("Pilot", {**told, "pictures": True})
    assert _targets("Pilot", None) == [None] * 4


@given(title=st.text(max_size=400), prefix=st.text(st.sampled_from("aü播/"), max_size=310))
def test_every_address_that_is_accepted_makes_keys_that_s3_takes(title: str, prefix: str) -> None:
    try:
        deliver = Deliver(to=f"s3://mine/{prefix}")
    except ValidationError:
        parts = prefix.removesuffix("/").split("/")
        assert "" in parts or len(prefix.removesuffix("/").encode()) > 300
        return
    assert Deliver(to=deliver.to) == deliver
    made = cast(Any, _Batch(title, None))
    names = paths(cast(Batch, made), Template.parse("{title}.{stem}.{ext}"), cast(Job, made))
    found = _targets(title, {**deliver.model_dump(), "pictures": True})
    assert found == [f"s3://mine/{deliver.to.removeprefix('s3://mine/')}{name}" for name in names]
    for target in found:
        key = str(target).removeprefix("s3://mine/")
        assert len(key.encode()) <= 1024
        assert {"", ".", ".."}.isdisjoint(key.split("/"))


@pytest.mark.parametrize("to", ["mine/a/", "s3://", "s3:///a/", "s3://mine/a//b", "s3://mine/./a", "s3://mine/a\n/"])
def test_addresses_that_are_none(to: str) -> None:
    with pytest.raises(ValidationError):
        Deliver(to=to)


def test_only_buckets_that_are_named_and_never_the_services_own() -> None:
    settings = Settings(s3_bucket="own", s3_output_buckets=("mine", "own"))
    check_bucket(settings, "mine")
    for bucket in ("own", "other"):
        with pytest.raises(NightshiftError, match="bucket_forbidden") as refused:
            check_bucket(settings, bucket, "/deliver/to")
        assert refused.value.pointer == "/deliver/to"


def test_a_delivery_is_tried_for_a_day_and_a_refused_one_for_minutes() -> None:
    def waits(schedule: tuple[float, ...]) -> list[float | None]:
        return [next_try(tries, jitter=lambda: 0.0, schedule=schedule) for tries in range(1, len(schedule) + 1)]

    assert waits(REFUSED_DELIVERY) == [10.0, 60.0, 300.0, None]
    day = waits(DELIVERY)
    assert day[-1] is None
    assert 20 * 3600 < sum(wait or 0.0 for wait in day) < 26 * 3600
