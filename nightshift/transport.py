"""HTTP to the service: bearer key, problem documents as exceptions, and again where that is safe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from nightshift.errors import ApiError, NightshiftClientError, Unreachable
from nightshift.place import Place

ATTEMPTS = 5
_AGAIN = frozenset({429, 502, 503, 504})
_WAIT = wait_random_exponential(0.2, 8)
# Who is asked to wait longer is told so instead.
LONGEST_WAIT = 30.0


class Transport:
    """One connection pool to one service."""

    def __init__(self, place: Place, timeout: float) -> None:
        self.place = place
        self._http = httpx.Client(
            base_url=place.url,
            headers={"Authorization": f"Bearer {place.api_key}", "Accept": "application/json"},
            timeout=httpx.Timeout(timeout, connect=10.0),
            follow_redirects=False,
        )
        # For links and presigned addresses: the API key is not for them.
        self.plain = httpx.Client(timeout=httpx.Timeout(timeout, connect=10.0), follow_redirects=True)

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The answer's JSON, None where it has none. Raises ApiError, Unreachable.

        repeatable: whether the request may be sent twice; by default all but POST.
        """
        safe = method != "POST" if repeatable is None else repeatable
        more: dict[str, Any] = {} if timeout is None else {"timeout": timeout}

        def once() -> Any:
            try:
                response = self._http.request(
                    method, path, params=_present(params), json=body, headers=dict(headers or {}), **more
                )
            except httpx.HTTPError as error:
                raise Unreachable(f"{self.place.url} does not answer: {error or type(error).__name__}") from error
            except ValueError as error:
                raise NightshiftClientError(f"the request is no JSON (NaN and infinity are not): {error}") from error
            return read(response)

        return Retrying(
            retry=retry_if_exception(_passing if safe else _never_arrived),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            reraise=True,
        )(once)

    def lines(self, path: str) -> Iterator[Any]:
        """The answer's lines of JSON, as they come. Raises ApiError, Unreachable."""
        try:
            with self._http.stream("GET", path, headers={"Accept": "application/x-ndjson"}) as response:
                if response.status_code >= 400:
                    response.read()
                    read(response)
                for line in response.iter_lines():
                    if line:
                        yield json.loads(line)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.place.url} does not answer: {error or type(error).__name__}") from error

    def close(self) -> None:
        self._http.close()
        self.plain.close()


def read(response: httpx.Response) -> Any:
    """The JSON of a good answer; ApiError for any other."""
    if response.status_code >= 400:
        try:
            problem = response.json()
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        if "Retry-After" in response.headers:
            problem.setdefault("retry_after", response.headers["Retry-After"])
        raise ApiError(response.status_code, problem)
    return response.json() if response.content else None


def _present(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {name: value for name, value in params.items() if value is not None} if params else None


def _passing(error: BaseException) -> bool:
    if isinstance(error, ApiError):
        return error.status in _AGAIN and _soon(error)
    return isinstance(error, Unreachable)


def _never_arrived(error: BaseException) -> bool:
    if isinstance(error, ApiError):
        return error.status == 429 and _soon(error)
    return isinstance(error.__cause__, httpx.ConnectError)


def _soon(error: ApiError) -> bool:
    """Whether waiting may help: a quota of bytes needs its owner, one of hours the next day."""
    asked = str(error.problem.get("retry_after") or 0)
    return error.problem.get("retryable") is not False and (not asked.isdigit() or int(asked) <= LONGEST_WAIT)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.problem.get("retry_after") if isinstance(error, ApiError) else None
    return min(LONGEST_WAIT, float(asked)) if asked is not None and str(asked).isdigit() else _WAIT(state)
