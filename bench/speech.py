"""Speech: CSM's loop against the library's own, rows side by side against one alone, and a chapter by espeak-ng.

`speech-loop` and `speech-rows-*` are frames per second with generated weights, of the whole loop: backbone, depth
decoder and drawing. Without a card the network is a tiny one, so that what is compared is the cost of the loops around
it. `speech-chapter` is a whole job's sound over its time, real time being 1.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.figures import Figure, Goal, figure, in_turns
from bench.place import Missing
from bench.scale import Scale

_SENTENCE = "The night shift begins when the last of the trams has gone home. "
_SUPPRESSED = 3


def run(scale: Scale) -> Iterator[Figure]:
    """Raises `Missing` where a package is not installed."""
    yield from chapter(scale.pick(quick=200, normal=20_000))
    yield from loops(scale, "cpu", "tiny", (2, 4))


def chapter(characters: int) -> Iterator[Figure]:
    """A text of so many characters, from the request to its files."""
    from common.params import TtsParams
    from worker.engine import Host, Metrics, Work
    from worker.media.espeak import available

    if not available():
        raise Missing("espeakng-loader is not installed")
    from worker.tts.espeak import EspeakEngine

    params = TtsParams(text=_SENTENCE * (characters // len(_SENTENCE)))
    engine = EspeakEngine(Host("cpu", Path()))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            events = list(engine.run(Work("bench", params, (), Path(scratch))))
    finally:
        engine.close()
    (found,) = [event.values for event in events if isinstance(event, Metrics)]
    yield figure(
        "speech-chapter",
        "seconds of sound per second, by espeak, loudness and pictures included",
        "real time",
        [found["times_real_time"]],
        Goal(">=", 50.0),
        {"sound_s": found["audio_seconds"], "wall_s": found["wall_seconds"]},
    )


def loops(scale: Scale, device: str, size: str, rows: tuple[int, ...]) -> Iterator[Figure]:
    """CSM with generated weights. size: as `worker.tts.csm.generated` has it."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise Missing(f"{error.name} is not installed") from error
    from worker.tts.csm.generated import write_checkpoint
    from worker.tts.csm.model import Csm

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    frames, repetitions = scale.pick(quick=(4, 1), normal=(40, 5))
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), size)  # type: ignore[arg-type]
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = Csm.load(Path(folder), torch.device(device), dtype, "bench")
    _ours(model, 1, 2), _theirs(model, 2)  # The first of each is slower.
    both = in_turns(lambda: _ours(model, 1, frames), lambda: _theirs(model, frames), repetitions)
    yield figure(
        "speech-loop",
        "frames per second of our loop, one row, greedy",
        "the library's own generate, the same frames",
        [ours / theirs for ours, theirs in both],
        Goal(">=", 1.0),
        {"ours_fps": both[0][0], "theirs_fps": both[0][1], "times_real_time": both[0][0] / 12.5},
    )
    for count in rows:
        _ours(model, count, 2)
        sides = in_turns(lambda n=count: _ours(model, n, frames), lambda: _ours(model, 1, frames), repetitions)  # type: ignore[misc]
        yield figure(
            f"speech-rows-{count}",
            f"frames per second of {count} rows side by side, all of them counted",
            "one row",
            [many / one for many, one in sides],
            None,
            {"fps": sides[0][0], "times_real_time": sides[0][0] / 12.5},
        )


def _ours(model: Any, rows: int, frames: int) -> float:
    """Frames per second. The cap ends every row: generated weights hardly ever end one by themselves."""
    from worker.tts.csm.model import Prompt

    prompts = [
        Prompt(model.embed(model.tokens([(0, f"{number} {_SENTENCE}", None)]), []), frames, number)
        for number in range(rows)
    ]
    began = time.perf_counter()
    steps = model.generate(prompts, 0.0, lambda: None)
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            made = sum(len(codes.codes) for codes in ended.value)
            return made / (time.perf_counter() - began)


def _theirs(model: Any, frames: int) -> float:
    conversation = [{"role": "0", "content": [{"type": "text", "text": f"0 {_SENTENCE}"}]}]
    inputs = model.processor.apply_chat_template(conversation, tokenize=True, return_dict=True).to(model.device)
    real = model.config.codec_config.codebook_size
    suppressed = list(range(real, real + _SUPPRESSED))
    began = time.perf_counter()
    made = model.network.generate(
        **inputs, do_sample=False, depth_decoder_do_sample=False, max_new_tokens=frames, output_audio=False,
        suppress_tokens=suppressed, depth_decoder_suppress_tokens=suppressed,
    )  # fmt: skip
    return int(made.shape[1]) / (time.perf_counter() - began)
