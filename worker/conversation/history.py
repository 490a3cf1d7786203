"""Pure: what was said in a conversation, as its document keeps it and as a language model is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.conversation.language import Message


@dataclass(frozen=True)
class Turn:
    """A question and its answer. spoken: the answer as it was read aloud.  voice: it was read in.  model: that gave it.
    job: that made the turn."""

    question: str
    answer: str
    spoken: str
    voice: str | None
    model: str
    job: str

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Turn:
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


def document(turns: Sequence[Turn], origin: Mapping[str, Any]) -> dict[str, Any]:
    """`turns`, the earliest first, and `provenance`."""
    return {"turns": [asdict(turn) for turn in turns], "provenance": dict(origin)}


def messages(instructions: str, earlier: Sequence[Turn], question: str, most: int) -> list[Message]:
    """What a model is told: the instructions, at most `most` earlier turns, the question."""
    told = [Message("system", instructions)] if instructions.strip() else []
    for turn in earlier[max(0, len(earlier) - most) :]:
        told += [Message("user", turn.question), Message("assistant", turn.answer)]
    return [*told, Message("user", question)]


_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*```.*$", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_LEAD = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|[-*+•][ \t]+)", re.MULTILINE)
_MARK = re.compile(r"(\*\*|__|\*|`|~~)(?=\S)(.+?)(?<=\S)\1")


def answered(text: str) -> str:
    """An answer without what the model thought aloud before it."""
    return _THOUGHT.sub("", text).strip()


def spoken(text: str) -> str:
    """An answer as it is to be read aloud: without the signs of Markdown, which models use whatever they are told."""
    text = _LEAD.sub("", _LINK.sub(r"\1", _FENCE.sub("", text)))
    before = None
    while before != text:
        before, text = text, _MARK.sub(r"\2", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
