"""Segmentation: masks of what lies in a picture.

Coordinates are pixels of the image as it is seen, its EXIF orientation applied: x to the right, y down, 0 at the left
or upper edge. An engine works at a size of its own; what it gives is in the image's coordinates again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from common.engines import DEFAULTS, EngineSpec, Kind, featuring
from common.errors import NightshiftError
from common.params.base import Input, Name, Params, Request, Strict

MOST_INPUTS = 100
MOST_MASKS = 256
"""Of a job with prompts: each of its masks becomes a file."""
ALTERNATIVES = 3
"""Masks that `multimask` gives for a prompt."""

Coordinate = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Point = tuple[Coordinate, Coordinate]


def _extended(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise ValueError("a box is [x0, y0, x1, y1] with x0 < x1 and y0 < y1")
    return box


Box = Annotated[tuple[Coordinate, Coordinate, Coordinate, Coordinate], AfterValidator(_extended)]
Size = Annotated[int, Field(ge=1, le=100_000)]
Count = Annotated[int, Field(ge=0, le=10_000_000_000)]


class Rle(Strict):
    """A mask in COCO's run-length encoding, the form in which results give their masks.

    size: [height, width].  counts: lengths of runs, column by column, the first of pixels outside; as COCO's compressed
    text, or as numbers.
    """

    size: tuple[Size, Size]
    counts: (
        Annotated[str, Field(min_length=1, max_length=500_000)]
        | Annotated[tuple[Count, ...], Field(min_length=1, max_length=200_000)]
    )

    @model_validator(mode="after")
    def _covers(self) -> Rle:
        pixels = self.size[0] * self.size[1]
        runs = self.counts if not isinstance(self.counts, str) else _runs(self.counts)
        if runs is None:
            raise ValueError("counts is not COCO's compressed run-length text")
        if any(run < 0 for run in runs) or sum(runs) != pixels:
            raise ValueError(f"counts must add up to {pixels} pixels, height times width")
        if not any(runs[1::2]):
            raise ValueError("the mask is empty")
        return self


class SegmentationPrompt(Strict):
    """What to segment: points, a box or a mask, or several of them together for one thing."""

    name: Name | None = Field(None, description="Name of its mask; left out: `mask-1`, `mask-2` …")
    points: tuple[Point, ...] = Field((), max_length=64, description="[x, y] each, in pixels")
    labels: tuple[Annotated[int, Field(ge=0, le=1)], ...] = Field(
        (), max_length=64, validate_default=True, description="For each point: 1 belongs to it, 0 does not"
    )
    box: Box | None = Field(None, description="[x0, y0, x1, y1], in pixels")
    mask: Rle | None = Field(None, description="A rough mask of the image's size, for instance of an earlier job")
    multimask: bool = Field(
        False, description=f"Give {ALTERNATIVES} masks, for what may be meant more widely or more narrowly"
    )
    image: int | None = Field(None, ge=0, lt=MOST_INPUTS, description="Which of `inputs`, from 0; left out: each")

    @field_validator("labels")
    @classmethod
    def _one_each(cls, labels: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        points = info.data.get("points")
        if points is not None and len(labels) != len(points):
            raise ValueError(f"give one label for each point: {len(points)} points, {len(labels)} labels")
        return labels

    @model_validator(mode="after")
    def _says_something(self) -> SegmentationPrompt:
        if self.box is None and self.mask is None and 1 not in self.labels:
            raise ValueError("give a box, a mask, or a point with the label 1")
        return self


class Named(NamedTuple):
    """A prompt's name, and those of its masks."""

    prompt: str
    masks: tuple[str, ...]


class Automatic(Strict):
    """Masks of all that is there. The members are those of segment-anything's SamAutomaticMaskGenerator."""

    points_per_side: int = Field(32, ge=1, le=64, description="Prompts lie on a grid of so many by so many points")
    pred_iou_thresh: float = Field(0.88, ge=0, le=1, allow_inf_nan=False)
    stability_score_thresh: float = Field(0.95, ge=0, le=1, allow_inf_nan=False)
    stability_score_offset: float = Field(1.0, gt=0, le=100, allow_inf_nan=False)
    box_nms_thresh: float = Field(0.7, ge=0, le=1, allow_inf_nan=False)
    crop_n_layers: int = Field(0, ge=0, le=2, description="Looks again at 4 and at 16 crops, for what is small")
    crop_nms_thresh: float = Field(0.7, ge=0, le=1, allow_inf_nan=False)
    crop_overlap_ratio: float = Field(512 / 1500, ge=0, lt=1, allow_inf_nan=False)
    crop_n_points_downscale_factor: int = Field(1, ge=1, le=64)
    min_mask_region_area: int = Field(
        0, ge=0, le=100_000_000, description="Smaller holes are filled and smaller islands dropped; pixels"
    )

    def chosen(self) -> list[str]:
        """Names of the members that are not at their default."""
        return [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]


class SegmentationParams(Params):
    mode: Literal["prompts", "automatic"] = Field(
        "prompts", description="`prompts`: what they name; `automatic`: all that is there"
    )
    prompts: tuple[SegmentationPrompt, ...] = Field((), max_length=MOST_MASKS, validate_default=True)
    automatic: Automatic = Field(Automatic(), validate_default=True, description="For the mode `automatic`")

    @field_validator("prompts")
    @classmethod
    def _fit_the_mode(
        cls, prompts: tuple[SegmentationPrompt, ...], info: ValidationInfo
    ) -> tuple[SegmentationPrompt, ...]:
        mode = info.data.get("mode")
        if mode == "prompts" and not prompts:
            raise ValueError("give at least one prompt, or the mode automatic")
        if mode == "automatic" and prompts:
            raise ValueError("the mode automatic takes no prompts")
        taken = ["masks", "overlay", "pictures"]
        for prompt in prompts:
            taken += _masks(prompt.name, prompt) if prompt.name else []
        for name in taken:
            if taken.count(name) > 1:
                raise ValueError(f"the name {name!r} is taken twice: give the prompt another name")
        return prompts

    @field_validator("automatic")
    @classmethod
    def _used(cls, automatic: Automatic, info: ValidationInfo) -> Automatic:
        if info.data.get("mode") == "prompts" and automatic.chosen():
            raise ValueError("these settings belong to the mode automatic")
        return automatic

    def names(self) -> tuple[Named, ...]:
        """How each prompt and its masks are called; no two masks alike."""
        taken = {name for prompt in self.prompts if prompt.name for name in _masks(prompt.name, prompt)}
        names: list[Named] = []
        for number, prompt in enumerate(self.prompts, 1):
            name = prompt.name or f"mask-{number}"
            while prompt.name is None and not taken.isdisjoint(_masks(name, prompt)):
                name += "-0"
            names.append(Named(name, _masks(name, prompt)))
            taken.update(names[-1].masks)
        return tuple(names)

    def of_image(self, image: int) -> list[tuple[int, SegmentationPrompt]]:
        """The prompts for one of the inputs, each with its place in the list."""
        return [(i, prompt) for i, prompt in enumerate(self.prompts) if prompt.image in (None, image)]

    def check(self, spec: EngineSpec) -> None:
        """Raises `engine_unsupported` for what the engine cannot do, naming the engines that can."""
        for feature, what, pointer in self._needs():
            if feature in spec.features:
                continue
            names = featuring(Kind.SEGMENTATION, feature)
            raise NightshiftError(
                "engine_unsupported",
                f"The engine {spec.name} cannot {what}.",
                hint=f"Use one of: {', '.join(names)}." if names else "No engine of this service can.",
                pointer=pointer,
            )

    def _needs(self) -> list[tuple[str, str, str]]:
        """Features, what each means as the end of a sentence, and the pointer to what asks for it."""
        if self.mode == "automatic":
            asked = [("automatic", "find masks without a prompt", "/params/mode")]
            for name in self.automatic.chosen():
                if name != "min_mask_region_area":
                    asked.append(("grid", f"be set by {name}", f"/params/automatic/{name}"))
            return asked
        asked = []
        for i, prompt in enumerate(self.prompts):
            pointer = f"/params/prompts/{i}"
            asked += [("points", "take points", f"{pointer}/points")] if prompt.points else []
            asked += [("boxes", "take boxes", f"{pointer}/box")] if prompt.box else []
            asked += [("masks", "take masks", f"{pointer}/mask")] if prompt.mask else []
            asked += [("multimask", "give several masks for a prompt", f"{pointer}/multimask")] * prompt.multimask
        return asked


class SegmentationRequest(Request):
    """Finds masks in one image (`input`) or in a list of images (`inputs`)."""

    kind: Literal["segmentation"]
    engine: str = Field(DEFAULTS[Kind.SEGMENTATION], max_length=64)
    input: Input | None = Field(None, description="One image; or `inputs`")
    inputs: tuple[Input, ...] | None = Field(
        None,
        min_length=1,
        max_length=MOST_INPUTS,
        validate_default=True,
        description="Images as one job: each is a block of its progress; or `input`",
    )
    params: SegmentationParams

    @field_validator("inputs")
    @classmethod
    def _one_of_both(cls, inputs: tuple[Input, ...] | None, info: ValidationInfo) -> tuple[Input, ...] | None:
        if "input" in info.data and (inputs is None) == (info.data["input"] is None):
            raise ValueError("give exactly one of input and inputs")
        return inputs

    def spec(self) -> EngineSpec:
        """The engine asked for. Raises `unknown_engine`, `engine_unsupported`, and `invalid_request` for prompts that
        are for no image or for too many."""
        images = len(self.inputs or (None,))
        masks = 0
        for i, prompt in enumerate(self.params.prompts):
            if prompt.image is not None and prompt.image >= images:
                raise NightshiftError(
                    "invalid_request",
                    f"The prompt is for image {prompt.image}, but there are {images}, counted from 0.",
                    pointer=f"/params/prompts/{i}/image",
                )
            masks += (images if prompt.image is None else 1) * (ALTERNATIVES if prompt.multimask else 1)
        if masks > MOST_MASKS:
            raise NightshiftError(
                "invalid_request",
                f"The prompts ask for {masks} masks; a job gives at most {MOST_MASKS}.",
                hint="Share the images or the prompts out among several jobs.",
                pointer="/params/prompts",
            )
        return super().spec()


def _masks(name: str, prompt: SegmentationPrompt) -> tuple[str, ...]:
    return tuple(f"{name}-{rank}" for rank in range(1, ALTERNATIVES + 1)) if prompt.multimask else (name,)


def _runs(text: str) -> list[int] | None:
    """The run lengths in COCO's compressed text, a variable-length code of five bits a character in which a run from
    the third on is given by its difference from the one before the last (pycocotools, maskApi.c). None: it is none."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 40:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def runs_of(rle: Rle) -> list[int]:
    """The run lengths of a mask, column by column, the first outside."""
    found: Any = _runs(rle.counts) if isinstance(rle.counts, str) else list(rle.counts)
    assert found is not None
    return list(found)
