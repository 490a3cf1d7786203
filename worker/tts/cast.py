"""Who speaks: each speaker of a request with a voice, and what is heard of a recorded one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.errors import NightshiftError
from common.params import TtsParams
from common.params.tts import built_in
from worker.engine import Limits, Voice
from worker.media.decode import AudioReader
from worker.media.resample import Resampler
from worker.tts.script import Speaker
from worker.tts.synthesizer import Said, Synthesizer


def cast_of(params: TtsParams, synthesizer: Synthesizer) -> tuple[Speaker, ...]:
    """The speakers by number; those without a voice get one of the synthesizer's."""
    found: dict[int, tuple[str, str | None]] = {}
    for turn in params.turns():
        found.setdefault(turn.speaker, (turn.name, turn.voice))
    taken = {voice for _, voice in found.values() if voice is not None}
    speakers = []
    for number, (name, voice) in sorted(found.items()):
        chosen = voice or synthesizer.voice(number, frozenset(taken))
        taken.add(chosen)
        speakers.append(Speaker(number, name, chosen, not built_in(chosen)))
    return tuple(speakers)


def reference(voice: Voice, speaker: int, rate: int, limits: Limits, check: Callable[[], None]) -> Said:
    """The voice's recording, mono at `rate` Hz, with its words. Raises what decoding raises, and `no_samples`."""
    with AudioReader(voice.audio, limits) as reader:
        resampler = Resampler(reader.info.sample_rate, rate, 1)
        heard = []
        for chunk in reader:
            check()
            heard.append(resampler.push(chunk.mean(axis=0, keepdims=True)))
        heard.append(resampler.finish())
    samples = np.concatenate(heard, axis=1)[0]
    if not samples.size:
        raise NightshiftError("no_samples", f"The recording of the voice {voice.id} is empty.")
    return Said(voice.id, speaker, voice.transcript, samples)
