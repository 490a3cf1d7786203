"""A language model behind the OpenAI chat interface, as vLLM, llama.cpp and Ollama serve it.

https://platform.openai.com/docs/api-reference/chat: the few members that all of them understand. The connection is
closed when the job must stop, by which such servers know that nobody waits for the answer any more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError

from common.errors import NightshiftError
from worker.conversation.language import Answer, Message
from worker.engine import LanguageServer

_LOOK_SECONDS = 0.25
_CONNECT_SECONDS = 10.0
_MOST_BYTES = 4 << 20
_SHOWN = 300


class _Said(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Said
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: _Usage | None = None


class ServedModel:
    """`worker.conversation.language.LanguageModel` over HTTP."""

    def __init__(self, server: LanguageServer) -> None:
        self._server = server
        self.name = server.model
        # What lies behind the address may change without a sign; the address and the name are all that is known.
        self.version = hashlib.sha256(f"{server.url} {server.model}".encode()).hexdigest()[:16]

    def answer(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float | None, check: Callable[[], None]
    ) -> Answer:
        """Raises `llm_unreachable`, `llm_too_slow`, `llm_refused`, `llm_failed`, or what `check` raises."""
        body: dict[str, Any] = {
            "model": self._server.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": max_tokens,
            "stream": False,
        }
        if temperature is not None:
            body["temperature"] = temperature
        try:
            status, content = asyncio.run(self._post(body, check))
        except TimeoutError as error:
            raise NightshiftError(
                "llm_too_slow",
                f"{self._where} gave no answer within {self._server.seconds:g} s.",
                hint="Ask for a shorter answer, or let the operator raise NIGHTSHIFT_LLM_TIMEOUT_SECONDS.",
            ) from error
        except httpx.HTTPError as error:
            raise NightshiftError(
                "llm_unreachable",
                f"{self._where} does not answer: {self._masked(str(error)) or type(error).__name__}",
                hint="Start the language model's server, or correct NIGHTSHIFT_LLM_URL; see nightshift doctor.",
            ) from error
        if status != 200:
            raise self._refused(status, content)
        return self._read(content)

    async def _post(self, body: dict[str, Any], check: Callable[[], None]) -> tuple[int, bytes]:
        """Asks, and looks meanwhile whether the answer is still wanted."""
        asked = asyncio.create_task(self._exchange(body))
        try:
            async with asyncio.timeout(self._server.seconds):
                while not asked.done():
                    await asyncio.wait({asked}, timeout=_LOOK_SECONDS)
                    check()
            return asked.result()
        finally:
            asked.cancel()
            await asyncio.wait({asked})

    async def _exchange(self, body: dict[str, Any]) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self._server.key}"} if self._server.key else {}
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        # No proxy from the environment: the operator has named this address.
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=False) as client,
            client.stream("POST", f"{self._server.url}/chat/completions", json=body, headers=headers) as response,
        ):
            content = bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MOST_BYTES:
                    raise NightshiftError(
                        "llm_failed", f"{self._where} answers with more than {_MOST_BYTES >> 20} MB.", retryable=False
                    )
            return response.status_code, bytes(content)

    def _read(self, content: bytes) -> Answer:
        try:
            completion = _Completion.model_validate_json(content)
        except ValidationError as error:
            raise NightshiftError(
                "llm_failed",
                f"{self._where} answers in another form than the chat interface: {self._shown(content)}",
                hint="Is NIGHTSHIFT_LLM_URL the base of an OpenAI-like interface, usually ending with /v1?",
                retryable=False,
            ) from error
        choice, usage = completion.choices[0], completion.usage or _Usage()
        return Answer(
            choice.message.content or "",
            completion.model or self.name,
            choice.finish_reason == "length",
            usage.prompt_tokens,
            usage.completion_tokens,
        )

    def _refused(self, status: int, content: bytes) -> NightshiftError:
        said = f"{self._where} answers {status}: {self._shown(content)}"
        if status in (408, 429) or status >= 500:
            return NightshiftError("llm_failed", said, hint="Look at that server's log.")
        hints = {
            401: "Set NIGHTSHIFT_LLM_API_KEY to a key that this server takes.",
            403: "Set NIGHTSHIFT_LLM_API_KEY to a key that may use this model.",
            404: "Set NIGHTSHIFT_LLM_MODEL to a model it has, and NIGHTSHIFT_LLM_URL to its base, usually /v1.",
        }
        return NightshiftError(
            "llm_refused", said, hint=hints.get(status, "Ask less at once: fewer `history_turns`, a shorter question.")
        )

    @property
    def _where(self) -> str:
        """The server by its name and port: a path or a password is nobody's business."""
        url = httpx.URL(self._server.url)
        return f"The language model at {url.host}{f':{url.port}' if url.port else ''}"

    def _shown(self, content: bytes) -> str:
        return self._masked(" ".join(content[:4000].decode(errors="replace").split())[:_SHOWN])

    def _masked(self, text: str) -> str:
        return text.replace(self._server.key, "…") if self._server.key else text

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass
