"""Jobs for SAM-Audio on the real stack: the API, PostgreSQL, Celery on Redis, two workers and the storage.

The checkpoint is generated: as the published ones in every name, and so small that a CPU hears ten minutes in seconds.
Its codec works at 3.2 kHz, with 10 latent frames a second.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("transformers")

from nightshift.client import Client, Job
from nightshift.errors import JobEnded
from tests import media
from tests.command import processes_of
from tests.house import QUICK, wait_for
from tests.sam_audio import tiny_config
from tests.servers.hub import Hub, hub
from tests.servers.redis import PrivateRedis
from tests.stack import Stack
from worker.separation.sam_audio.generated import write_checkpoint

__all__ = ["hub"]

RATE = 8000
SECONDS = 600
SAMPLES = SECONDS * RATE + 137
# From here on both channels are the same, a little before the third block begins to listen.
MONO_FROM = 233
ENCODED_STEREO, ENCODED = 245, SECONDS + 0.1

PROMPTS = [
    {"description": "man speaking", "name": "voice", "spans": [["+", 30.0, 95.5], ["-", 400.0, 460.0]]},
    "dog barking",
    {"description": "rain on a roof", "name": "rain", "spans": [["+", 118.0, 130.0], ["+", 590.0, 700.0]]},
]


def configuration() -> dict[str, Any]:
    config = tiny_config(dim=32, n_heads=1, n_layers=1, context_dim=32)
    config["audio_codec"].update(
        sample_rate=3200, encoder_dim=2, latent_dim=8, encoder_rates=[40, 2, 2, 2], decoder_rates=[2, 2, 2, 40]
    )
    return config


@pytest.fixture
def stack(
    tmp_path: Path, postgres_url: str, private_redis: PrivateRedis, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> Stack:
    """Base is whole, small has other tensors than its config.json says, large lies on a hub that refuses it."""
    models = tmp_path / "models"
    write_checkpoint(models / "sam-audio-base", configuration(), seed=3)
    write_checkpoint(models / "sam-audio-small", configuration(), seed=3)
    wider = (models / "sam-audio-small" / "config.json").read_text().replace('"dim": 32', '"dim": 64')
    (models / "sam-audio-small" / "config.json").write_text(wider.replace('"context_dim": 32', '"context_dim": 64'))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return Stack(
        tmp_path,
        # Where every core computes, heartbeats may be late.
        **QUICK | {"lease_seconds": 8.0},
        database_url=postgres_url,
        broker_url=private_redis.url,
        broker_prefix="sam",
        models_dir=models,
        models_on_cpu=True,
        # So that what a killed worker's successor makes can be held to 1e-4 on any machine.
        sam_audio_dtype="float32",
        hf_token="stranger",
    )


@pytest.fixture
def episode(tmp_path: Path) -> Path:
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (2, SAMPLES)).astype(np.float32)
    samples[1, MONO_FROM * RATE :] = samples[0, MONO_FROM * RATE :]
    return media.write(tmp_path / "episode.wav", samples, RATE, "float")


def encoded_seconds(resumed: int) -> float:
    """Of single channels, by an attempt that goes on after so many blocks: from five seconds before what is missing."""
    start = max(0, 120 * resumed - 5)
    return max(0, ENCODED_STEREO - start) + ENCODED - start


def stems(job: Job, folder: Path) -> dict[str, np.ndarray]:
    job.download(folder)
    found = {}
    for output in job.outputs:
        if output["role"] == "stem":
            samples, rate = soundfile.read(folder / output["filename"], dtype="float32", always_2d=True)
            assert (rate, samples.shape) == (RATE, (SAMPLES, 2)), output["name"]
            found[output["name"]] = samples
    return found


def submit(client: Client, upload: str, prompts: list[Any], engine: str = "sam-audio-base") -> Job:
    return client.separate(
        upload, prompts, engine=engine, outputs=["target"], quality="draft", seed=5, format="wav", cache=False
    )


def kill_in_mid_file(stack: Stack, job: Job) -> None:
    """The worker that has the job: its main process, and the child that computes."""

    def blocks() -> int:
        return (job.refresh().progress or {}).get("block") or 0

    wait_for(lambda: blocks() >= 2 or job.ended, 300, "no block was finished")
    assert not job.ended, job.error
    worker = next(line["worker"] for line in log_of(job) if line.get("state") == "running")
    victims = processes_of(NIGHTSHIFT_HOME=stack.home, NIGHTSHIFT_WORKER_NAME=worker)
    assert len(victims) >= 2
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.kill()


def log_of(job: Job) -> list[dict[str, Any]]:
    return [event["data"] for event in job.events()]


def refused(job: Job) -> dict[str, Any]:
    with pytest.raises(JobEnded):
        job.wait(200)
    assert job.state == "failed" and job.error is not None
    return job.error


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_minutes_of_stereo_for_three_prompts_survive_a_kill(stack: Stack, episode: Path, tmp_path: Path) -> None:
    token = stack.once("nightshift", "key", "create", "--local", "radio").strip()
    with stack.running(*(stack.process(*m) for m in (("api",), ("worker.scheduler",), ("worker", "--cpu", "2")))):
        wait_for(stack.ready, 200)
        with Client(stack.url, token) as client:
            upload = client.upload(episode)
            undisturbed, disturbed = (submit(client, upload, PROMPTS) for _ in range(2))
            kill_in_mid_file(stack, disturbed)
            undisturbed.wait(400)
            disturbed.wait(400)
            one, two = stems(undisturbed, tmp_path / "one"), stems(disturbed, tmp_path / "two")
            assert one.keys() == two.keys() == {"voice", "dog-barking", "rain"}
            for name, stem in one.items():
                size = np.sqrt(np.square(stem).mean())
                assert size > 1e-3
                assert np.abs(two[name] - stem).max() < 1e-4 * size, name
                assert all(np.abs(stem - other).max() > size / 10 for n, other in one.items() if n != name)
            it_was_encoded_once(undisturbed, disturbed)
            assert [line["message"] for line in log_of(undisturbed) if line.get("code") == "span_clamped"] == [
                "The span of 'rain' from 590 to 700 s counts as ending with the recording, at 600.017 s."
            ]
            what_cannot_be_is_refused(client, upload)


def it_was_encoded_once(undisturbed: Job, disturbed: Job) -> None:
    whole, resumed = undisturbed.body["metrics"], disturbed.body["metrics"]
    assert (whole["blocks"], whole["blocks_resumed"], whole["samples"]) == (5, 0, SAMPLES)
    assert whole["encoded_seconds"] == encoded_seconds(0) == pytest.approx(ENCODED_STEREO + ENCODED)
    # Two blocks of two channels, three of one; two windows in each, and eight evaluations, for three prompts.
    assert whole["channels_computed"] == 7
    assert whole["windows_evaluated"] == 3 * 8 * 7 * 2
    finished = resumed["blocks_resumed"]
    assert disturbed.body["attempt"] == 2 and 1 <= finished < 5
    # The worker that goes on may just have heard the seconds before for the other job, and still have their latents.
    at_most = encoded_seconds(finished)
    assert at_most - 2 * 5 - 1e-3 <= resumed["encoded_seconds"] <= at_most + 1e-3


def what_cannot_be_is_refused(client: Client, upload: str) -> None:
    late = refused(submit(client, upload, ["dog", {"description": "cat", "spans": [["+", 1, 2], ["-", 601, 602]]}]))
    assert (late["code"], late["pointer"]) == ("span_outside", "/params/prompts/1/spans/1")
    other = refused(submit(client, upload, ["dog"], "sam-audio-small"))
    assert other["code"] == "weights_invalid" and "instead of" in other["message"]
    gated = refused(submit(client, upload, ["dog"], "sam-audio-large"))
    assert gated["code"] == "weights_refused"
    assert "https://huggingface.co/facebook/sam-audio-large" in gated["hint"] and "stranger" not in str(gated)
