"""The engine around a segmenter: images in, one document, pictures and overlays out.

Each image is a block of the job: its masks depend on the request, its own bytes and its place alone, so a job may stop
after any image and go on elsewhere. The masks of all but one image exist only as run lengths.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from PIL import Image

from common.errors import NightshiftError
from common.params import SegmentationParams
from common.storage.keys import download_name
from worker.engine import Artifact, BlockDone, Event, Metrics, Note, Progress, Work
from worker.media.images import Picture, read_image
from worker.media.overlap import ahead
from worker.segmentation import document, overlay, rle
from worker.segmentation.fitting import fit
from worker.segmentation.segmenter import Found, Segmenter, Tally

PIPELINE_VERSION = "1"
"""Part of every engine's version: to be raised when records or overlays are made in another way."""

MOST_AUTOMATIC = 1000
"""Masks kept of an image in the mode automatic, the largest."""

_AUTOMATIC = "region"


class SegmentationEngine:
    """A segmenter as an engine of the registry."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.name = segmenter.name
        self.version = f"{segmenter.version}+images-{PIPELINE_VERSION}"

    def run(self, work: Work) -> Generator[Event, None, None]:
        """Work.params are SegmentationParams. Raises what decoding and the segmenter raise, `invalid_prompt`, and
        `storage_failed` for an earlier image's file that is not what it should be."""
        yield from _Run(self, work).events()

    def memory_bytes(self) -> int:
        return self.segmenter.memory_bytes()

    def close(self) -> None:
        self.segmenter.close()


class _Run:
    """One job on its way through its images."""

    def __init__(self, engine: SegmentationEngine, work: Work) -> None:
        self._engine, self._work = engine, work
        self._params = cast(SegmentationParams, work.params)
        self._names = self._params.names()
        self._total = len(work.sources)
        self._blocks = work.scratch / "blocks"
        self._results = work.scratch / "result"
        for folder in (self._blocks, self._results):
            folder.mkdir(parents=True, exist_ok=True)
        self._tally: Tally = Counter()
        self._seconds = 0.0
        self._files: dict[int, Mapping[str, Path]] = {}

    def events(self) -> Iterator[Event]:
        work = self._work
        started = time.monotonic()
        finished = work.blocks.finished & set(range(self._total))
        yield self._progress(0)
        with closing(ahead(self._pictures(finished), depth=1)) as pictures:
            for index in range(self._total):
                work.check()
                if index in finished:
                    self._files[index] = work.blocks.fetch(index)
                    continue
                picture = next(pictures)
                yield from self._segment(index, picture)
        yield from self._finish()
        yield Metrics(
            {
                "images": self._total,
                "images_resumed": len(finished),
                "compute_seconds": round(self._seconds, 3),
                "wall_seconds": round(time.monotonic() - started, 3),
                **self._tally,
            }
        )

    def _pictures(self, finished: frozenset[int]) -> Iterator[Picture]:
        """What is still to do, decoded; on a thread of its own."""
        for index, source in enumerate(self._work.sources):
            if index in finished:
                continue
            try:
                yield read_image(source.path, self._work.limits)
            except NightshiftError as error:
                if error.pointer is None:
                    error.pointer = "/input" if self._total == 1 else f"/inputs/{index}"
                raise

    def _segment(self, index: int, picture: Picture) -> Iterator[Event]:
        params, work = self._params, self._work
        name = download_name(work.sources[index].filename)
        prompts = params.of_image(index)
        fit(prompts, picture, f"The image {name}")
        for change in picture.changes:
            yield Note("info", "image_changed", f"{name}: {change}")
        began = time.monotonic()
        if params.mode == "prompts":
            happening = self._engine.segmenter.prompted(picture, prompts, self._tally, work.check) if prompts else ()
        else:
            happening = self._engine.segmenter.automatic(picture, params.automatic, self._tally, work.check)
        entries: list[dict[str, Any]] = []
        for event in happening:
            work.check()
            if isinstance(event, Found):
                entries.append(self._entry(event, picture))
            else:
                yield self._progress(index + min(1.0, event) * 0.99, index)
        self._seconds += time.monotonic() - began
        entries.sort(key=lambda entry: (entry["prompt"] or 0, entry["rank"]))
        if params.mode == "automatic" and len(entries) > MOST_AUTOMATIC:
            yield Note(
                "warning", "masks_dropped", f"{name}: of {len(entries)} masks the {MOST_AUTOMATIC} largest are kept."
            )
            entries = sorted(entries, key=lambda entry: -entry["record"]["area"])[:MOST_AUTOMATIC]
        empty = [entry["name"] for entry in entries if not entry["record"]["area"]]
        if empty or not entries:
            yield Note(
                "warning", "no_mask", f"{name}: nothing was found" + (f" for {', '.join(empty)}." * bool(empty) or ".")
            )
        files = self._write(index, picture, entries)
        self._files[index] = files
        yield BlockDone(index, self._total, files)
        yield self._progress(index + 1, index + 1)

    def _entry(self, found: Found, picture: Picture) -> dict[str, Any]:
        """A mask as it is kept: its record, and which prompt it is of."""
        self._tally["masks"] += 1
        made = document.record(found, picture.width, picture.height)
        if found.prompt is None:
            return {"prompt": None, "rank": 0, "name": _AUTOMATIC, "category": _AUTOMATIC, "record": made}
        names = self._names[found.prompt]
        return {
            "prompt": found.prompt,
            "rank": found.rank,
            "name": names.masks[found.rank],
            "category": names.prompt,
            "record": made,
        }

    def _write(self, index: int, picture: Picture, entries: list[dict[str, Any]]) -> dict[str, Path]:
        records, drawn = self._blocks / f"{index:06d}.json", self._blocks / f"{index:06d}.png"
        overlay.draw(
            picture,
            [entry["record"] for entry in entries],
            [entry["name"] for entry in entries] if self._params.mode == "prompts" else [""] * len(entries),
            [prompt for _, prompt in self._params.of_image(index)],
            drawn,
            self._work.check,
        )
        kept = {"width": picture.width, "height": picture.height, "format": picture.format, "masks": entries}
        records.write_text(json.dumps(kept, allow_nan=False))
        return {"records": records, "overlay": drawn}

    def _finish(self) -> Iterator[Event]:
        """Everything is made from the blocks' files, so that it makes no difference who made which."""
        info = {"description": "Masks", "engine": self._engine.name, "version": self._engine.version}
        with document.Document(self._results / "masks.json", info) as made:
            for index, source in enumerate(self._work.sources):
                self._work.check()
                block = _read(self._files[index], index)
                image = {
                    "file_name": download_name(source.filename),
                    "width": block["width"],
                    "height": block["height"],
                    "sha256": source.sha256,
                }
                ids = made.add(image, ((entry["category"], entry["record"]) for entry in block["masks"]))
                yield from self._pictured(index, block["masks"], ids)
                yield Artifact(
                    self._called(index, "overlay"),
                    self._file(self._files[index]["overlay"], f"{self._called(index, 'overlay')}.png"),
                    "image/png",
                    "overlay",
                    {"image": index, "masks": len(ids)},
                )
            yield Artifact("masks", made.finish(), document.CONTENT_TYPE, "masks", {"images": self._total})
        yield self._progress(self._total, self._total, "pictures")

    def _pictured(self, index: int, entries: list[dict[str, Any]], ids: list[int]) -> Iterator[Event]:
        """The masks as PNG: a file each where prompts asked for them, else one archive."""
        if self._params.mode == "automatic":
            name = self._called(index, "pictures")
            path = self._results / f"{name}.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for entry, number in zip(entries, ids, strict=True):
                    self._work.check()
                    with archive.open(f"{number:06d}.png", "w") as file:
                        _save(entry["record"], file)
            yield Artifact(name, path, "application/zip", "mask-pictures", {"image": index, "masks": len(ids)})
            return
        for entry, number in zip(entries, ids, strict=True):
            self._work.check()
            name = self._called(index, entry["name"])
            path = self._results / f"{name}.png"
            _save(entry["record"], path)
            meta = {key: value for key, value in entry["record"].items() if key != "segmentation"}
            yield Artifact(name, path, "image/png", "mask", {"image": index, "annotation": number, **meta})
            yield self._progress(index, index, "pictures")

    def _called(self, index: int, name: str) -> str:
        return name if self._total == 1 else f"{index:04d}-{name}"

    def _file(self, path: Path, name: str) -> Path:
        """The file under the name it has in the result."""
        target = self._results / name
        target.unlink(missing_ok=True)
        target.hardlink_to(path)
        return target

    def _progress(self, done: float, block: int = 0, phase: str = "segment") -> Progress:
        return Progress(phase, round(done, 3), self._total, "images", block, self._total)


def _save(record: Mapping[str, Any], target: Any) -> None:
    """A mask as an 8-bit grey PNG: 255 inside, 0 outside."""
    Image.fromarray(rle.decode(record["segmentation"])).convert("L").save(target, format="PNG", compress_level=3)


def _read(files: Mapping[str, Path], index: int) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(files["records"].read_text())
        if not files["overlay"].is_file():
            raise KeyError("overlay")
    except (KeyError, OSError, ValueError) as error:
        raise NightshiftError("storage_failed", f"The stored block {index} cannot be read.") from error
    return read
