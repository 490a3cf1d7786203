"""The models of every request: what the API validates, the OpenAPI document shows and the engines receive."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter

from common.engines import Kind
from common.params.base import Callback, Input, MediaRequest, Params, Request, Strict, sources_of
from common.params.separation import AudioOutput, Prompt, SeparationParams, SeparationRequest

__all__ = [
    "AudioOutput", "Callback", "Input", "JobRequest", "MediaRequest", "Params", "Prompt", "Request",
    "SeparationParams", "SeparationRequest", "Strict", "parse_request", "sources_of",
]  # fmt: skip


def _kind(value: Any) -> Any:
    """A request that does not say its kind asks for separation."""
    return value.get("kind", Kind.SEPARATION) if isinstance(value, dict) else getattr(value, "kind", Kind.SEPARATION)


JobRequest = Annotated[
    Annotated[SeparationRequest, Tag(Kind.SEPARATION)],
    Discriminator(_kind),
]
"""The request of any kind, told apart by `kind`; to be validated through `parse_request` or a TypeAdapter."""

_adapter: TypeAdapter[Request] = TypeAdapter(JobRequest)


def parse_request(value: Any) -> Request:
    """The request in `value`, as JSON gives it. Raises pydantic's ValidationError."""
    return _adapter.validate_python(value)
