"""The result in one JSON document, in COCO's form: pycocotools and what builds on it read it.

Each annotation has segment-anything's members `segmentation` (run lengths), `area`, `bbox`, `predicted_iou`,
`point_coords`, `stability_score` and `crop_box`, and COCO's own `id`, `image_id`, `category_id` and `iscrowd`, by which
its readers find their way. Boxes are [x, y, width, height] and hold every pixel of the mask (segment-anything's own end
one pixel before).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.segmentation import rle
from worker.segmentation.segmenter import Found

CONTENT_TYPE = "application/json"


def record(found: Found, width: int, height: int) -> dict[str, Any]:
    """A mask as segment-anything describes one, in plain JSON."""
    encoded = rle.encode(found.mask)
    area, bbox = rle.measures(encoded)
    return {
        "segmentation": encoded,
        "area": area,
        "bbox": bbox,
        "predicted_iou": _rounded(found.predicted_iou),
        "point_coords": [[_rounded(x), _rounded(y)] for x, y in found.points],
        "stability_score": _rounded(found.stability_score),
        "crop_box": list(found.crop or (0, 0, width, height)),
    }


class Document:
    """Written as images come, so that memory does not grow with their number; a context manager."""

    def __init__(self, path: Path, info: Mapping[str, Any]) -> None:
        self.path = path
        self._draft = path.with_suffix(".part")
        self._file = self._draft.open("w", encoding="utf-8")
        self._images: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}
        self._annotations = 0
        self._file.write(f'{{"info":{_dumps(info)},\n"annotations":[')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def add(self, image: Mapping[str, Any], records: Iterable[tuple[str, Mapping[str, Any]]]) -> list[int]:
        """An image with its masks, each with the name of its category; returns the masks' ids."""
        number = len(self._images) + 1
        self._images.append({"id": number, **image})
        ids = []
        for name, entry in records:
            self._annotations += 1
            category = self._categories.setdefault(name, len(self._categories) + 1)
            whole = {"id": self._annotations, "image_id": number, "category_id": category, "iscrowd": 0, **entry}
            self._file.write(("," if self._annotations > 1 else "") + "\n" + _dumps(whole))
            ids.append(self._annotations)
        return ids

    def finish(self) -> Path:
        categories = [{"id": number, "name": name} for name, number in self._categories.items()]
        self._file.write(f'\n],\n"images":{_dumps(self._images)},\n"categories":{_dumps(categories)}}}\n')
        self._file.close()
        return self._draft.replace(self.path)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _dumps(value: object) -> str:
    # A number that is none would make the document one that most readers refuse.
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
