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
    voices: dict[int, str] = {}
    for number, (_, voice) in sorted(found.items()):
        voices[number] = voice or synthesizer.voice(number, frozenset(taken))
        taken.add(voices[number])
    parts = _parts(voices)
    return tuple(
        Speaker(number, found[number][0], voice, not built_in(voice), parts[number])
        for number, voice in sorted(voices.items())
    )


def _parts(voices: dict[int, str]) -> dict[int, int]:
    """A number for each speaker: that of its voice where it is one, `csm:3`, else the lowest that is free."""
    parts = {
        number: int(name)
        for number, voice in voices.items()
        if built_in(voice) and (name := voice.partition(":")[2]).isdigit()
    }
    free = (part for part in range(2 * len(voices) + 10) if part not in set(parts.values()))
    return {number: parts[number] if number in parts else next(free) for number in sorted(voices)}


def reference(voice: Voice, speaker: Speaker, rate: int, limits: Limits, check: Callable[[], None]) -> Said:
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
