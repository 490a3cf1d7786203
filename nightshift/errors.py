"""What can go wrong for a caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NightshiftClientError(Exception):
    """Base of all that the client raises."""


class Unreachable(NightshiftClientError):
    """The service does not answer."""


class ApiError(NightshiftClientError):
    """The service refused. `code` never changes its meaning; `hint` says what to do; `pointer` names the member."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", "unknown"))
        self.detail = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
        self.hint: str | None = problem.get("hint")
        self.pointer: str | None = problem.get("pointer")
        self.retryable = bool(problem.get("retryable", status >= 500))
        self.request_id: str | None = problem.get("request_id")
        super().__init__(f"{self.code}: {self.detail}" + (f" {self.hint}" if self.hint else ""))


class JobEnded(NightshiftClientError):
    """The job ended without a result. error: its `error`, None for a cancelled job."""

    def __init__(self, job_id: str, state: str, error: Mapping[str, Any] | None) -> None:
        self.job_id = job_id
        self.state = state
        self.error = dict(error) if error else None
        told = f": {error['code']}: {error['message']}" if error else ""
        hint = f" {error['hint']}" if error and error.get("hint") else ""
        super().__init__(f"{job_id} {state}{told}{hint}")
