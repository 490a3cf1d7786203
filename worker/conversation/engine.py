"""The engines of the kind conversation: hear the question, ask a language model, speak the answer.

Each step is another engine's, asked for when its turn comes, so a card needs room for one of them at a time. What was
asked and answered is the first block: a job that goes on elsewhere does not ask again, and the pieces of its speech
follow as further blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from common.engines import REGISTRY
from common.errors import NightshiftError
from common.params import ConversationParams, TranscriptionParams
from worker.conversation import history
from worker.conversation.history import Turn
from worker.conversation.language import Answer, LanguageModel
from worker.conversation.served import ServedModel
from worker.engine import Artifact, BlockDone, Blocks, Earlier, Event, Host, Metrics, NoBlocks, Progress, Source, Work


class ConversationEngine:
    """A language model as an engine of the registry.

    Outputs: `question` and `answer` (text), what speaking gives (`speech`, its timing, captions and picture), and
    `conversation` (JSON), with which the next turn goes on.
    """

    def __init__(self, name: str, language: LanguageModel) -> None:
        self.name, self.language = name, language
        self.version = f"{name}-{language.version}-1"

    def run(self, work: Work) -> Generator[Event, None, None]:
        """Raises `llm_*`, and what the engines that hear and speak raise."""
        yield from _Run(self.name, self.version, work).events()

    def memory_bytes(self) -> int:
        return self.language.memory_bytes()

    def close(self) -> None:
        self.language.close()


class ServedConversation(ConversationEngine):
    """Raises `engine_not_ready` where the operator has configured no language model."""

    def __init__(self, host: Host) -> None:
        if lacking := host.lacks_language_server:
            raise NightshiftError("engine_not_ready", f"llm: {lacking[0]}.", hint=lacking[1], retryable=False)
        assert host.language_server is not None
        super().__init__("llm", ServedModel(host.language_server))


class LocalConversation(ConversationEngine):
    """Raises `device_missing`, `weights_missing`, `weights_invalid`, `gpu_oom`."""

    def __init__(self, host: Host) -> None:
        from worker import device as devices
        from worker import hub
        from worker.conversation.local import LocalModel

        name = "llm-local"
        weights = REGISTRY[name].weights
        assert weights is not None
        device = devices.choose(host, name)
        folder = hub.locate(weights, host.models, host.token, tell=host.on_fetch)
        super().__init__(name, LocalModel(name, folder, device))


@dataclass(frozen=True)
class _After:
    """The blocks that follow the first, counted from 0."""

    blocks: Blocks

    @property
    def finished(self) -> frozenset[int]:
        return frozenset(index - 1 for index in self.blocks.finished if index > 0)

    def fetch(self, index: int) -> Mapping[str, Path]:
        return self.blocks.fetch(index + 1)


class _Run:
    """One turn."""

    def __init__(self, engine: str, version: str, work: Work) -> None:
        work.check()
        self._engine, self._version, self._work = engine, version, work
        self._params = cast(ConversationParams, work.params)
        # In the request's order: the question where it is spoken, then of the earlier turn what was said, then how.
        heard = self._params.text is None
        self._recording: Source | None = work.sources[0] if heard else None
        earlier = work.sources[1:] if heard else work.sources
        self._earlier_speech = earlier[1] if earlier else None
        self._turns = _turns(earlier[0]) if earlier else []
        self._figures: dict[str, Any] = {}

    def events(self) -> Iterator[Event]:
        if 0 in self._work.blocks.finished:
            turn = Turn.of(json.loads(self._work.blocks.fetch(0)["turn"].read_text()))
        else:
            question = self._params.text or (yield from self._hear())
            yield Progress("answer", 0, 1, "answers")
            turn = self._answer(question)
            path = self._work.scratch / "turn.json"
            path.write_text(json.dumps(asdict(turn)))
            yield BlockDone(0, 2, {"turn": path})
        yield from self._speak(turn)
        yield from self._results(turn)

    def _hear(self) -> Generator[Event, None, str]:
        """Progress; returns the question."""
        assert self._recording is not None
        hearing = self._params.transcription
        params = TranscriptionParams(**hearing.model_dump(exclude={"engine"}))
        work = self._part("question", params=params, sources=(self._recording,))
        text = ""
        with closing(iter(self._work.acquire(hearing.engine).run(work))) as happening:
            for event in happening:
                match event:
                    case Artifact(name="text"):
                        text = " ".join(event.path.read_text().split())
                    case Artifact() | BlockDone():
                        pass
                    case Metrics(values):
                        self._figures["question"] = dict(values)
                    case _:
                        yield event
        if not any(character.isalnum() for character in text):
            raise NightshiftError(
                "no_speech",
                "No words were understood in the question.",
                hint="Record it again, closer to the microphone; or send it as text.",
                pointer="/input",
            )
        return text

    def _answer(self, question: str) -> Turn:
        params, work = self._params, self._work
        model = cast(ConversationEngine, work.acquire(self._engine)).language
        began = time.monotonic()
        told = history.messages(params.instructions, self._turns, question, params.history_turns)
        answer = model.answer(told, max_tokens=params.max_tokens, temperature=params.temperature, check=work.check)
        text = history.answered(answer.text)
        read = history.spoken(text)
        if not any(character.isalnum() for character in read):
            raise NightshiftError(
                "llm_failed",
                f"{answer.model} gave an answer without a word to speak"
                + (", for it came to its longest while it was thinking." if answer.cut else "."),
                hint="Allow more `max_tokens`." if answer.cut else "Ask again, or otherwise.",
                retryable=not answer.cut,
            )
        self._figures["answer"] = _figures(answer, time.monotonic() - began)
        return Turn(question, text, read, params.speech.voice, answer.model, work.job_id)

    def _speak(self, turn: Turn) -> Iterator[Event]:
        speech, work = self._params.speech, self._work
        part = self._part("speech", params=speech.params(turn.spoken), sources=(), blocks=_After(work.blocks))
        if self._turns and self._earlier_speech is not None and self._turns[-1].voice == turn.voice:
            said = Earlier(self._earlier_speech.path, self._turns[-1].spoken)
            part = replace(part, earlier=(said,))
        with closing(iter(work.acquire(speech.engine).run(part))) as happening:
            for event in happening:
                match event:
                    case BlockDone(index, total, files):
                        yield BlockDone(index + 1, total + 1, files)
                    case Progress():
                        yield replace(event, block=event.block + 1, blocks=event.blocks + 1)
                    case Metrics(values):
                        self._figures["speech"] = dict(values)
                    case _:
                        yield event

    def _part(self, name: str, **members: Any) -> Work:
        """The work of a step, in a folder of its own."""
        folder = self._work.scratch / name
        folder.mkdir(parents=True, exist_ok=True)
        return replace(self._work, scratch=folder, **{"blocks": NoBlocks(), **members})

    def _results(self, turn: Turn) -> Iterator[Event]:
        folder = self._work.scratch / "result"
        folder.mkdir(parents=True, exist_ok=True)
        origin = {
            "generated": True,
            "engine": self._engine,
            "version": self._version,
            "model": turn.model,
            "voices": [turn.voice] if turn.voice else [],
            "job": self._work.job_id,
        }
        document = json.dumps(history.document([*self._turns, turn], origin), ensure_ascii=False)
        spoken = {"generated": False, "spoken": self._recording is not None}
        for name, filename, media, role, content, meta in (
            ("question", "question.txt", "text/plain", "text", turn.question + "\n", spoken),
            ("answer", "answer.txt", "text/plain", "text", turn.answer + "\n", {"provenance": origin}),
            (
                "conversation", "conversation.json", "application/json", "conversation", document,
                {"turns": len(self._turns) + 1, "provenance": origin},
            ),
        ):  # fmt: skip
            path = folder / filename
            path.write_text(content, encoding="utf-8")
            yield Artifact(name, path, media, role, meta)
        yield Metrics(self._figures)


def _turns(source: Source) -> list[Turn]:
    """Of an earlier job's document."""
    return [Turn.of(value) for value in json.loads(source.path.read_text())["turns"]]


def _figures(answer: Answer, seconds: float) -> dict[str, Any]:
    return {
        "model": answer.model,
        "cut": answer.cut,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "seconds": round(seconds, 3),
    }
