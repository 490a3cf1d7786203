"""Segment Anything on a tiny network of random weights, held to segment-anything's own predictor and generator; and
every trap of that package, each a test."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("segment_anything")

import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling.image_encoder import Attention

from common.engines import REGISTRY
from common.errors import NightshiftError
from common.params import Automatic, SegmentationPrompt
from tests.pictures import Composite, composite, iou
from tests.sam import SIDE, TinyEngine, network, weights, write_weights
from worker.engine import Host
from worker.media.images import Picture
from worker.segmentation import rle
from worker.segmentation.sam import attention, automatic
from worker.segmentation.sam.embeddings import Embeddings
from worker.segmentation.sam.engine import SamViTB, SegmentAnything, load
from worker.segmentation.sam.predictor import Predictor, stability
from worker.segmentation.segmenter import Found, Tally

CPU = torch.device("cpu")
MANY = {
    "points_per_side": 8, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.2, "stability_score_offset": 0.3,
    "box_nms_thresh": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference() -> Any:
    """The network as segment-anything runs it."""
    made = network()
    made.load_state_dict(weights())
    return made.eval()


@pytest.fixture
def segmenter(reference: Any) -> SegmentAnything:
    own = copy.deepcopy(reference)
    attention.bound(own)
    return SegmentAnything("sam-tiny", own, CPU, "1")


@pytest.fixture(scope="module")
def scene() -> Composite:
    return composite(1, 200, 150)


def picture(scene: Composite) -> Picture:
    return Picture(scene.pixels, "png")


def prompted(segmenter: SegmentAnything, seen: Picture, *prompts: SegmentationPrompt) -> tuple[list[Found], Tally]:
    tally: Tally = Counter()
    events = list(segmenter.prompted(seen, list(enumerate(prompts)), tally, lambda: None))
    assert all(0 <= event <= 1 for event in events if isinstance(event, float))
    found = [event for event in events if isinstance(event, Found)]
    return sorted(found, key=lambda one: (one.prompt, one.rank)), tally


def searched(segmenter: SegmentAnything, seen: Picture, **wanted: Any) -> tuple[list[Found], Tally]:
    tally: Tally = Counter()
    events = list(segmenter.automatic(seen, Automatic(**wanted), tally, lambda: None))
    shares = [event for event in events if isinstance(event, float)]
    assert shares == sorted(shares) and min(shares) >= 0 and max(shares) <= 1
    return [event for event in events if isinstance(event, Found)], tally


# --- As the package itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("form", ["box", "points", "both", "mask"])
def test_masks_are_those_of_the_predictor(
    reference: Any, segmenter: SegmentAnything, scene: Composite, form: str, multimask: bool
) -> None:
    predictor = SamPredictor(reference)
    predictor.set_image(scene.pixels)
    points, labels = [scene.inside, scene.outside], [1, 0]
    members: dict[str, Any] = {}
    given: dict[str, Any] = {}
    if form in ("box", "both"):
        members["box"], given["box"] = scene.box, np.array(scene.box)
    if form in ("points", "both"):
        members |= {"points": points, "labels": labels}
        given |= {"point_coords": np.array(points), "point_labels": np.array(labels)}
    if form == "mask":
        members["mask"] = rle.encode(scene.mask)
        view = SegmentAnything("x", segmenter.predictor.network, CPU, "1").predictor
        steps = view.look(scene.pixels, scene.mask.shape, Counter(), lambda: None)
        while True:
            try:
                next(steps)
            except StopIteration as ended:
                given["mask_input"] = view.mask_logits(ended.value, scene.mask).numpy()
                break
    masks, scores, logits = predictor.predict(multimask_output=multimask, return_logits=True, **given)
    assert logits.shape == (len(scores), SIDE // 2, SIDE // 2)
    found, _ = prompted(segmenter, picture(scene), SegmentationPrompt(multimask=multimask, **members))
    assert [one.rank for one in found] == list(range(len(scores)))
    for one, mask, score in zip(found, masks, scores, strict=True):
        assert one.mask.shape == scene.mask.shape
        assert one.mask.dtype == bool
        assert iou(one.mask, mask > 0) > 0.999
        assert one.predicted_iou == pytest.approx(float(score), abs=1e-4)
        inner, outer = np.count_nonzero(mask > 1), np.count_nonzero(mask > -1)
        assert one.stability_score == pytest.approx(inner / outer, abs=2e-3)
    assert any(0.01 < one.mask.mean() < 0.99 for one in found), "the tiny network tells nothing apart"


def compare(reference: Any, segmenter: SegmentAnything, pixels: np.ndarray, wanted: dict[str, Any]) -> int:
    expected = SamAutomaticMaskGenerator(reference, **wanted).generate(pixels)
    found, _ = searched(segmenter, Picture(pixels, "png"), **wanted)
    assert len(found) == len(expected)
    for one, theirs in zip(found, expected, strict=True):
        assert iou(one.mask, theirs["segmentation"]) > 0.999
        assert one.predicted_iou == pytest.approx(theirs["predicted_iou"], abs=1e-4)
        assert one.stability_score == pytest.approx(theirs["stability_score"], abs=1e-3)
        assert [list(point) for point in one.points] == theirs["point_coords"]
        assert one.crop is not None and list(one.crop) == theirs["crop_box"]
        x, y, width, height = rle.measures(rle.encode(one.mask))[1]
        assert [x, y, width - 1, height - 1] == theirs["bbox"], "theirs ends one pixel before the mask does"
    return len(found)


@pytest.mark.parametrize(
    "wanted",
    [
        MANY,
        {**MANY, "pred_iou_thresh": 0, "stability_score_thresh": 0},
        {**MANY, "min_mask_region_area": 6},
        {**MANY, "points_per_side": 4, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.9},
    ],
)
def test_automatic_masks_are_those_of_the_generator(
    reference: Any, segmenter: SegmentAnything, scene: Composite, wanted: dict[str, Any]
) -> None:
    with np.errstate(invalid="ignore"):
        assert compare(reference, segmenter, scene.pixels, wanted) >= 4


def test_nothing_good_enough_is_no_mask_and_no_crash(segmenter: SegmentAnything, scene: Composite) -> None:
    found, _ = searched(segmenter, picture(scene), points_per_side=4, pred_iou_thresh=1.0, crop_n_layers=1)
    assert found == []


def test_a_larger_picture_is_given_at_its_own_size(segmenter: SegmentAnything, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks compared at half the size come out at the whole, their points and crops too."""
    large = composite(1, 400, 300)
    whole, _ = searched(segmenter, picture(large), **MANY)
    monkeypatch.setattr(automatic, "WORK_SIDE", 200)
    half, _ = searched(segmenter, picture(large), **MANY)
    assert {one.mask.shape for one in half} == {(300, 400)}
    assert {one.crop for one in half} == {(0, 0, 400, 300)}
    assert half[0].points == whole[0].points
    assert iou(half[0].mask, whole[0].mask) > 0.94
    crops, _ = searched(segmenter, picture(large), **{**MANY, "crop_n_layers": 1, "points_per_side": 4})
    for one in crops:
        assert one.crop is not None
        x, y, width, height = one.crop
        assert x + width <= 400 and y + height <= 300
        assert x <= one.points[0][0] < x + width and y <= one.points[0][1] < y + height


# --- What is bounded, shared and kept ---------------------------------------------------------------------------------


def test_a_batch_gives_what_single_prompts_give(segmenter: SegmentAnything, scene: Composite) -> None:
    x, y = scene.inside
    prompts = [
        SegmentationPrompt(box=scene.box),
        SegmentationPrompt(points=[(x, y)], labels=[1]),
        SegmentationPrompt(box=(10, 10, 60, 70)),
        SegmentationPrompt(points=[(x, y), scene.outside], labels=[1, 0]),
        SegmentationPrompt(points=[(x - 5, y)], labels=[1], multimask=True),
        SegmentationPrompt(box=(50, 20, 190, 140)),
    ]
    together, tally = prompted(segmenter, picture(scene), *prompts)
    assert tally == {"encoder_runs": 1, "decoder_runs": 4}, "prompts of one form go together"
    assert [(one.prompt, one.rank) for one in together] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
        (4, 1),
        (4, 2),
        (5, 0),
    ]
    single = [one for prompt in prompts for one in prompted(segmenter, picture(scene), prompt)[0]]
    for one, alone in zip(together, single, strict=True):
        assert iou(one.mask, alone.mask) > 0.9995
        assert one.predicted_iou == pytest.approx(alone.predicted_iou, abs=1e-5)


def test_a_second_look_at_a_picture_skips_the_encoder(segmenter: SegmentAnything, scene: Composite) -> None:
    first, tally = prompted(segmenter, picture(scene), SegmentationPrompt(box=scene.box))
    assert (tally["encoder_runs"], tally["embedding_cached"]) == (1, 0)
    again, tally = prompted(segmenter, Picture(scene.pixels.copy(), "jpeg"), SegmentationPrompt(box=scene.box))
    assert (tally["encoder_runs"], tally["embedding_cached"]) == (0, 1)
    assert (first[0].mask == again[0].mask).all()
    _, tally = searched(segmenter, picture(scene), **MANY)
    assert (tally["encoder_runs"], tally["embedding_cached"]) == (0, 1), "both modes share it"
    other = scene.pixels.copy()
    other[:20] = 0
    _, tally = prompted(segmenter, Picture(other, "png"), SegmentationPrompt(box=scene.box))
    assert (tally["encoder_runs"], tally["embedding_cached"]) == (1, 0)


def test_of_kept_embeddings_the_least_recently_used_goes_first() -> None:
    kept = Embeddings(3 * 40)
    tensors = {name: torch.full((10,), float(i)) for i, name in enumerate("abcd")}
    for name in "abc":
        kept.put(name, tensors[name])
    assert kept.get("a") is tensors["a"]
    kept.put("d", tensors["d"])
    assert (kept.get("b"), len(kept), kept.bytes) == (None, 3, 120)
    kept.put("d", tensors["d"])
    assert (len(kept), kept.bytes) == (3, 120)
    kept.put("e", torch.zeros(31))
    assert (kept.get("e"), kept.bytes) == (None, 0), "what is larger than all of it is not kept"
    kept.put("a", tensors["a"])
    kept.clear()
    assert (len(kept), kept.bytes) == (0, 0)


def test_memory_counts_what_is_kept(segmenter: SegmentAnything, scene: Composite) -> None:
    before = segmenter.memory_bytes()
    prompted(segmenter, picture(scene), SegmentationPrompt(box=scene.box))
    assert segmenter.memory_bytes() == before + 4 * 32 * 16 * 16
    segmenter.close()
    assert segmenter.memory_bytes() == before


@pytest.mark.parametrize("heads", [1, 3, 100])
def test_attention_in_parts_is_attention(monkeypatch: pytest.MonkeyPatch, heads: int) -> None:
    torch.manual_seed(0)
    plain = Attention(24, num_heads=3, use_rel_pos=True, input_size=(6, 5))
    torch.nn.init.normal_(plain.rel_pos_h)
    torch.nn.init.normal_(plain.rel_pos_w)
    x = torch.randn(2, 6, 5, 24)
    with torch.inference_mode():
        expected = plain(x)
        attention.bound(plain)
        assert type(plain) is attention.BoundedAttention
        monkeypatch.setattr(attention, "BOUND_BYTES", heads * 30 * 30 * 4)
        assert torch.allclose(plain(x), expected, atol=1e-6)


def test_where_memory_runs_out_fewer_prompts_go_together(segmenter: SegmentAnything) -> None:
    predictor: Predictor = segmenter.predictor
    asked = []

    def compute(part: slice) -> list[int]:
        asked.append(part.stop - part.start)
        if part.stop - part.start > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))

    done = [i for part in predictor.in_parts(100, compute, lambda: None) for i in part]
    assert done == list(range(100))
    assert asked[:3] == [16, 8, 4]
    asked.clear()
    list(predictor.in_parts(100, compute, lambda: None))
    assert max(asked) == 4, "what fitted is remembered"

    def never(part: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(NightshiftError) as caught:
        list(predictor.in_parts(3, never, lambda: None))
    assert caught.value.code == "gpu_oom"


def test_other_failures_are_not_taken_for_memory(segmenter: SegmentAnything) -> None:
    def compute(part: slice) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(segmenter.predictor.in_parts(3, compute, lambda: None))


def test_a_cancel_stops_inside_of_the_encoder(segmenter: SegmentAnything, scene: Composite) -> None:
    class Stop(Exception):
        pass

    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 9:
            raise Stop

    with pytest.raises(Stop):
        list(segmenter.prompted(picture(scene), [(0, SegmentationPrompt(box=scene.box))], Counter(), check))
    assert not any(module._forward_pre_hooks for module in segmenter.predictor.network.modules())
    asked = 9
    found, _ = prompted(segmenter, picture(scene), SegmentationPrompt(box=scene.box))
    assert len(found) == 1


# --- Numbers ----------------------------------------------------------------------------------------------------------


def test_half_precision_is_for_the_encoder_alone(reference: Any, scene: Composite) -> None:
    """The prompts' sines, the decoder and the masks stay in float32, and what is kept does as well."""
    full = SegmentAnything("a", copy.deepcopy(reference), CPU, "1")
    half = SegmentAnything("b", copy.deepcopy(reference), CPU, "1")
    half._predictor = Predictor(half.predictor.network, CPU, half=True)
    prompts = [SegmentationPrompt(box=scene.box), SegmentationPrompt(points=[scene.inside], labels=[1], multimask=True)]
    exact, rough = prompted(full, picture(scene), *prompts)[0], prompted(half, picture(scene), *prompts)[0]
    (kept,) = half.predictor._embeddings._kept.values()
    (wide,) = full.predictor._embeddings._kept.values()
    assert kept.dtype == torch.float32
    assert not torch.equal(kept, wide), "nothing was computed in half precision"
    for one, other in zip(exact, rough, strict=True):
        assert iou(one.mask, other.mask) > 0.97
        assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in half.predictor.network.parameters())


def test_where_half_precision_overflows_it_is_not_used(reference: Any, scene: Composite) -> None:
    loud = copy.deepcopy(reference)
    loud.image_encoder.blocks[0].mlp.lin1.bias.data += 3e5
    full = SegmentAnything("a", copy.deepcopy(loud), CPU, "1")
    half = SegmentAnything("b", copy.deepcopy(loud), CPU, "1")
    half._predictor = Predictor(half.predictor.network, CPU, half=True)
    prompt = SegmentationPrompt(box=scene.box)
    exact, found = prompted(full, picture(scene), prompt)[0], prompted(half, picture(scene), prompt)[0]
    (kept,) = half.predictor._embeddings._kept.values()
    assert torch.isfinite(kept).all()
    assert (exact[0].mask == found[0].mask).all()


def test_stability_does_not_overflow_in_wide_pictures() -> None:
    logits = torch.full((3, 2, 40_000), 5.0)
    logits[1, :, 20_000:] = 0.0
    logits[2] = -5.0
    assert stability(logits, 1.0).tolist()[:2] == [1.0, 0.5]
    assert math.isnan(stability(logits, 1.0)[2])


# --- Weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host("cpu", tmp_path / "models", models_on_cpu=True)


def test_the_engine_loads_what_lies_in_the_folder(host: Host, reference: Any, scene: Composite) -> None:
    write_weights(host.models)
    engine = TinyEngine(host)
    assert engine.name == "sam-vit-b"
    assert engine.version.startswith("sam-")
    assert engine.memory_bytes() > 0
    predictor = SamPredictor(reference)
    predictor.set_image(scene.pixels)
    mask = predictor.predict(box=np.array(scene.box), multimask_output=False)[0][0]
    found, _ = prompted(engine.segmenter, picture(scene), SegmentationPrompt(box=scene.box))
    assert iou(found[0].mask, mask) > 0.999
    other = Host("cpu", host.models.parent / "others", models_on_cpu=True)
    write_weights(other.models, seed=1)
    assert TinyEngine(other).version != engine.version
    engine.close()
    with pytest.raises(AssertionError, match="closed"):
        prompted(engine.segmenter, picture(scene), SegmentationPrompt(box=scene.box))


@pytest.mark.parametrize("trouble", ["lacks", "more", "shape", "pickle", "cut", "empty"])
def test_weights_that_do_not_fit_are_refused(host: Host, trouble: str) -> None:
    path = write_weights(host.models)
    tensors = weights()
    if trouble == "lacks":
        del tensors["mask_decoder.iou_token.weight"]
    elif trouble == "more":
        tensors["text_encoder.weight"] = torch.zeros(3)
    elif trouble == "shape":
        tensors["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    torch.save(tensors, path)
    if trouble == "pickle":
        torch.save({"model": Path("/")}, path)
    elif trouble == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif trouble == "empty":
        path.write_bytes(b"")
    with pytest.raises(NightshiftError) as caught:
        TinyEngine(host)
    assert caught.value.code == "weights_invalid"
    assert str(path) in caught.value.detail


def test_the_engine_needs_a_card_unless_it_was_told(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError) as caught:
        TinyEngine(Host("cpu", tmp_path))
    assert caught.value.code == "device_missing"


def test_the_published_network_is_built_without_memory(tmp_path: Path) -> None:
    built = SamViTB.build()
    assert {tensor.device.type for tensor in built.parameters()} == {"meta"}
    assert sum(tensor.numel() for tensor in built.parameters()) == 93_735_472
    with pytest.raises(NightshiftError) as caught:
        load(built, write_weights(tmp_path), "sam-vit-b")
    assert caught.value.code == "weights_invalid"


def test_addresses_and_digests_of_the_published_weights() -> None:
    for size in "blh":
        found = REGISTRY[f"sam-vit-{size}"].weights
        assert found is not None
        assert found.url == f"https://dl.fbaipublicfiles.com/segment_anything/{found.files[0]}"
        assert found.files[0].startswith(f"sam_vit_{size}_")
        assert len(found.sha256) == 64
