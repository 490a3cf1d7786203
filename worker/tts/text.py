"""The text of a job that reads it from a file."""

from __future__ import annotations

from typing import cast

from pydantic import ValidationError

from common.errors import NightshiftError
from common.params import TtsParams
from common.params.tts import LONGEST_TEXT
from worker.engine import Work

_MOST_BYTES = 4 * LONGEST_TEXT


def written(work: Work) -> TtsParams:
    """The job's parameters, with the text of its source where it has one.

    Raises `too_large`, `unsupported_media` for what is no text in UTF-8, `empty_input` where nothing can be spoken.
    """
    params = cast(TtsParams, work.params)
    if not work.sources:
        return params
    with work.source.path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) > _MOST_BYTES:
            raise _too_long() from error
        raise NightshiftError(
            "unsupported_media",
            f"{work.source.filename} is not plain text in UTF-8.",
            hint="Send a text file; of a transcription, name its output `text`.",
            pointer="/input",
        ) from error
    if len(text) > LONGEST_TEXT:
        raise _too_long()
    try:
        return TtsParams.model_validate({**params.model_dump(), "text": text.replace("\0", " ")})
    except ValidationError as error:
        raise NightshiftError(
            "empty_input", f"{work.source.filename} has nothing to speak: no letter and no digit.", pointer="/input"
        ) from error


def _too_long() -> NightshiftError:
    return NightshiftError(
        "too_large",
        f"The text is longer than {LONGEST_TEXT} characters.",
        hint="Cut it into several jobs.",
        pointer="/input",
    )
