"""The models of every request: what the API validates, the OpenAPI document shows and the engines receive."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from common.engines import Kind
from common.params.base import Callback, Input, Params, Request, Strict
from common.params.separation import AudioOutput, Prompt, SeparationParams, SeparationRequest

__all__ = [
    "PARAMS", "AudioOutput", "Callback", "Input", "JobRequest", "Params", "Prompt", "Request", "SeparationParams",
    "SeparationRequest", "Strict", "parse_request",
]  # fmt: skip

JobRequest = SeparationRequest
"""The request of any kind, told apart by `kind`; to be validated through `parse_request` or a TypeAdapter."""

PARAMS: dict[Kind, type[Params]] = {Kind.SEPARATION: SeparationParams}

_adapter: TypeAdapter[Request] = TypeAdapter(JobRequest)


def parse_request(value: Any) -> Request:
    """The request in `value`, as JSON gives it. Raises pydantic's ValidationError."""
    return _adapter.validate_python(value)
