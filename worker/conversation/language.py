"""What a language model is, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Message:
    """role: `system` for instructions, `user` for questions, `assistant` for answers."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Answer:
    """model: what answered, by its own name.  cut: it reached the longest answer before its end."""

    text: str
    model: str
    cut: bool = False
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class LanguageModel(Protocol):
    """name: of the model.  version: changes whenever it would answer otherwise, as far as that can be known."""

    name: str
    version: str

    def answer(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float | None, check: Callable[[], None]
    ) -> Answer:
        """Calls `check` at least every second. Raises `llm_*`, or what `check` raises."""
        ...

    def memory_bytes(self) -> int: ...

    def close(self) -> None: ...
