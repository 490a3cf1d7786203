"""Jobs that have been computed already, with a real runner: they take over the result and compute nothing."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from common.db import keys
from common.db.keys import Scope
from common.db.tables import sweeps
from common.engines import REGISTRY
from common.jobs import finish, sweep
from common.jobs.job import Job
from common.states import Reason, State
from common.storage.store import Stat
from tests import media
from tests.house import House
from tests.pictures import composite
from tests.servers.receiver import Answer, Receiver
from worker.media.espeak import available
from worker.outcome import Stop
from worker.runner import Runner
from worker.scheduler import Scheduler
from worker.watch import Watch


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.write(tmp_path_factory.mktemp("media") / "episode.wav", media.signal(8000, 1, 3.0, "noise"), 8000)


def done(house: House, runner: Runner, engine: str = "fast", **members: Any) -> Job:
    """A job, run to its result."""
    job = house.submit(engine, **members)
    assert runner.run(job.id)
    ended = house.job(job.id)
    assert ended.state is State.SUCCEEDED, ended.error
    return ended


def blocks_computed(runner: Runner) -> int:
    """By the engine `fast`, since it was loaded."""
    return len(runner.card.acquire(REGISTRY["fast"]).separator.computed)  # type: ignore[attr-defined]


def origin(job: Job) -> str | None:
    assert job.result is not None
    return (job.result["cached"] or {}).get("job")


def files(house: House, job: Job) -> dict[str, bytes]:
    """The outputs by their names, each from the job's own folder."""
    found = {}
    assert job.result is not None
    for output in job.result["outputs"]:
        assert output["key"] == f"jobs/{job.id}/{job.result_attempt}/{output['filename']}"
        with house.store.open(output["key"]) as stream:
            found[output["name"]] = stream.read()
    return found


def test_the_same_again_is_taken_from_the_job_that_computed_it(house: House, runner: Runner, episode: Path) -> None:
    first = done(house, runner, input={"upload": house.upload(episode)})
    computed = blocks_computed(runner)
    second = done(house, runner, input={"upload": house.upload(episode)}, batch="another", metadata={"n": "2"})
    assert blocks_computed(runner) == computed > 0
    assert first.result is not None and second.result is not None and first.finished_at is not None
    assert (origin(first), first.reason) == (None, Reason.DONE)
    assert (origin(second), second.reason) == (first.id, Reason.CACHED)
    assert second.result["cached"]["finished_at"] == first.finished_at.isoformat()
    assert files(house, second) == files(house, first)
    assert [{**output, "key": ""} for output in second.result["outputs"]] == [
        {**output, "key": ""} for output in first.result["outputs"]
    ]
    assert (second.result["engine"], second.result["inputs"]) == (first.result["engine"], first.result["inputs"])
    assert set(second.result["metrics"]) == {"audio_seconds", "cached", "seconds"}
    assert (second.length, second.work_seconds) == (first.length, None)
    assert first.work_seconds is not None
    told = [entry for entry in house.log(second.id) if entry.get("code") == "cached"]
    assert len(told) == 1 and first.id in told[0]["message"]


def test_each_result_lives_as_long_as_its_own_job(sqlite_house: House, sqlite_runner: Runner, episode: Path) -> None:
    house, runner = sqlite_house, sqlite_runner
    first, second = (done(house, runner, input={"upload": house.upload(episode)}) for _ in range(2))
    before = files(house, second)
    with house.database.write() as tx:
        assert sweep.remove(tx, first.id)
    Scheduler(house.settings, house.database, house.store, house.ringer).sweep()
    assert not house.files(f"jobs/{first.id}/")
    assert files(house, second) == before
    third = done(house, runner, input={"upload": house.upload(episode)})
    assert origin(third) == first.id, "who computed it, though it was copied from another"
    assert files(house, third) == before


def test_only_the_same_is_taken(
    sqlite_house: House, sqlite_runner: Runner, receiver: Receiver, episode: Path, tmp_path: Path
) -> None:
    house, runner = sqlite_house, sqlite_runner
    runner.settings = house.settings.model_copy(update={"allow_private_hosts": (receiver.host,)})
    upload = house.upload(episode)
    first = done(house, runner, input={"upload": upload})
    assert origin(done(house, runner, input={"upload": upload}, params={"prompts": ["voice"]})) is None
    assert origin(done(house, runner, "rnnoise", input={"upload": upload})) is None
    other = media.write(tmp_path / "episode.wav", media.signal(8000, 1, 3.5, "noise"), 8000)
    assert origin(done(house, runner, input={"upload": house.upload(other)})) is None
    renamed = tmp_path / "renamed.wav"
    renamed.write_bytes(episode.read_bytes())
    assert origin(done(house, runner, input={"upload": house.upload(renamed)})) == first.id
    receiver.serve("/night.wav", Answer(body=episode.read_bytes()))
    assert origin(done(house, runner, input={"url": receiver.url("/night.wav")})) == first.id


def test_who_wants_it_anew_gets_it_anew_and_so_do_those_after(
    sqlite_house: House, sqlite_runner: Runner, episode: Path
) -> None:
    house, runner = sqlite_house, sqlite_runner
    upload = house.upload(episode)
    done(house, runner, input={"upload": upload})
    anew = done(house, runner, input={"upload": upload}, cache=False)
    assert origin(anew) is None
    assert origin(done(house, runner, input={"upload": upload})) == anew.id


def test_what_other_keys_have_computed_is_theirs(house: House, runner: Runner, episode: Path) -> None:
    done(house, runner, input={"upload": house.upload(episode)})
    with house.database.write() as tx:
        house.key, _ = keys.create(tx, "another", list(Scope))
    mine = done(house, runner, input={"upload": house.upload(episode)})
    assert origin(mine) is None
    assert origin(done(house, runner, input={"upload": house.upload(episode)})) == mine.id


def _lose(house: House, key: str) -> None:
    house.store.delete(key)


def _cut_off(house: House, key: str) -> None:
    house.store.put(key, io.BytesIO(b"less"), "audio/flac")


@pytest.mark.parametrize("harm", [_lose, _cut_off])
def test_a_result_that_is_not_whole_any_more_is_computed_anew(
    sqlite_house: House, sqlite_runner: Runner, episode: Path, harm: Callable[[House, str], None]
) -> None:
    house, runner = sqlite_house, sqlite_runner
    upload = house.upload(episode)
    first = done(house, runner, input={"upload": upload})
    whole = files(house, first)
    assert first.result is not None
    harm(house, first.result["outputs"][1]["key"])
    second = done(house, runner, input={"upload": upload})
    assert origin(second) is None
    assert files(house, second) == whole
    assert any(entry.get("code") == "cache_incomplete" for entry in house.log(second.id))
    assert origin(done(house, runner, input={"upload": upload})) == second.id


class Copying:
    """Stands before a store's `copy`; meddle: called with the number of each copy, from 1, before it is made."""

    def __init__(self, runner: Runner, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[int, str], None]) -> None:
        self.made, self._copy, self._meddle = 0, runner.store.copy, meddle
        monkeypatch.setattr(runner.store, "copy", self)

    def __call__(self, source: str, target: str) -> Stat:
        self.made += 1
        self._meddle(self.made, source)
        return self._copy(source, target)


def test_a_file_that_goes_while_others_are_copied(
    sqlite_house: House, sqlite_runner: Runner, episode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, runner = sqlite_house, sqlite_runner
    upload = house.upload(episode)
    whole = files(house, done(house, runner, input={"upload": upload}))
    Copying(runner, monkeypatch, lambda number, source: house.store.delete(source) if number == 2 else None)
    second = done(house, runner, input={"upload": upload})
    assert origin(second) is None
    assert files(house, second) == whole
    assert len(house.files(f"jobs/{second.id}/1/")) == len(whole)


def test_a_cancel_is_heard_between_two_files(
    sqlite_house: House, sqlite_runner: Runner, episode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, runner = sqlite_house, sqlite_runner
    upload = house.upload(episode)
    done(house, runner, input={"upload": upload})
    job = house.submit(input={"upload": upload})
    heard, halt = threading.Event(), Watch._halt

    def told(watch: Watch, stop: Stop) -> object:
        found = halt(watch, stop)
        heard.set()
        return found

    def cancel(number: int, source: str) -> None:
        with house.database.write() as tx:
            finish.cancel(tx, job.id)
        assert heard.wait(30)

    monkeypatch.setattr(Watch, "_halt", told)
    copying = Copying(runner, monkeypatch, cancel)
    assert runner.run(job.id)
    assert (house.job(job.id).state, copying.made) == (State.CANCELLED, 1)
    with house.database.read() as tx:
        assert f"jobs/{job.id}/1/" in set(tx.execute(select(sweeps.c.prefix)).scalars()), "what was copied goes"


def test_spoken_text(sqlite_house: House, sqlite_runner: Runner) -> None:
    if not available():
        pytest.skip("espeakng-loader is not installed")
    house, runner = sqlite_house, sqlite_runner
    asked = {"kind": "tts", "params": {"text": "Good evening."}}
    first, second = (done(house, runner, "espeak", **asked) for _ in range(2))
    assert origin(second) == first.id
    assert files(house, second) == files(house, first)
    slower = {"kind": "tts", "params": {"text": "Good evening.", "speed": 0.8}}
    assert origin(done(house, runner, "espeak", **slower)) is None


def test_masks_of_an_image_under_the_same_name(sqlite_house: House, sqlite_runner: Runner, tmp_path: Path) -> None:
    house, runner = sqlite_house, sqlite_runner
    scene = composite(1, 120, 100)
    photo = scene.save(tmp_path / "photo.png")
    asked = {"kind": "segmentation", "params": {"prompts": [{"box": scene.box}]}}
    first, second = (done(house, runner, "grabcut", input={"upload": house.upload(photo)}, **asked) for _ in range(2))
    assert origin(second) == first.id
    assert files(house, second) == files(house, first)
    assert (second.length, second.work_seconds) == (1.0, None)
    other = done(house, runner, "grabcut", input={"upload": house.upload(photo.rename(tmp_path / "b.png"))}, **asked)
    assert origin(other) is None, "its document names the file"
