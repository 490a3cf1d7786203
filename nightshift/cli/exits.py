"""Exit statuses of the command, and one place that turns exceptions into them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from common.errors import NightshiftError
from nightshift.errors import ApiError, JobEnded, NightshiftClientError, Unreachable

OK = 0
JOB_ENDED = 1  # the job failed, was cancelled or expired; doctor found a problem
USAGE = 2
REFUSED = 3  # the service refused the request
UNREACHABLE = 4  # the service does not answer, or is at fault itself
TIMED_OUT = 5
INTERRUPTED = 130

_errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def told(as_json: bool) -> Iterator[None]:
    """Tells what went wrong, on standard error, and ends the process with the right status."""
    try:
        yield
    except JobEnded as error:
        _tell(as_json, JOB_ENDED, error.error or {"code": error.state, "message": str(error)}, str(error))
    except ApiError as error:
        status = UNREACHABLE if error.status >= 500 else REFUSED
        where = f" (at {error.pointer})" if error.pointer and not error.detail.startswith(error.pointer) else ""
        _tell(as_json, status, error.problem, f"{error.detail}{where}", error.hint)
    except Unreachable as error:
        _tell(
            as_json,
            UNREACHABLE,
            {"code": "unreachable", "message": str(error)},
            str(error),
            "Is it running? nightshift up",
        )
    except TimeoutError as error:
        _tell(as_json, TIMED_OUT, {"code": "timed_out", "message": str(error)}, str(error))
    except NightshiftError as error:
        _tell(as_json, REFUSED, error.as_job_error(), error.detail, error.hint)
    except (NightshiftClientError, OSError, KeyError) as error:
        said = _said(error)
        _tell(as_json, USAGE, {"code": "usage", "message": said}, said)
    except SQLAlchemyError as error:
        said = f"The database: {str(getattr(error, 'orig', None) or error).strip().splitlines()[0]}"
        _tell(as_json, UNREACHABLE, {"code": "unavailable", "message": said}, said, "What is wrong? nightshift doctor")
    except KeyboardInterrupt:
        _errors.print("Interrupted.")
        sys.exit(INTERRUPTED)


def _tell(as_json: bool, status: int, problem: Mapping[str, Any], said: str, hint: str | None = None) -> None:
    if as_json:
        print(json.dumps({"error": problem}, ensure_ascii=False), file=sys.stderr)  # noqa: T201
    else:
        code = problem.get("code")
        # What never changes its meaning, to be looked up or reported; the sentence may say it already.
        named = f"  [{code}]" if code and code != "usage" and code not in said else ""
        _errors.print(Text.assemble(("error", "bold red"), f": {said}", (named, "dim")))
        if hint:
            _errors.print(Text(f"  {hint}", "dim"))
    sys.exit(status)


def _said(error: Exception) -> str:
    """Without Python's wrapping: no quotes around a KeyError's sentence, no number before that of an OSError."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error.args[0]) if isinstance(error, KeyError) else str(error)
