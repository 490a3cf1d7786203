"""Every error a user can meet: one class, one catalogue of stable codes.

An error is raised where it is known, with what to do next; one handler turns it into HTTP (`api.problems`), another
into a job's `error` (`worker.outcome`). What is not in the catalogue is a bug and becomes `internal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Code:
    """What a stable code means everywhere: its HTTP status, a title, and whether trying again can help."""

    status: int
    title: str
    retryable: bool = False


CATALOGUE: dict[str, Code] = {
    # The request
    "malformed_json": Code(400, "The body is not valid JSON"),
    "invalid_request": Code(422, "The request does not fit the schema"),
    "invalid_cursor": Code(400, "The cursor is not one this service gave"),
    "unauthenticated": Code(401, "No valid API key was sent"),
    "forbidden": Code(403, "The API key lacks the scope for this"),
    "not_found": Code(404, "There is no such thing, or it is not yours"),
    "method_not_allowed": Code(405, "The method is not allowed here"),
    "link_expired": Code(403, "The link has expired or is not one this service signed"),
    "length_required": Code(411, "The length of the body must be declared"),
    "too_large": Code(413, "More bytes than allowed"),
    "unsupported_media_type": Code(415, "The content type is not supported here"),
    "range_not_satisfiable": Code(416, "The range lies outside the file"),
    "idempotency_mismatch": Code(422, "The Idempotency-Key was used with another body"),
    "state_conflict": Code(409, "The job is not in a state that allows this"),
    "upload_incomplete": Code(409, "The upload has no content yet"),
    "quota_exceeded": Code(429, "The key's quota is used up", retryable=True),
    "unavailable": Code(503, "A part this needs is not reachable", retryable=True),
    "internal": Code(500, "Something went wrong on our side", retryable=True),
    # Batches and schedules
    "invalid_window": Code(422, "The window cannot be read"),
    "invalid_schedule": Code(422, "The schedule cannot be read"),
    "invalid_template": Code(422, "The naming template cannot be used"),
    "invalid_pattern": Code(422, "The pattern cannot be used"),
    "invalid_feed": Code(422, "The feed cannot be read"),
    "invalid_manifest": Code(422, "A line of the manifest cannot be read"),
    "unknown_preset": Code(422, "There is no preset of that name"),
    # Engines
    "unknown_engine": Code(422, "There is no engine of that name"),
    "engine_unsupported": Code(422, "The engine cannot do what was asked"),
    "engine_not_ready": Code(503, "The engine is not ready on any worker", retryable=True),
    "engine_failed": Code(500, "The engine failed"),
    "engine_stalled": Code(500, "The engine made no progress within the stall limit", retryable=True),
    "weights_missing": Code(503, "The weights of the engine are not where they should be"),
    "weights_refused": Code(503, "The weights are gated and access was refused"),
    "weights_invalid": Code(503, "The weights do not fit the network"),
    "device_missing": Code(503, "The engine needs a card and none is there"),
    "gpu_oom": Code(500, "The card's memory does not suffice, even at the smallest batch"),
    # Voices
    "voice_missing": Code(422, "The voice cannot be found"),
    "voice_not_ready": Code(409, "The voice is not ready to speak"),
    "no_speech": Code(422, "The recording has no speech"),
    "too_short": Code(422, "The audio is shorter than needed"),
    # The language model
    "llm_unreachable": Code(502, "The language model does not answer", retryable=True),
    "llm_too_slow": Code(504, "The language model did not answer in time", retryable=True),
    "llm_refused": Code(502, "The language model refused the question"),
    "llm_failed": Code(502, "The language model gave no answer", retryable=True),
    # Inputs
    "input_missing": Code(422, "The input cannot be found"),
    "input_altered": Code(422, "The input is not what its declared digest says"),
    "input_unreachable": Code(502, "The input could not be fetched", retryable=True),
    "input_refused": Code(422, "The server refused to give the input"),
    "input_too_slow": Code(504, "The input did not arrive in time", retryable=True),
    "url_forbidden": Code(422, "The address is not one this service may contact"),
    "bucket_forbidden": Code(422, "The bucket is not one this service may use"),
    # Delivery of results
    "target_exists": Code(409, "Something else lies where a result is to be delivered"),
    "delivery_refused": Code(403, "The bucket does not take the results"),
    # Media
    "empty_input": Code(422, "The input is empty"),
    "unsupported_media": Code(422, "The input is not media this service reads"),
    "no_audio": Code(422, "The input has no audio track"),
    "no_samples": Code(422, "The audio has no samples"),
    "corrupt_media": Code(422, "The input cannot be decoded"),
    "non_finite_samples": Code(422, "The audio holds samples that are not numbers"),
    "too_many_channels": Code(422, "The audio has more channels than allowed"),
    "unsupported_rate": Code(422, "The sample rate is outside the range this service reads"),
    "too_long": Code(422, "The audio is longer than allowed"),
    "span_outside": Code(422, "A time span lies beyond the end of the audio"),
    "too_many_pixels": Code(422, "The image has more pixels than allowed"),
    "image_too_small": Code(422, "The image is too small or too narrow"),
    "invalid_prompt": Code(422, "A prompt does not fit the image"),
    "unsupported_output": Code(422, "The output format cannot hold this audio"),
    "decoder_crashed": Code(422, "The decoder crashed on this input"),
    # The life of a job
    "worker_crashed": Code(500, "The worker died on this job again and again"),
    "attempts_exhausted": Code(500, "Every attempt failed"),
    "upstream_failed": Code(424, "A job this one waits for did not succeed"),
    "storage_failed": Code(503, "The storage could not be read or written", retryable=True),
    "deadline_passed": Code(410, "The deadline passed before the job could start"),
    "cancelled": Code(409, "The job was cancelled"),
}


class NightshiftError(Exception):
    """An error with a stable code.

    detail: one sentence about this case.  hint: what to do next.  pointer: JSON pointer to the offending field of the
    request.  retryable: overrides the catalogue where the case is known better.  extra: further members for machines.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        hint: str = "",
        pointer: str | None = None,
        retryable: bool | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        spec = CATALOGUE[code]
        super().__init__(f"{code}: {detail or spec.title}")
        self.code = code
        self.status = spec.status
        self.title = spec.title
        self.detail = detail or spec.title
        self.hint = hint
        self.pointer = pointer
        self.retryable = spec.retryable if retryable is None else retryable
        self.extra = dict(extra or {})

    def as_job_error(self) -> dict[str, Any]:
        """The `error` member of a failed job."""
        error: dict[str, Any] = {"code": self.code, "message": self.detail, "retryable": self.retryable}
        if self.hint:
            error["hint"] = self.hint
        if self.pointer is not None:
            error["pointer"] = self.pointer
        return {**error, **self.extra}
