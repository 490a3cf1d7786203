"""Whether this network computes what the official code computed: `python -m worker.separation.sam_audio.parity FOLDER`.

FOLDER holds one case: `config.json`, `state_dict.json` ([name, shape, dtype] of every tensor of the checkpoint),
`case.json` (seed of the generated weights, descriptions, anchors, sampler), `case.safetensors` (inputs and the
official outputs) and a text encoder where config.json names one. Exits 1 where, in float32, an output is off by more
than 1e-4 of its root mean square.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from common.errors import NightshiftError
from worker.separation.sam_audio import config as configuration
from worker.separation.sam_audio import official
from worker.separation.sam_audio.anchors import anchors, marks
from worker.separation.sam_audio.generated import weights
from worker.separation.sam_audio.loading import assemble
from worker.separation.sam_audio.model import Backend, SamAudio
from worker.separation.sam_audio.sampler import Schedule
from worker.separation.sam_audio.text import find_text_encoder, load_text_encoder

TOLERANCE = 1e-4

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Error:
    """How far an output is from the official one, as shares of the official one's root mean square."""

    name: str
    rms: float
    worst: float
    note: str = ""

    @property
    def within(self) -> bool:
        return self.worst <= TOLERANCE


def compare(name: str, ours: Tensor, official: Tensor) -> Error:
    """The error of one output. A shape that differs, or a value that is no number, is an error without bounds."""
    ours, official = ours.detach().double().cpu(), official.double()
    if ours.shape != official.shape:
        return Error(name, float("inf"), float("inf"), f"{list(ours.shape)} instead of {list(official.shape)}")
    if not bool(torch.isfinite(ours).all()):
        return Error(name, float("inf"), float("inf"), "not all values are numbers")
    size = official.square().mean().sqrt()
    off = ours - official
    if not float(size):
        return Error(name, float(off.abs().max() > 0), float(off.abs().max() > 0), "the official output is zero")
    return Error(name, float(off.square().mean().sqrt() / size), float(off.abs().max() / size))


class Case:
    """A folder's case on a device, with the weights it generates."""

    def __init__(
        self,
        folder: Path,
        *,
        t5: Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        backend: Backend = "native",
    ) -> None:
        from safetensors.torch import load_file

        self.told: dict[str, Any] = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        shapes = {
            name: shape for name, shape, _ in json.loads((folder / "state_dict.json").read_text(encoding="utf-8"))
        }
        self.tensors = load_file(folder / "case.safetensors")
        drawn = weights(self.told["seed"], shapes)
        if backend == "official":
            self.model = official.load(folder, device=device, dtype=dtype, t5=t5, weights=drawn)
            return
        config = configuration.read(folder)
        text_encoder = load_text_encoder(
            config.text_encoder, t5 or find_text_encoder(config.text_encoder, folder), device
        )
        self.model = SamAudio(assemble(config, drawn, device, dtype), text_encoder)

    def errors(self) -> Iterator[Error]:
        """Of every output the case has, in the order of the computation."""
        given, model = self.tensors, self.model
        if "codec.latent" in given:
            yield compare("codec.latent", model.encode(given["codec.wav"][None])[0], given["codec.latent"])
        if "codec.decode_wav" in given:
            wave = model.decode(given["codec.decode_latent"], given["codec.message"])
            yield compare("codec.decode_wav", wave, given["codec.decode_wav"])
        if "text.features" in given:
            states, mask = model.text_encoder.encode(self.told["descriptions"])
            yield compare("text.mask", mask, given["text.mask"])
            yield compare("text.features", states, given["text.features"])
        if "nfe.velocity" in given:
            yield compare("nfe.velocity", self._velocity(), given["nfe.velocity"])
        if "separate.target" in given:
            yield from self._separate()

    def _velocity(self) -> Tensor:
        given = self.tensors
        marked = given["nfe.anchor_ids"].gather(1, given["nfe.anchor_alignment"])
        text = self.model.text(self.told["descriptions"])
        return self.model.velocity(given["nfe.noisy"], given["nfe.time"], given["nfe.audio_features"], text, marked)

    def _separate(self) -> Iterator[Error]:
        given, spans = self.tensors, [tuple(span) for span in self.told.get("anchors") or []]
        codec = self.model.config.audio_codec
        frames = given["separate.noise"].shape[1]
        ours = marks(anchors(spans, codec.sample_rate, codec.hop), 0, frames)
        official = given["separate.anchor_ids"].gather(1, given["separate.anchor_alignment"])
        yield compare("separate.anchors", torch.from_numpy(ours)[None], official)
        ode = self.told.get("ode") or {}
        target, residual = self.model.separate(
            given["codec.wav"],
            self.told["descriptions"][0],
            spans,
            start=given["separate.noise"],
            message=given["separate.message"],
            schedule=Schedule(ode.get("method", "midpoint"), int(ode.get("steps", 16))),
            whole_frames=True,
        )
        yield compare("separate.target", target, given["separate.target"])
        yield compare("separate.residual", residual, given["separate.residual"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.separation.sam_audio.parity", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--t5", type=Path, help="folder of the text encoder; else the one config.json names")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the transformer's layers")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:0")
    parser.add_argument(
        "--backend", choices=get_args(Backend), default="native", help="official: the official package, installed here"
    )
    given = parser.parse_args(arguments)
    say = sys.stdout.write
    try:
        case = Case(given.folder, t5=given.t5, dtype=DTYPES[given.dtype], device=given.device, backend=given.backend)
        errors = []
        say(f"{'output':<20}{'error, rms':>14}{'error, worst':>14}   as shares of the official output's rms\n")
        for error in case.errors():
            errors.append(error)
            say(f"{error.name:<20}{error.rms:>14.2e}{error.worst:>14.2e}   {error.note}\n")
    except NightshiftError as error:
        say(f"{error}\n{error.hint}\n")
        return 2
    except (OSError, KeyError, ValueError) as error:
        say(f"{given.folder} is not a case of parity: {error!r}\n")
        return 2
    if not errors:
        say(f"{given.folder} holds no output to compare with.\n")
        return 2
    if given.dtype != "fp32":
        say(f"{given.dtype}: errors are stated, none is a failure.\n")
        return 0
    failed = [error.name for error in errors if not error.within]
    say(f"over {TOLERANCE:g}: {', '.join(failed)}\n" if failed else f"every output within {TOLERANCE:g}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
