"""The segmentation engine around a segmenter, and GrabCut: files in, a document, pictures and overlays out."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from common.errors import NightshiftError
from common.params import SegmentationParams
from tests import media
from tests.pictures import Composite, composite, iou
from worker.engine import Artifact, BlockDone, Event, Limits, Metrics, Note, Progress, Work
from worker.segmentation import grabcut, overlay, pipeline, rle
from worker.segmentation.grabcut import GrabCut, GrabCutEngine
from worker.segmentation.pipeline import SegmentationEngine
from worker.segmentation.regions import regions
from worker.segmentation.segmenter import Found

RECORD = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}
COCO_OWN = {"id", "image_id", "category_id", "iscrowd"}


def work_on(folder: Path, params: Mapping[str, Any], *paths: Path, **members: Any) -> Work:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return Work("job_1", SegmentationParams.model_validate(params), media.sources(*paths), scratch, **members)


def run(work: Work, engine: SegmentationEngine | None = None) -> list[Event]:
    return list((engine or GrabCutEngine()).run(work))


def artifacts(events: list[Event]) -> dict[str, Artifact]:
    found = [event for event in events if isinstance(event, Artifact)]
    assert len({artifact.name for artifact in found}) == len({artifact.path for artifact in found}) == len(found)
    return {artifact.name: artifact for artifact in found}


def png(path: Path | io.BytesIO) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        values = np.asarray(image)
    assert set(np.unique(values)) <= {0, 255}
    return values == 255


@pytest.fixture(scope="module")
def scene() -> Composite:
    return composite(3, 360, 270)


@pytest.fixture
def image(tmp_path: Path, scene: Composite) -> Path:
    return scene.save(tmp_path / "photo.png")


# --- How good it is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["box", "point", "rough"])
def test_objects_are_found(tmp_path: Path, form: str) -> None:
    """Intersection over union with the known masks of composites."""
    scores = []
    for seed in range(5):
        made = composite(seed, 260, 200)
        prompt: dict[str, Any] = {"box": made.box}
        if form == "point":
            prompt = {"points": [made.inside], "labels": [1]}
        elif form == "rough":
            prompt = {"mask": rle.encode(np.roll(made.mask, (4, -3), (0, 1)))}
        events = run(work_on(tmp_path, {"prompts": [prompt]}, made.save(tmp_path / f"{seed}.png")))
        scores.append(iou(png(artifacts(events)["mask-1"].path), made.mask))
    assert np.mean(scores) >= 0.95, scores
    assert min(scores) >= 0.9, scores


def test_points_that_say_no_matter() -> None:
    """Of two things of one colour in a box, one is excluded by a point."""
    pixels = np.full((100, 160, 3), (40, 60, 40), np.uint8)
    pixels[30:70, 20:60] = pixels[30:70, 100:140] = (220, 180, 60)
    pixels = (pixels + np.random.default_rng(0).integers(0, 12, pixels.shape)).astype(np.uint8)
    box = {"box": [10, 20, 150, 80]}
    both, one = (cut(pixels, prompt) for prompt in (box, box | {"points": [[40, 50], [120, 50]], "labels": [1, 0]}))
    assert both[50, 40] and both[50, 120]
    assert one[50, 40] and not one[50, 120]
    assert not one[:, 90:].any(), "what does not hang together with the point goes"


def cut(pixels: np.ndarray, prompt: dict[str, Any]) -> np.ndarray:
    return first(pixels, prompt).mask


def first(pixels: np.ndarray, prompt: dict[str, Any]) -> Found:
    from collections import Counter

    from worker.media.images import Picture

    params = SegmentationParams.model_validate({"prompts": [prompt]})
    events = GrabCut().prompted(Picture(pixels, "png"), params.of_image(0), Counter(), lambda: None)
    (found,) = [event for event in events if isinstance(event, Found)]
    return found


def test_the_same_picture_gives_the_same_mask_whatever_was_before(scene: Composite) -> None:
    masks = []
    small = scene.pixels[::2, ::2]
    for before in (None, 100, 120):
        if before is not None:
            cut(small[:before], {"box": [20, 20, 150, 90]})
        masks.append(cut(small, {"box": [side / 2 for side in scene.box]}))
    assert (masks[0] == masks[1]).all() and (masks[0] == masks[2]).all()


@pytest.mark.parametrize(
    "prompt",
    [
        {"box": [0, 0, 64, 48]},
        {"box": [10, 10, 11, 11]},
        {"box": [63, 47, 64, 48]},
        {"points": [[0, 0]], "labels": [1]},
        {"points": [[63.9, 47.9], [0, 0]], "labels": [1, 0]},
        {"points": [[5, 5], [5, 5]], "labels": [1, 0]},
        {"box": [10, 10, 30, 30], "points": [[60, 40]], "labels": [1]},
        {"mask": {"size": [48, 64], "counts": [0, 48 * 64]}},
        {"mask": {"size": [48, 64], "counts": [100, 1, 48 * 64 - 101]}},
    ],
)
@pytest.mark.parametrize("content", ["flat", "noise"])
def test_prompts_at_the_edges_of_sense_give_a_mask(prompt: dict[str, Any], content: str) -> None:
    pixels = np.full((48, 64, 3), 90, np.uint8)
    if content == "noise":
        pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    found = first(pixels, prompt)
    assert (found.mask.shape, found.mask.dtype) == ((48, 64), bool)
    assert found.stability_score is None or 0 <= found.stability_score <= 1


def test_stability_tells_a_clear_case_from_an_unclear_one(scene: Composite) -> None:
    clear = first(scene.pixels, {"box": scene.box})
    x0, y0, x1, y1 = scene.box
    unclear = first(scene.pixels, {"box": [x0, y0, (x0 + x1) / 2, y1]})
    assert clear.stability_score is not None and unclear.stability_score is not None
    assert clear.stability_score > 0.999 > unclear.stability_score, "half an object ends where the box does"
    assert clear.predicted_iou is None, "nothing here estimates it"
    assert first(scene.pixels, {"mask": rle.encode(scene.mask)}).stability_score is None


def test_regions_cover_the_picture_once(scene: Composite) -> None:
    bgr = np.ascontiguousarray(scene.pixels[..., ::-1])
    found = regions(bgr, 300, lambda: None)
    assert (np.sum([region.mask for region in found], axis=0) == 1).all()
    assert all(np.count_nonzero(region.mask) >= 300 for region in found)
    assert all(region.mask[region.point[1], region.point[0]] for region in found)
    assert all(0 < region.stability <= 1 for region in found)
    assert max(iou(region.mask, scene.mask) for region in found) > 0.95
    (flat,) = regions(np.full((40, 50, 3), 77, np.uint8), 10, lambda: None)
    assert flat.mask.all() and flat.stability == 1


# --- What comes out ---------------------------------------------------------------------------------------------------


def test_one_image_with_prompts(tmp_path: Path, image: Path, scene: Composite) -> None:
    x, y = scene.inside
    params = {"prompts": [{"box": scene.box, "name": "thing"}, {"points": [[x, y]], "labels": [1]}]}
    events = run(work_on(tmp_path, params, image))
    found = artifacts(events)
    assert set(found) == {"thing", "mask-2", "overlay", "masks"}
    document = json.loads(found["masks"].path.read_text())
    (entry,) = document["images"]
    assert (entry["file_name"], entry["width"], entry["height"]) == ("photo.png", 360, 270)
    assert [category["name"] for category in document["categories"]] == ["thing", "mask-2"]
    for record, name in zip(document["annotations"], ("thing", "mask-2"), strict=True):
        assert set(record) == RECORD | COCO_OWN
        mask = png(found[name].path)
        assert iou(mask, scene.mask) > 0.95
        assert (coco.decode(record["segmentation"]).astype(bool) == mask).all(), "the PNG is the run lengths exactly"
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        assert record["bbox"] == [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
        assert record["area"] == np.count_nonzero(mask)
        assert record["crop_box"] == [0, 0, 360, 270]
        assert record["predicted_iou"] is None
        assert 0.9 < record["stability_score"] <= 1
        meta = dict(found[name].meta)
        assert meta.pop("annotation") == record["id"] and meta.pop("image") == 0
        assert meta == {key: record[key] for key in RECORD - {"segmentation"}}
    assert [record["point_coords"] for record in document["annotations"]] == [[], [[x, y]]]
    with Image.open(found["overlay"].path) as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (360, 270))
    assert {artifact.role for artifact in found.values()} == {"mask", "overlay", "masks"}
    (metrics,) = [event.values for event in events if isinstance(event, Metrics)]
    assert (metrics["images"], metrics["masks"], metrics["cuts"]) == (1, 2, 2)
    (block,) = [event for event in events if isinstance(event, BlockDone)]
    assert (block.index, block.total) == (0, 1)


def test_pycocotools_reads_the_document(tmp_path: Path, image: Path, scene: Composite) -> None:
    other = composite(5, 200, 160).save(tmp_path / "other.png")
    found = artifacts(run(work_on(tmp_path, {"mode": "automatic"}, image, other)))
    read = COCO(str(found["masks"].path))
    first, second = sorted(read.getImgIds())
    assert [read.imgs[i]["file_name"] for i in (first, second)] == ["photo.png", "other.png"]
    masks = [read.annToMask(annotation) for annotation in read.loadAnns(read.getAnnIds(imgIds=first))]
    assert {mask.shape for mask in masks} == {(270, 360)}
    assert max(iou(mask.astype(bool), scene.mask) for mask in masks) > 0.95
    assert (np.sum(masks, axis=0) == 1).all(), "these regions cover the picture"
    for annotation in read.loadAnns(read.getAnnIds(imgIds=second)):
        assert annotation["bbox"] == coco.toBbox(annotation["segmentation"]).tolist()
        assert annotation["area"] == int(coco.area(annotation["segmentation"]))
    assert read.cats[1]["name"] == "region"


def test_automatic_masks_are_pictures_in_one_archive(tmp_path: Path, image: Path) -> None:
    found = artifacts(run(work_on(tmp_path, {"mode": "automatic"}, image)))
    assert set(found) == {"pictures", "overlay", "masks"}
    document = json.loads(found["masks"].path.read_text())
    with zipfile.ZipFile(found["pictures"].path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{record['id']:06d}.png" for record in document["annotations"]]
        for record in document["annotations"]:
            assert record["point_coords"] and 0 < record["stability_score"] <= 1
            mask = png(io.BytesIO(archive.read(f"{record['id']:06d}.png")))
            assert (coco.decode(record["segmentation"]).astype(bool) == mask).all()
            x, y = record["point_coords"][0]
            assert mask[int(y), int(x)]


def test_small_regions_go_where_they_are_not_wanted(tmp_path: Path, image: Path) -> None:
    few = {"mode": "automatic", "automatic": {"min_mask_region_area": 8000}}
    for params, least in (({"mode": "automatic"}, 0), (few, 8000)):
        found = artifacts(run(work_on(tmp_path, params, image)))
        areas = [record["area"] for record in json.loads(found["masks"].path.read_text())["annotations"]]
        assert areas and min(areas) >= least
    assert len(areas) < found["overlay"].meta["masks"] + 1


def test_coordinates_are_those_of_the_original(tmp_path: Path) -> None:
    """Of a picture larger than what GrabCut looks at, turned by a camera: as a viewer shows it."""
    small = composite(4, 400, 300)
    pixels, known = (a.repeat(3, 0).repeat(3, 1) for a in (small.pixels, small.mask))
    box = [3 * side for side in small.box]
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, 1)))
    stored.save(tmp_path / "phone.jpg", exif=exif, quality=90)
    events = run(work_on(tmp_path, {"prompts": [{"box": box}]}, tmp_path / "phone.jpg"))
    mask = png(artifacts(events)["mask-1"].path)
    assert mask.shape == (900, 1200)
    assert iou(mask, known) > 0.95
    assert any(isinstance(event, Note) and "orientation" in event.message for event in events)


def test_the_overlay_shows_masks_in_colours_that_differ(tmp_path: Path, image: Path, scene: Composite) -> None:
    x, y = scene.outside
    params = {"prompts": [{"box": scene.box}, {"points": [[x, y]], "labels": [1]}]}
    found = artifacts(run(work_on(tmp_path, params, image)))
    with Image.open(found["overlay"].path) as drawn:
        shown = np.asarray(drawn.convert("RGB")).astype(int)
    changes = []
    for name in ("mask-1", "mask-2"):
        mask = png(found[name].path)
        changes.append((shown[mask] - scene.pixels[mask]).mean(axis=0))
        assert np.abs(changes[-1]).max() > 15
    assert np.abs(changes[0] - changes[1]).max() > 40
    palette = np.array(overlay.colours(40))
    apart = np.abs(palette[:, None] - palette[None]).max(axis=-1)[~np.eye(40, dtype=bool)]
    assert apart.min() >= 15 and len({tuple(colour) for colour in palette}) == 40


def test_nothing_found_is_said(tmp_path: Path, image: Path) -> None:
    class Blind(GrabCut):
        def automatic(self, *_: Any) -> Iterator[Found | float]:
            yield 1.0

        def prompted(self, picture: Any, *_: Any) -> Iterator[Found | float]:
            yield Found(np.zeros((picture.height, picture.width), bool), 0.1, None, prompt=0)

    for params in ({"mode": "automatic"}, {"prompts": [{"box": [1, 1, 9, 9]}]}):
        events = run(work_on(tmp_path, params, image), SegmentationEngine(Blind()))
        (note,) = [event for event in events if isinstance(event, Note)]
        assert (note.level, note.code) == ("warning", "no_mask")
        document = json.loads(artifacts(events)["masks"].path.read_text())
        assert [record["area"] for record in document["annotations"]] == ([] if "mode" in params else [0])


def test_masks_without_number_are_bounded(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MOST_AUTOMATIC", 2)
    events = run(work_on(tmp_path, {"mode": "automatic"}, image))
    (note,) = [event for event in events if isinstance(event, Note)]
    assert note.code == "masks_dropped"
    areas = [r["area"] for r in json.loads(artifacts(events)["masks"].path.read_text())["annotations"]]
    assert len(areas) == 2 and areas[0] >= areas[1]


# --- Lists of images --------------------------------------------------------------------------------------------------


class Kept:
    """Blocks of an earlier attempt."""

    def __init__(self, blocks: Mapping[int, Mapping[str, Path]]) -> None:
        self._blocks = blocks

    @property
    def finished(self) -> frozenset[int]:
        return frozenset(self._blocks)

    def fetch(self, index: int) -> Mapping[str, Path]:
        return self._blocks[index]


@pytest.fixture
def several(tmp_path: Path) -> list[Path]:
    return [composite(seed, 160 + 20 * seed, 120).save(tmp_path / f"image {seed}.png") for seed in range(4)]


def contents(events: list[Event]) -> dict[str, bytes]:
    return {name: artifact.path.read_bytes() for name, artifact in artifacts(events).items()}


def test_a_list_goes_on_where_it_stopped(tmp_path: Path, several: list[Path]) -> None:
    params = {"prompts": [{"box": [30, 20, 130, 100]}, {"points": [[80, 60]], "labels": [1], "image": 2, "name": "b"}]}
    undisturbed = run(work_on(tmp_path, params, *several))
    whole = contents(undisturbed)
    assert set(whole) == {
        "0000-mask-1", "0001-mask-1", "0002-mask-1", "0002-b", "0003-mask-1",
        "0000-overlay", "0001-overlay", "0002-overlay", "0003-overlay", "masks",
    }  # fmt: skip
    blocks = [event for event in undisturbed if isinstance(event, BlockDone)]
    assert [(block.index, block.total) for block in blocks] == [(i, 4) for i in range(4)]
    kept = {}
    for block in blocks[:2]:
        folder = tmp_path / f"kept-{block.index}"
        folder.mkdir()
        kept[block.index] = {name: path.rename(folder / path.name) for name, path in block.files.items()}
    (tmp_path / "image 0.png").write_bytes(b"no longer needed")
    later = replace(work_on(tmp_path, params, *several), blocks=Kept(kept))
    later = replace(later, sources=(replace(later.sources[0], sha256=media_digest(whole)), *later.sources[1:]))
    resumed = run(later)
    assert [event.index for event in resumed if isinstance(event, BlockDone)] == [2, 3]
    assert contents(resumed) == whole
    (metrics,) = [event.values for event in resumed if isinstance(event, Metrics)]
    assert (metrics["images"], metrics["images_resumed"], metrics["cuts"]) == (4, 2, 3)


def media_digest(whole: Mapping[str, bytes]) -> str:
    """What the first run said of its first image."""
    digest: str = json.loads(whole["masks"])["images"][0]["sha256"]
    return digest


def test_progress_counts_images(tmp_path: Path, several: list[Path]) -> None:
    events = run(work_on(tmp_path, {"mode": "automatic"}, *several))
    told = [event for event in events if isinstance(event, Progress) and event.phase == "segment"]
    assert {(event.unit, event.total, event.blocks) for event in told} == {("images", 4, 4)}
    done = [event.done for event in told]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 4
    assert [event.block for event in told][-1] == 4


def test_a_stored_block_that_is_broken_is_said(tmp_path: Path, several: list[Path]) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for files in ({"records": broken, "overlay": broken}, {"overlay": broken}):
        with pytest.raises(NightshiftError) as caught:
            run(replace(work_on(tmp_path, {"mode": "automatic"}, *several), blocks=Kept({1: files})))
        assert caught.value.code == "storage_failed"


def test_a_bad_image_in_a_list_is_pointed_to(tmp_path: Path, several: list[Path]) -> None:
    several[2].write_bytes(several[2].read_bytes()[:900])
    events: list[Event] = []
    with pytest.raises(NightshiftError) as caught:
        events.extend(GrabCutEngine().run(work_on(tmp_path, {"mode": "automatic"}, *several)))
    assert (caught.value.code, caught.value.pointer) == ("corrupt_media", "/inputs/2")


def test_pixels_are_limited(tmp_path: Path, image: Path) -> None:
    with pytest.raises(NightshiftError) as caught:
        run(work_on(tmp_path, {"mode": "automatic"}, image, limits=Limits(pixels=360 * 270 - 1)))
    assert (caught.value.code, caught.value.pointer) == ("too_many_pixels", "/input")


# --- What only the size of the image tells ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "where"),
    [
        ({"points": [[1, 1], [360, 1]], "labels": [1, 1]}, "/points/1"),
        ({"points": [[1, 270]], "labels": [1]}, "/points/0"),
        ({"box": [1, 1, 360.5, 30]}, "/box"),
        ({"box": [1, 1, 30, 271]}, "/box"),
        ({"box": [5, 5, 5.5, 30]}, "/box"),
        ({"mask": {"size": [360, 270], "counts": [0, 360 * 270]}}, "/mask/size"),
    ],
)
def test_a_prompt_that_does_not_fit_the_image(tmp_path: Path, image: Path, prompt: dict[str, Any], where: str) -> None:
    good = {"box": [0, 0, 360, 270]}
    with pytest.raises(NightshiftError) as caught:
        run(work_on(tmp_path, {"prompts": [good, prompt]}, image))
    assert (caught.value.code, caught.value.pointer) == ("invalid_prompt", f"/params/prompts/1{where}")
    assert caught.value.retryable is False
    if where != "/box" or prompt["box"][2] > 10:
        assert "photo.png has 360 x 270" in caught.value.detail


def test_a_cancel_is_seen_within_a_picture(tmp_path: Path, image: Path) -> None:
    class Stop(Exception):
        pass

    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 6:
            raise Stop

    with pytest.raises(Stop):
        run(work_on(tmp_path, {"prompts": [{"box": [10, 10, 100, 100]}]}, image, check=check))
    assert not list((tmp_path / "scratch" / "result").iterdir())


def test_versions_tell_engines_apart() -> None:
    import cv2

    engine = GrabCutEngine()
    assert (engine.name, engine.version) == ("grabcut", f"grabcut-opencv-{cv2.__version__}-1+images-1")
    assert engine.memory_bytes() == 0
    assert grabcut.WORK_SIDE == 512


def test_run_lengths_are_measured_without_decoding() -> None:
    mask = np.zeros((30, 40), bool)
    mask[3:9, 5:17] = True
    assert rle.measures(rle.encode(mask)) == (72, [5, 3, 12, 6])
    assert (rle.decode(rle.encode(mask)) == mask).all()
    assert rle.measures(rle.encode(np.zeros((5, 6), bool))) == (0, [0, 0, 0, 0])
    big = rle.resized(mask, 90, 120)
    assert (rle.resized(big, 30, 40) == mask).all()
