"""Masks end to end on `nightshift up`: over HTTP, with the Python client and with the command; and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from nightshift import ApiError, Client, JobEnded
from nightshift.cli import exits
from tests.e2e.conftest import Up
from tests.pictures import Composite, composite, iou
from tests.servers.receiver import Answer

KIND = "segmentation"


@pytest.fixture(scope="module")
def scene() -> Composite:
    return composite(2, 300, 220)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory, scene: Composite) -> Path:
    """As a phone saves it: lying on its side, with a note of that."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.ascontiguousarray(np.rot90(scene.pixels, 1))).save(path, quality=92, exif=exif)
    return path


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with up.client() as made:
        yield made


def mask(path: Path | io.BytesIO) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L")) == 255


def test_a_photograph_and_a_box_over_http(up: Up, photo: Path, scene: Composite) -> None:
    """The three requests of README."""
    with httpx.Client(base_url=up.url, headers={"Authorization": f"Bearer {up.token}"}, timeout=60) as http:
        sent = http.post("/v1/uploads?filename=photo.jpg", content=photo.read_bytes(),
                         headers={"Content-Type": "image/jpeg"})  # fmt: skip
        assert sent.status_code == 201, sent.text
        body = {
            "kind": KIND,
            "input": {"upload": sent.json()["id"]},
            "params": {"prompts": [{"name": "thing", "box": [round(side) for side in scene.box]}]},
        }
        job = http.post("/v1/jobs", json=body, headers={"Prefer": "wait=50"})
        assert (job.status_code, job.json()["state"]) == (200, "succeeded"), job.text
        assert (job.json()["kind"], job.json()["engine"]) == (KIND, "grabcut")
        results = http.get(f"/v1/jobs/{job.json()['id']}/results").json()
    outputs = {output["name"]: output for output in results["outputs"]}
    assert set(outputs) == {"thing", "overlay", "masks"}
    got = {name: httpx.get(output["url"]) for name, output in outputs.items()}
    assert {name: answer.headers["Content-Type"] for name, answer in got.items()} == {
        "thing": "image/png", "overlay": "image/png", "masks": "application/json",
    }  # fmt: skip
    found = mask(io.BytesIO(got["thing"].content))
    assert iou(found, scene.mask) > 0.93, "in the picture as it is seen"
    (record,) = got["masks"].json()["annotations"]
    assert (coco.decode(record["segmentation"]).astype(bool) == found).all()
    assert outputs["thing"]["area"] == record["area"] == np.count_nonzero(found)
    assert outputs["thing"]["bbox"] == record["bbox"]
    assert results["metrics"]["masks"] == 1


def test_a_list_with_the_client(up: Up, client: Client, photo: Path, tmp_path: Path, scene: Composite) -> None:
    other = composite(5, 200, 160).save(tmp_path / "other.webp")
    up.receiver.serve("/third.png", Answer(body=composite(6, 160, 160).save(tmp_path / "third.png").read_bytes()))
    images = [photo, other, up.receiver.url("/third.png")]
    job = client.segment(images, automatic={"min_mask_region_area": 400}, metadata={"album": "one"}).wait(90)
    assert job.body["metadata"] == {"album": "one"}
    assert job.body["progress"]["blocks"] == 3
    paths = {path.name: path for path in job.download(tmp_path / "out")}
    assert set(paths) == {"masks.json"} | {
        f"000{i}-{name}" for i in range(3) for name in ("overlay.png", "pictures.zip")
    }
    read = COCO(str(paths["masks.json"]))
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == ["photo.jpg", "other.webp", "third.png"]
    best = max(iou(read.annToMask(a).astype(bool), scene.mask) for a in read.loadAnns(read.getAnnIds(imgIds=1)))
    assert best > 0.9
    assert min(annotation["area"] for annotation in read.loadAnns(read.getAnnIds(imgIds=1))) >= 400


def test_one_job_feeds_another(client: Client, photo: Path, scene: Composite, tmp_path: Path) -> None:
    """A mask as the picture of the next, submitted before the first is done."""
    first = client.segment(photo, [{"box": scene.box, "name": "thing"}])
    x, y = scene.inside
    second = client.segment([first, photo], [{"points": [[x, y]], "labels": [1], "image": 0}], output="thing")
    assert second.body["inputs"][0] == {"job": first.id, "output": "thing"}
    second.wait(90)
    paths = {path.name: path for path in second.download(tmp_path)}
    assert iou(mask(paths["0000-mask-1.png"]), scene.mask) > 0.9
    document = json.loads(paths["masks.json"].read_text())
    assert [image["file_name"] for image in document["images"]] == ["thing.png", "photo.jpg"]
    assert {annotation["image_id"] for annotation in document["annotations"]} == {1}


def test_the_command(up: Up, photo: Path, scene: Composite, tmp_path: Path) -> None:
    box = ",".join(f"{side:.0f}" for side in scene.box)
    done = up.shell("segment", photo, "--box", box, "--download", tmp_path / "out", "--json")
    body = done.json
    assert (body["state"], body["kind"]) == ("succeeded", KIND)
    assert iou(mask(tmp_path / "out" / "mask-1.png"), scene.mask) > 0.93
    assert {Path(path).name for path in body["files"]} == {"mask-1.png", "masks.json", "overlay.png"}
    (x, y), (ox, oy) = scene.inside, scene.outside
    job_id = up.command("segment", photo, "-p", f"{x},{y}", "--not", f"{ox},{oy}", "--wait").out.strip()
    params = up.command("job", job_id, "--json").json["params"]
    assert params["prompts"][0]["points"] == [[x, y], [ox, oy]]
    assert params["prompts"][0]["labels"] == [1, 0]
    assert "mask-1" in up.command("job", job_id).out
    assert "grabcut" in up.command("jobs", "--engine", "grabcut").out
    several = up.command("segment", photo, photo, "--auto", "--wait").out.strip()
    shown = up.command("job", several).out
    assert "automatic" in shown and "0001-overlay" in shown


@pytest.mark.parametrize(
    "options",
    [[], ["--auto", "--box", "1,2,3,4"], ["--box", "1,2,3"], ["--point", "one,two"],
     ["--box", "1,2,3,4", "--box", "5,6,7,8", "--point", "1,1"]],
)  # fmt: skip
def test_the_command_used_wrongly(up: Up, photo: Path, options: list[str]) -> None:
    done = up.command("segment", photo, *options, status=exits.USAGE)
    assert "Error" in done.err or "Usage" in done.err


def refusal(client: Client, source: object, **members: Any) -> dict[str, Any]:
    try:
        job = client.segment(source, **members)  # type: ignore[arg-type]
    except ApiError as error:
        return {"stage": "submit", **error.problem}
    with pytest.raises(JobEnded) as ended:
        job.wait(60)
    assert ended.value.state == "failed" and ended.value.error is not None
    return {"stage": "job", **ended.value.error}


BOX = {"box": [10, 10, 100, 100]}
WRONG: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("no prompt", {"prompts": []}, "submit", "invalid_request", "/params/prompts"),
    ("an empty prompt", {"prompts": [{}]}, "submit", "invalid_request", "/params/prompts/0"),
    ("an inverted box", {"prompts": [{"box": [9, 9, 3, 3]}]}, "submit", "invalid_request", "/params/prompts/0/box"),
    ("a label of 2", {"prompts": [{"points": [[1, 1]], "labels": [2]}]}, "submit", "invalid_request",
     "/params/prompts/0/labels/0"),
    ("too few labels", {"prompts": [BOX, {"points": [[1, 1], [2, 2]], "labels": [1]}]}, "submit", "invalid_request",
     "/params/prompts/1/labels"),
    ("several masks", {"prompts": [{**BOX, "multimask": True}]}, "submit", "engine_unsupported",
     "/params/prompts/0/multimask"),
    ("an unknown engine", {"prompts": [BOX], "engine": "sam"}, "submit", "unknown_engine", "/engine"),
    ("another kind's engine", {"prompts": [BOX], "engine": "rnnoise"}, "submit", "unknown_engine", "/engine"),
    ("an image that is not there", {"prompts": [{**BOX, "image": 1}]}, "submit", "invalid_request",
     "/params/prompts/0/image"),
    ("a point outside", {"prompts": [{"points": [[300, 5]], "labels": [1]}]}, "job", "invalid_prompt",
     "/params/prompts/0/points/0"),
    ("a box that reaches out", {"prompts": [BOX, {"box": [10, 10, 100, 221]}]}, "job", "invalid_prompt",
     "/params/prompts/1/box"),
    ("a mask of another size", {"prompts": [{"mask": {"size": [2, 2], "counts": [0, 4]}}]}, "job", "invalid_prompt",
     "/params/prompts/0/mask/size"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("members", "stage", "code", "pointer"), [case[1:] for case in WRONG], ids=[c[0] for c in WRONG]
)
def test_prompts_that_are_refused(
    client: Client, photo: Path, members: dict[str, Any], stage: str, code: str, pointer: str
) -> None:
    found = refusal(client, photo, **members)
    assert (found["stage"], found["code"], found["pointer"], found["retryable"]) == (stage, code, pointer, False), found


def test_a_number_that_is_none_is_no_json(up: Up, client: Client, photo: Path) -> None:
    upload = client.upload(photo)
    body = f'{{"kind":"{KIND}","input":{{"upload":"{upload}"}},"params":{{"prompts":[{{"box":[NaN,1,2,3]}}]}}}}'
    headers = {"Authorization": f"Bearer {up.token}", "Content-Type": "application/json"}
    answer = httpx.post(f"{up.url}/v1/jobs", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


def sound(path: Path) -> None:
    path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")


FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("words.png", lambda path: path.write_text("no picture " * 99), "unsupported_media"),
    ("sound.png", sound, "unsupported_media"),
    ("cut.jpg", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(50)), "corrupt_media"),
    ("dot.png", lambda path: Image.new("RGB", (1, 1)).save(path), "image_too_small"),
    ("float.tiff", lambda path: Image.fromarray(np.zeros((64, 64), np.float32)).save(path), "unsupported_media"),
]


@pytest.mark.parametrize(("name", "make", "code"), FILES, ids=[name for name, _, _ in FILES])
def test_files_that_are_refused(
    client: Client, tmp_path: Path, name: str, make: Callable[[Path], object], code: str
) -> None:
    make(tmp_path / name)
    found = refusal(client, tmp_path / name, automatic=True)
    assert (found["stage"], found["code"], found["pointer"]) == ("job", code, "/input"), found
    assert found["hint"]


def test_the_engines_say_what_they_need(client: Client) -> None:
    found = {engine["name"]: engine for engine in client.engines() if engine["kind"] == KIND}
    assert set(found) == {"grabcut", "sam-vit-b", "sam-vit-l", "sam-vit-h"}
    assert found["grabcut"]["ready"] and found["grabcut"]["default"]
    assert not found["sam-vit-b"]["ready"] and found["sam-vit-b"]["hint"]
