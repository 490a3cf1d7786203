"""The models of every request: what the API validates, the OpenAPI document shows and the engines receive."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter

from common.engines import Kind
from common.params.base import Callback, Input, MediaRequest, Params, Request, Strict, sources_of
from common.params.conversation import ConversationParams, ConversationRequest
from common.params.segmentation import (
    Automatic,
    Rle,
    SegmentationParams,
    SegmentationPrompt,
    SegmentationRequest,
)
from common.params.separation import AudioOutput, Prompt, SeparationParams, SeparationRequest
from common.params.transcription import TranscriptionParams, TranscriptionRequest
from common.params.tts import TtsParams, TtsRequest
from common.params.voice import VoiceParams, VoiceRequest

__all__ = [
    "TO_COME", "AudioOutput", "Automatic", "Callback", "ConversationParams", "ConversationRequest", "Input",
    "JobRequest", "MediaRequest", "Params", "Prompt", "Request", "Rle", "SegmentationParams", "SegmentationPrompt",
    "SegmentationRequest", "SeparationParams", "SeparationRequest", "Strict", "TranscriptionParams",
    "TranscriptionRequest", "TtsParams", "TtsRequest", "VoiceParams", "VoiceRequest", "parse_request", "sources_of",
]  # fmt: skip


def _kind(value: Any) -> Any:
    """A request that does not say its kind asks for separation."""
    return value.get("kind", Kind.SEPARATION) if isinstance(value, dict) else getattr(value, "kind", Kind.SEPARATION)


JobRequest = Annotated[
    Annotated[SeparationRequest, Tag(Kind.SEPARATION)]
    | Annotated[SegmentationRequest, Tag(Kind.SEGMENTATION)]
    | Annotated[TtsRequest, Tag(Kind.TTS)]
    | Annotated[TranscriptionRequest, Tag(Kind.TRANSCRIPTION)]
    | Annotated[ConversationRequest, Tag(Kind.CONVERSATION)],
    Discriminator(_kind),
]
"""What a caller may ask for, told apart by `kind`; to be validated through `parse_request` or a TypeAdapter."""

TO_COME = frozenset({"missing", "too_short"})
"""Types of pydantic's errors that are none of a part of a request: another part may say what is missing."""

_adapter: TypeAdapter[Request] = TypeAdapter(JobRequest)


def parse_request(value: Any) -> Request:
    """The request in `value`, as JSON gives it, also of a kind that only the service itself submits.

    Raises pydantic's ValidationError.
    """
    if _kind(value) == Kind.VOICE:
        return VoiceRequest.model_validate(value)
    return _adapter.validate_python(value)
