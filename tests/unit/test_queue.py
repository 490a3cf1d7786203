"""The doorbell's names, its message, and how it bears a broker that is away."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import fakeredis
import pytest
import redis
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import LogCapture

from common import queue
from common.engines import Lane
from common.errors import NightshiftError
from common.jobs.queueing import Bell
from common.queue import (
    CeleryRinger,
    SilentRinger,
    make_celery,
    message,
    open_ringer,
    queue_name,
    queue_names,
)
from common.settings import Settings


def a_bell(job_id: str = "job_1", *, lane: str = "gpu", interactive: bool = False, batch: str | None = None) -> Bell:
    return Bell(job_id, lane, interactive, "separation", "sam-audio-large", batch)


def test_a_worker_looks_into_all_interactive_queues_before_any_batch_queue() -> None:
    assert queue_names("night", ("gpu", "cpu")) == [
        "night.gpu.interactive",
        "night.cpu.interactive",
        "night.gpu.batch",
        "night.cpu.batch",
    ]


@given(st.sampled_from(Lane), st.booleans())
def test_every_bell_goes_into_a_queue_that_a_worker_of_its_lane_looks_into(lane: Lane, interactive: bool) -> None:
    sent = message(a_bell(lane=lane, interactive=interactive), "night")
    assert sent["queue"] in queue_names("night", (lane,))
    assert sent["queue"] == queue_name("night", lane, interactive=interactive)


def test_a_message_carries_the_id_alone_and_shows_kind_engine_and_batch() -> None:
    sent = message(a_bell("job_7", batch="batch_3"), "night")
    assert sent["args"] == ("job_7",)
    assert "kwargs" not in sent
    assert sent["argsrepr"] == "('job_7',)"
    assert sent["kwargsrepr"] == "{'kind': 'separation', 'engine': 'sam-audio-large', 'batch': 'batch_3'}"


def test_each_ring_has_a_task_id_of_its_own_that_begins_with_the_jobs() -> None:
    ids = {message(a_bell("job_7"), "night")["task_id"] for _ in range(50)}
    assert len(ids) == 50
    assert all(task_id.startswith("job_7.") for task_id in ids)


def test_without_a_broker_the_ringer_is_silent_and_celery_is_refused() -> None:
    ringer = open_ringer(Settings(broker_url=None))
    assert isinstance(ringer, SilentRinger)
    ringer.ring([a_bell()])
    with pytest.raises(NightshiftError) as refused:
        make_celery(Settings(broker_url=None))
    assert "NIGHTSHIFT_BROKER_URL" in refused.value.hint


@pytest.fixture
def fake_redis() -> Iterator[tuple[str, redis.Redis]]:
    """A Redis in this process behind a real socket."""
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"redis://127.0.0.1:{server.server_address[1]}/0"
    with redis.Redis.from_url(url) as client:
        yield url, client
    server.shutdown()
    server.server_close()


def test_a_bell_lies_in_its_queue_under_the_prefix(fake_redis: tuple[str, redis.Redis]) -> None:
    url, client = fake_redis
    ringer = open_ringer(Settings(broker_url=url, broker_prefix="night"))
    ringer.ring([a_bell("job_a"), a_bell("job_b", lane="cpu", interactive=True)])
    (batch,) = client.lrange("night:night.gpu.batch", 0, -1)
    (interactive,) = client.lrange("night:night.cpu.interactive", 0, -1)
    assert json.loads(batch)["headers"]["task"] == "nightshift.run"
    assert "job_b" in json.loads(interactive)["headers"]["argsrepr"]
    assert all(key.startswith(b"night:") for key in client.scan_iter())


class FlakyCelery:
    """Stands for Celery's `send_task`: raises while `down`."""

    def __init__(self) -> None:
        self.down = True
        self.tried: list[str] = []

    def send_task(self, name: str, *, args: tuple[str], **_options: object) -> None:
        self.tried.append(args[0])
        if self.down:
            raise ConnectionError("refused")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_in_an_outage_one_bell_tries_and_the_others_are_dropped_until_the_pause_is_over() -> None:
    celery, clock = FlakyCelery(), Clock()
    ringer = CeleryRinger(celery, "night", quiet_seconds=5, clock=clock)  # type: ignore[arg-type]
    ringer.ring([a_bell("job_1"), a_bell("job_2")])
    clock.now = 4.9
    ringer.ring([a_bell("job_3")])
    assert celery.tried == ["job_1"]
    clock.now = 5.0
    ringer.ring([a_bell("job_4"), a_bell("job_5")])
    assert celery.tried == ["job_1", "job_4"]
    celery.down = False
    clock.now = 10.0
    ringer.ring([a_bell("job_6"), a_bell("job_7")])
    assert celery.tried == ["job_1", "job_4", "job_6", "job_7"]


def test_an_outage_is_logged_once_and_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = LogCapture()
    monkeypatch.setattr(
        queue, "_log", structlog.wrap_logger(None, processors=[heard], wrapper_class=structlog.BoundLogger)
    )
    celery, clock = FlakyCelery(), Clock()
    ringer = CeleryRinger(celery, "night", quiet_seconds=1, clock=clock)  # type: ignore[arg-type]
    for clock.now in (0.0, 1.0, 2.0, 3.0):
        celery.down = clock.now < 3
        ringer.ring([a_bell()])
    outage, end = heard.entries
    assert (outage["log_level"], outage["error"]) == ("warning", "ConnectionError: refused")
    assert "the broker does not answer" in outage["event"]
    assert (end["event"], end["dropped_bells"]) == ("the broker answers again", 3)


def test_ringing_neither_raises_nor_hangs_where_nobody_listens_or_nobody_answers() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        # Accepts by the kernel alone, and says nothing ever.
        for url in (f"redis://127.0.0.1:{mute.getsockname()[1]}/0", "redis://127.0.0.1:1/0"):
            began = time.monotonic()
            open_ringer(Settings(broker_url=url)).ring([a_bell(), a_bell()])
            # Generous: without the bounds of the ringer Celery tries for ever.
            assert time.monotonic() - began < 30


def test_the_settings_that_carry_the_design() -> None:
    conf = make_celery(Settings(broker_url="redis://127.0.0.1:1/0")).conf
    assert (conf.task_acks_late, conf.task_ignore_result, conf.result_backend) == (False, True, None)
    assert (conf.worker_pool, conf.worker_concurrency, conf.worker_pool_start_method) == ("prefork", 1, "spawn")
    assert (conf.worker_prefetch_multiplier, conf.worker_disable_prefetch) == (1, True)
    assert (conf.worker_send_task_events, conf.task_send_sent_event) == (True, True)
    assert conf.accept_content == ["json"]
    options = conf.broker_transport_options
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (10, 5)
    assert (options["health_check_interval"], options["socket_keepalive"]) == (5, True)


def test_the_worker_side_imports_no_model_library() -> None:
    """A child must be up within seconds, and the main process must never load CUDA."""
    code = (
        "import sys, worker.celery_app, worker.tasks, worker.launcher\n"
        "heavy = {'torch', 'torchaudio', 'transformers', 'flask'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {"NIGHTSHIFT_BROKER_URL": "redis://127.0.0.1:1/0", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
