"""Jobs for masks from their submission to their results, through worker processes: a list that outlives its worker, and
Segment Anything with a tiny network."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from common import engines
from common.jobs.job import Job
from common.states import State
from tests.house import House, wait_for
from tests.pictures import composite, iou

COUNT = 8


def fetched(house: House, job: Job, name: str) -> bytes:
    assert job.result is not None
    (output,) = [entry for entry in job.result["outputs"] if entry["name"] == name]
    with house.store.open(output["key"]) as stream:
        return stream.read()


def files(house: House, job: Job) -> dict[str, bytes]:
    assert job.state is State.SUCCEEDED, job.error
    assert job.result is not None
    return {entry["name"]: fetched(house, job, entry["name"]) for entry in job.result["outputs"]}


def segment(house: House, uploads: list[str], params: dict[str, Any], engine: str = "grabcut") -> str:
    named = {"input": {"upload": uploads[0]}} if len(uploads) == 1 else {"inputs": [{"upload": u} for u in uploads]}
    return house.submit(engine, kind="segmentation", params=params, cache=False, **named).id


def test_a_list_outlives_its_worker(sqlite_house: House, tmp_path: Path) -> None:
    house = sqlite_house
    made = [composite(seed, 280, 210) for seed in range(COUNT)]
    uploads = [house.upload(one.save(tmp_path / f"{i}.png")) for i, one in enumerate(made)]
    params = {"prompts": [{"box": one.box, "image": i, "name": f"thing-{i}"} for i, one in enumerate(made)]}
    disturbed = segment(house, uploads, params)
    first = house.process("worker.poll", worker_name="one")
    with house.running(first):
        wait_for(lambda: house.job(disturbed).blocks_done >= 2, 60, "no image was kept")
        first.kill()
    assert house.job(disturbed).state is State.RUNNING
    kept = house.job(disturbed).blocks_done
    assert kept < COUNT, "it was over before the worker died"
    with house.running(house.process("worker.poll", worker_name="two"), house.process("worker.scheduler")):
        job = house.ended(disturbed, 120)
        again = house.ended(segment(house, uploads, params), 120)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2), job.error
    assert job.result is not None and again.result is not None
    metrics = job.result["metrics"]
    assert metrics["images_resumed"] >= kept
    assert metrics["images_resumed"] + metrics["masks"] == COUNT
    assert again.result["metrics"]["images_resumed"] == 0
    resumed, undisturbed = files(house, job), files(house, again)
    assert resumed == undisturbed
    assert len(resumed) == 2 * COUNT + 1
    document = json.loads(resumed["masks"])
    for i, (record, one) in enumerate(zip(document["annotations"], made, strict=True)):
        with Image.open(io.BytesIO(resumed[f"{i:04d}-thing-{i}"])) as picture:
            mask = np.asarray(picture) == 255
        assert (coco.decode(record["segmentation"]).astype(bool) == mask).all()
        assert iou(mask, one.mask) > 0.9


def test_a_bad_image_fails_the_job_for_good(sqlite_house: House, tmp_path: Path) -> None:
    house = sqlite_house
    good = house.upload(composite(0, 120, 100).save(tmp_path / "good.png"))
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:2000])
    bad = house.upload(tmp_path / "bad.png")
    job_id = segment(house, [good, bad], {"mode": "automatic"})
    outside = segment(house, [good], {"prompts": [{"points": [[119, 100]], "labels": [1]}]})
    with house.running(house.process("worker.poll")):
        job, other = house.ended(job_id), house.ended(outside)
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.error is not None and other.error is not None
    assert (job.error["code"], job.error["pointer"]) == ("corrupt_media", "/inputs/1")
    assert (other.error["code"], other.error["pointer"]) == ("invalid_prompt", "/params/prompts/0/points/0")
    assert "120 x 100" in other.error["message"]


@pytest.fixture
def installed(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    pytest.importorskip("torch")
    pytest.importorskip("segment_anything")
    from tests.sam import write_weights

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_weights(tmp_path / "models")
    made = House(
        tmp_path / "home",
        sqlite_url,
        models_dir=tmp_path / "models",
        extra_engines=("tests.sam:TINY",),
        worker_lanes=("cpu", "gpu"),
    )
    monkeypatch.setitem(engines.REGISTRY, "sam-tiny", engines.REGISTRY["sam-tiny"])
    return made


@pytest.mark.slow
def test_segment_anything_in_every_mode(installed: House, tmp_path: Path) -> None:
    house = installed
    scenes = [composite(seed, 200, 150) for seed in (1, 2)]
    uploads = [house.upload(scene.save(tmp_path / f"{i}.png")) for i, scene in enumerate(scenes)]
    box, point = {"box": scenes[0].box}, {"points": [scenes[0].inside], "labels": [1]}
    found = {"mode": "automatic", "automatic": {"points_per_side": 6, "pred_iou_thresh": 0.3,
             "stability_score_thresh": 0.2, "stability_score_offset": 0.3, "box_nms_thresh": 0.9}}  # fmt: skip
    asked = {
        "first": (uploads[:1], {"prompts": [box, {**point, "multimask": True}, {"mask": _rle(scenes[0].mask)}]}),
        "again": (uploads[:1], {"prompts": [box]}),
        "all": (uploads, found),
    }
    ids = {name: segment(house, images, params, "sam-tiny") for name, (images, params) in asked.items()}
    with house.running(house.process("worker.poll", models_on_cpu=True)):
        jobs = {name: house.ended(job_id, 120) for name, job_id in ids.items()}
    made = {name: files(house, job) for name, job in jobs.items()}
    metrics = {name: job.result["metrics"] for name, job in jobs.items() if job.result is not None}
    assert metrics["first"]["encoder_runs"] == 1
    assert metrics["first"]["masks"] == 5
    assert "encoder_runs" not in metrics["again"]
    assert metrics["again"]["embedding_cached"] == 1, "the second job on the image skips the encoder"
    assert (metrics["all"]["encoder_runs"], metrics["all"]["embedding_cached"]) == (1, 1)
    assert set(made["first"]) == {"mask-1", "mask-2-1", "mask-2-2", "mask-2-3", "mask-3", "masks", "overlay"}
    assert made["again"]["mask-1"] == made["first"]["mask-1"]
    for record in json.loads(made["first"]["masks"])["annotations"]:
        assert 0 < record["predicted_iou"] < 1.2
        assert record["stability_score"] is None or 0 <= record["stability_score"] <= 1
    assert set(made["all"]) == {"0000-pictures", "0000-overlay", "0001-pictures", "0001-overlay", "masks"}
    document = json.loads(made["all"]["masks"])
    assert {record["image_id"] for record in document["annotations"]} == {1, 2}


def _rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}
