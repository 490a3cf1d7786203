"""Segment Anything's network in steps that can be watched, stopped and kept: A. Kirillov et al., "Segment Anything",
2023, with the package segment-anything."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from common import log
from worker import device as devices
from worker.segmentation.sam.embeddings import Embeddings
from worker.segmentation.segmenter import Check, Tally

_log = log.get(__name__)

KEPT_BYTES = 256 << 20
"""Of embeddings: 64 pictures at the published size."""

AT_ONCE = {"cuda": 64, "cpu": 16}
"""Prompts that are decoded together; fewer where they do not fit. On a CPU more gain nothing and cost memory."""

# What decoding one prompt takes beside the weights, about: 64 of them at the published size take 1.5 GB.
_PROMPT_BYTES = 24 << 20
# The logits of a mask that is given: certain, but not beyond what the network gives itself.
_CERTAIN = 10.0

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Decoded:
    """For each prompt. logits: float32 [prompts, masks, h, w] at the network's small size.  scores: predicted IoU,
    [prompts, masks]."""

    logits: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class View:
    """A picture, or a part of one, as the network sees it.

    embedding: [1, channels, h, w].  input_size: (h, w) of what it was made from.  size: (height, width) that masks of
    it are to have, in whose pixels points and boxes are given.
    """

    embedding: torch.Tensor
    input_size: tuple[int, int]
    size: tuple[int, int]


class Predictor:
    """half: whether the encoder computes in float16 where it can. Prompts and masks are always computed in float32:
    the prompts' sines lose their meaning in less."""

    def __init__(self, network: Sam, device: torch.device, *, half: bool) -> None:
        self.network, self.device = network, device
        self._half = half
        self._transform = ResizeLongestSide(network.image_encoder.img_size)
        self._embeddings = Embeddings(KEPT_BYTES)
        self._at_once = AT_ONCE.get(device.type, 16)

    @property
    def kept_bytes(self) -> int:
        return self._embeddings.bytes

    def close(self) -> None:
        self._embeddings.clear()

    def look(
        self, pixels: np.ndarray, size: tuple[int, int], tally: Tally, check: Check
    ) -> Generator[float, None, View]:
        """Encodes uint8 [h, w, 3], or takes what is kept of the same; gives how much is done.

        It is kept under the digest of the pixels that the encoder would get: the same picture in another file counts.
        """
        seen = self._transform.apply_image(pixels)
        digest = hashlib.sha256(repr(seen.shape).encode() + np.ascontiguousarray(seen).tobytes()).hexdigest()
        embedding = self._embeddings.get(digest)
        if embedding is None:
            tally["encoder_runs"] += 1
            embedding = yield from self._encode(seen, check)
            self._embeddings.put(digest, embedding)
        else:
            tally["embedding_cached"] += 1
        return View(embedding, (seen.shape[0], seen.shape[1]), size)

    def _encode(self, seen: np.ndarray, check: Check) -> Generator[float, None, torch.Tensor]:
        image = torch.as_tensor(seen, device=self.device).permute(2, 0, 1)[None].contiguous()
        try:
            made = yield from self._encoder_steps(image, check, half=self._half)
        except RuntimeError as error:
            if not devices.out_of_memory(error):
                raise
            made = None
        if made is None:
            # Where kept embeddings stand in the way, they go first.
            self._embeddings.clear()
            devices.release(self.device)
            try:
                made = yield from self._encoder_steps(image, check, half=self._half)
            except RuntimeError as error:
                if not devices.out_of_memory(error):
                    raise
                raise devices.does_not_fit("The image encoder does", self.device, 4 << 30) from error
        if self._half and not torch.isfinite(made).all():
            _log.warning("float16 overflowed in the image encoder; computing in float32")
            made = yield from self._encoder_steps(image, check, half=False)
        return made

    def _encoder_steps(self, image: torch.Tensor, check: Check, *, half: bool) -> Generator[float, None, torch.Tensor]:
        """The encoder layer by layer: a large one takes minutes on a CPU, and the job's progress must show."""
        encoder = self.network.image_encoder
        steps: list[Callable[[torch.Tensor], torch.Tensor]] = [self._embed_patches, *encoder.blocks]
        tokens = self.network.preprocess(image)
        with devices.interruptible(encoder, check):
            for done, step in enumerate(steps):
                tokens = self._compute(step, tokens, half)
                yield (done + 1) / (len(steps) + 1)
            made = self._compute(lambda x: encoder.neck(x.permute(0, 3, 1, 2)), tokens, half)
        return made.float()

    def _embed_patches(self, image: torch.Tensor) -> torch.Tensor:
        encoder = self.network.image_encoder
        tokens: torch.Tensor = encoder.patch_embed(image)
        return tokens if encoder.pos_embed is None else tokens + encoder.pos_embed

    def _compute(self, step: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, half: bool) -> torch.Tensor:
        # Entered anew for each step: a generator that stops between them must not leave a mode behind.
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=half):
            return step(x)

    def decode(
        self,
        view: View,
        check: Check,
        tally: Tally,
        *,
        points: np.ndarray | None = None,
        labels: torch.Tensor | None = None,
        boxes: np.ndarray | None = None,
        masks: torch.Tensor | None = None,
        multimask: bool,
    ) -> Iterator[Decoded]:
        """The prompts' masks, prompts together as many as fit; in their order.

        points: [prompts, n, 2] of x and y.  labels: [prompts, n].  boxes: [prompts, 4].  masks: logits
        [prompts, 1, h, w] at the network's small size. Points and boxes are in pixels of the view's `size`.
        """
        count = next(len(given) for given in (points, boxes, masks) if given is not None)
        coordinates = corners = None
        if points is not None:
            coordinates = self.tensor(self._transform.apply_coords(points, view.size), torch.float64)
        if boxes is not None:
            corners = self.tensor(self._transform.apply_boxes(boxes, view.size), torch.float64)

        def compute(which: slice) -> Decoded:
            tally["decoder_runs"] += 1
            network = self.network
            pair = None if coordinates is None or labels is None else (coordinates[which], labels[which])
            with torch.inference_mode():
                sparse, dense = network.prompt_encoder(
                    points=pair,
                    boxes=None if corners is None else corners[which],
                    masks=None if masks is None else masks[which],
                )
                logits, scores = network.mask_decoder(
                    image_embeddings=view.embedding,
                    image_pe=network.prompt_encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=multimask,
                )
            return Decoded(logits, scores)

        yield from self.in_parts(count, compute, check)

    def in_parts(self, count: int, compute: Callable[[slice], Made], check: Check) -> Iterator[Made]:
        """Calls `compute` for consecutive parts of `count` items, half as large where memory runs out, down to one.

        Raises `gpu_oom` where one does not fit.
        """
        at, size = 0, self._at_once
        while at < count:
            check()
            try:
                made = compute(slice(at, min(at + size, count)))
            except RuntimeError as error:
                if not devices.out_of_memory(error):
                    raise
                failed = True
            else:
                failed = False
            if failed:
                devices.release(self.device)
                if size == 1:
                    raise devices.does_not_fit("A prompt does", self.device, _PROMPT_BYTES)
                size = max(1, min(size, count - at) // 2)
                self._at_once = size
                _log.warning("memory ran out", prompts_at_once=size)
                continue
            yield made
            del made
            at += size

    def enlarge(self, view: View, logits: torch.Tensor) -> torch.Tensor:
        """Logits [n, h, w] at the network's small size to float32 [n, height, width] of the view."""
        with torch.inference_mode():
            large: torch.Tensor = self.network.postprocess_masks(logits[:, None], view.input_size, view.size)
        return large[:, 0]

    def mask_logits(self, view: View, mask: np.ndarray) -> torch.Tensor:
        """A mask that is given, bool [height, width] of the view, as the network takes one: float32 [1, h, w]."""
        height, width = self.network.prompt_encoder.mask_input_size
        side = self.network.image_encoder.img_size
        rows, columns = (
            round(length * small / side) for length, small in zip(view.input_size, (height, width), strict=True)
        )
        share = cv2.resize(mask.astype(np.float32), (max(1, columns), max(1, rows)), interpolation=cv2.INTER_AREA)
        logits = np.full((1, height, width), -_CERTAIN, np.float32)
        logits[0, : share.shape[0], : share.shape[1]] = _CERTAIN * (2 * share - 1)
        return torch.as_tensor(logits, device=self.device)

    def tensor(self, values: Sequence[object] | np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=dtype, device=self.device)


def stability(logits: torch.Tensor, offset: float) -> torch.Tensor:
    """For each of [n, h, w]: the mask's area above `offset` over its area above minus `offset`; NaN where both are 0.

    As segment-anything computes it, whose sums overflow where a picture is wider than 32,767 pixels.
    """
    inner = (logits > offset).flatten(1).sum(1, dtype=torch.int64)
    outer = (logits > -offset).flatten(1).sum(1, dtype=torch.int64)
    return inner / outer
