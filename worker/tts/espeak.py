"""The engine `espeak`: espeak-ng in a child process, piece by piece, the same on any CPU."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Generator, Sequence

from common import espeak
from common.params import TtsParams
from worker.engine import Host
from worker.media.espeak import Espeak
from worker.tts.pipeline import SpeechEngine
from worker.tts.synthesizer import Line, Take

_WORDS_PER_MINUTE = 160
# A sentence or two: short enough that progress moves and a caption is read in time.
_LONGEST = 300
# What speakers without a voice sound like, in their order.
_VARIANTS = ("", "+f3", "+m3", "+f5", "+m7", "+f1", "+m5", "+f4")


class EspeakSynthesizer:
    """`worker.tts.synthesizer.Synthesizer` over one child process. Seeds do nothing: nothing is drawn."""

    name = "espeak"
    rate = 22_050
    longest = _LONGEST
    together = 1
    context_turns = 0
    anchors = False

    def __init__(self) -> None:
        self.version = f"1-{importlib.metadata.version('espeakng-loader')}"
        self._espeak = Espeak()

    def voice(self, speaker: int, taken: frozenset[str]) -> str:
        names = [espeak.DEFAULT + variant for variant in _VARIANTS]
        return next((name for name in names if name not in taken), names[speaker % len(names)])

    def language(self, voice: str) -> str:
        return voice.removeprefix(espeak.PREFIX).partition("+")[0]

    def speak(
        self, lines: Sequence[Line], params: TtsParams, check: Callable[[], None]
    ) -> Generator[float, None, list[Take]]:
        takes = []
        for number, line in enumerate(lines):
            yield number / len(lines)
            voice = line.speaker.voice.removeprefix(espeak.PREFIX)
            pace = round(_WORDS_PER_MINUTE * (params.speed or 1.0))
            samples, _ = self._espeak.speak(line.text, voice, pace, check)
            takes.append(Take(samples))
        return takes

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self._espeak.close()


class EspeakEngine(SpeechEngine):
    """Construction raises `engine_not_ready` where espeakng-loader is not installed."""

    def __init__(self, host: Host) -> None:
        super().__init__(EspeakSynthesizer())
