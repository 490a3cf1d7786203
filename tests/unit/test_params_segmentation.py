"""Requests for masks: what an engine would take in silence is refused, pointing to the member."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco
from pydantic import ValidationError

from common.engines import REGISTRY
from common.errors import NightshiftError
from common.params import Rle, SegmentationParams, parse_request
from common.params.segmentation import runs_of
from common.pointers import located

BOX = {"box": [1, 2, 30, 40]}
HALF = {"size": [2, 2], "counts": [2, 2]}


def body(*prompts: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "kind": "segmentation",
        "input": {"upload": "upl_1"},
        "params": {"prompts": list(prompts)} if prompts else {},
        **members,
    }


def complaint(value: dict[str, Any]) -> tuple[str, str]:
    """The pointer to what is refused first, and the sentence."""
    with pytest.raises(ValidationError) as caught:
        parse_request(value)
    error = caught.value.errors()[0]
    return located(error["loc"], value), error["msg"]


def test_the_defaults() -> None:
    request = parse_request(body(BOX))
    assert request.engine == "grabcut"
    assert request.spec().name == "grabcut"
    params = request.params
    assert isinstance(params, SegmentationParams)
    assert (params.mode, params.names(), params.prompts[0].box) == (
        "prompts",
        (("mask-1", ("mask-1",)),),
        (1, 2, 30, 40),
    )
    assert list(request.sources()) == ["/input"]
    assert parse_request(request.model_dump(mode="json")) == request


@pytest.mark.parametrize(
    ("prompt", "where"),
    [
        ({"box": [30, 2, 1, 40]}, "/box"),
        ({"box": [1, 40, 30, 2]}, "/box"),
        ({"box": [1, 2, 1, 40]}, "/box"),
        ({"box": [1, 2, 30]}, "/box/3"),
        ({"box": [1, 2, 30, float("nan")]}, "/box/3"),
        ({"box": [-1, 2, 30, 40]}, "/box/0"),
        ({"points": [[1, float("nan")]], "labels": [1]}, "/points/0/1"),
        ({"points": [[1, float("inf")]], "labels": [1]}, "/points/0/1"),
        ({"points": [[-3, 1]], "labels": [1]}, "/points/0/0"),
        ({"points": [[1, 2, 3]], "labels": [1]}, "/points/0"),
        ({"points": [[1, 2]], "labels": [2]}, "/labels/0"),
        ({"points": [[1, 2]], "labels": [-1]}, "/labels/0"),
        ({"points": [[1, 2], [3, 4]], "labels": [1]}, "/labels"),
        ({"points": [[1, 2]]}, "/labels"),
        ({"labels": [1]}, "/labels"),
        ({}, ""),
        ({"points": [[1, 2]], "labels": [0]}, ""),
        ({"mask": {"size": [2, 2], "counts": [4]}}, "/mask"),
        ({"mask": {"size": [2, 2], "counts": [1, 2]}}, "/mask"),
        ({"mask": {"size": [2, 2], "counts": "not coco!"}}, "/mask"),
        ({"mask": {"size": [0, 2], "counts": [0]}}, "/mask/size/0"),
        ({"text": "a dog"}, "/text"),
    ],
)
def test_a_prompt_that_says_nothing_or_nonsense(prompt: dict[str, Any], where: str) -> None:
    found, sentence = complaint(body(BOX, prompt))
    assert found == f"/params/prompts/1{where}", sentence


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (body(), "/params/prompts"),
        (body(BOX, params={"mode": "automatic", "prompts": [BOX]}), "/params/prompts"),
        (body({**BOX, "name": "a"}, {**BOX, "name": "a"}), "/params/prompts"),
        (body({**BOX, "name": "a-2"}, {**BOX, "name": "a", "multimask": True}), "/params/prompts"),
        (body({**BOX, "name": "overlay"}), "/params/prompts"),
        (body(params={"prompts": [BOX], "automatic": {"points_per_side": 8}}), "/params/automatic"),
        (body(params={"mode": "automatic", "automatic": {"points_per_side": 0}}), "/params/automatic/points_per_side"),
        (body(params={"mode": "all"}), "/params/mode"),
        ({**body(BOX), "inputs": [{"upload": "upl_2"}]}, "/inputs"),
        ({k: v for k, v in body(BOX).items() if k != "input"}, "/inputs"),
        (body(BOX, input=None, inputs=[]), "/inputs"),
        (body(BOX, input=None, inputs=[{"upload": "a"}] * 101), "/inputs"),
    ],
)
def test_a_request_that_does_not_hang_together(value: dict[str, Any], where: str) -> None:
    found, sentence = complaint(value)
    assert found == where, sentence


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (body(BOX, {**BOX, "image": 1}), "/params/prompts/1/image"),
        (
            body({**BOX, "multimask": True}, engine="sam-vit-b", input=None, inputs=[{"upload": "a"}] * 86),
            "/params/prompts",
        ),
    ],
)
def test_prompts_for_no_image_or_for_too_many(value: dict[str, Any], where: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        parse_request(value).spec()
    assert (caught.value.code, caught.value.pointer) == ("invalid_request", where)


def test_a_list_of_images_is_one_job() -> None:
    names = [{"upload": "upl_1"}, {"job": "job_1", "output": "overlay"}, {"url": "https://media.example/a.png"}]
    request = parse_request(body(BOX, {**BOX, "image": 2}, input=None, inputs=names))
    assert list(request.sources()) == ["/inputs/0", "/inputs/1", "/inputs/2"]
    params = request.params
    assert isinstance(params, SegmentationParams)
    assert [i for i, _ in params.of_image(0)] == [0]
    assert [i for i, _ in params.of_image(2)] == [0, 1]


def test_names_are_different() -> None:
    wide = {**BOX, "multimask": True}
    params = SegmentationParams.model_validate(
        {"prompts": [BOX, {**BOX, "name": "mask-1"}, wide, {**wide, "name": "a"}]}
    )
    assert [named.prompt for named in params.names()] == ["mask-1-0", "mask-1", "mask-3", "a"]
    assert params.names()[2].masks == ("mask-3-1", "mask-3-2", "mask-3-3")
    everything = [name for named in params.names() for name in named.masks]
    assert len(set(everything)) == len(everything) == 8


@pytest.mark.parametrize(
    ("params", "where", "able"),
    [
        ({"prompts": [BOX, {**BOX, "multimask": True}]}, "/params/prompts/1/multimask", "sam-vit-b"),
        ({"mode": "automatic", "automatic": {"crop_n_layers": 1}}, "/params/automatic/crop_n_layers", "sam-vit-h"),
    ],
)
def test_what_grabcut_cannot_do_names_who_can(params: dict[str, Any], where: str, able: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        parse_request(body(params=params)).spec()
    assert (caught.value.code, caught.value.pointer) == ("engine_unsupported", where)
    assert able in caught.value.hint
    assert "grabcut" not in caught.value.hint
    assert parse_request(body(params=params, engine="sam-vit-b")).spec().name == "sam-vit-b"


def test_what_grabcut_can_do() -> None:
    parse_request(body(params={"mode": "automatic", "automatic": {"min_mask_region_area": 50}})).spec()
    parse_request(body({"points": [[1, 1]], "labels": [1], "mask": HALF, "box": [0, 0, 2, 2]})).spec()


def test_an_engine_of_another_kind_is_none() -> None:
    with pytest.raises(NightshiftError) as caught:
        parse_request(body(BOX, engine="rnnoise")).spec()
    assert caught.value.code == "unknown_engine"
    assert caught.value.hint == "Use one of: grabcut, sam-vit-b, sam-vit-h, sam-vit-l."
    assert REGISTRY["grabcut"].lane == "cpu"


masks = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=60), elements=st.integers(0, 1))


@given(masks.filter(lambda mask: mask.any()))
def test_run_lengths_are_those_of_coco(mask: np.ndarray) -> None:
    encoded = coco.encode(np.asfortranarray(mask))
    text = Rle(size=mask.shape, counts=encoded["counts"].decode())
    runs = runs_of(text)
    assert sum(runs) == mask.size
    assert np.repeat(np.arange(len(runs)) % 2, runs).reshape(mask.shape, order="F").tolist() == mask.tolist()
    assert runs_of(Rle(size=mask.shape, counts=tuple(runs))) == runs


@given(st.text(st.characters(min_codepoint=40, max_codepoint=130), min_size=1, max_size=30))
def test_no_text_breaks_the_reading_of_runs(text: str) -> None:
    try:
        rle = Rle(size=(3, 5), counts=text)
    except ValidationError:
        return
    assert sum(runs_of(rle)) == 15
