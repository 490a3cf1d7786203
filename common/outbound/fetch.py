"""An input fetched by URL into a file: guarded, capped, resumed where the connection breaks, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx

from common.errors import NightshiftError
from common.outbound.backoff import retry_after
from common.outbound.deadline import Deadline, DeadlinePassed
from common.outbound.encoding import Corrupt, UnknownEncoding, decoded, is_identity
from common.outbound.guard import Guard, forbidden, shown
from common.outbound.headers import Fetched, content_range, describe, encoding, version
from common.outbound.transport import FAILURES, exchange

# Podcast enclosures pass through chains of trackers.
MAX_REDIRECTS = 10
MAX_RESUMES = 8
SILENCE_SECONDS = 60.0
_REPORT_SECONDS = 0.5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})


class NotModified(Exception):
    """The file is still of the version that the caller has."""


def fetch(
    url: str,
    target: Path,
    *,
    max_bytes: int,
    deadline_seconds: float,
    allow_hosts: Iterable[str] = (),
    etag: str | None = None,
    last_modified: str | None = None,
    check: Callable[[], None] = lambda: None,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    silence_seconds: float = SILENCE_SECONDS,
) -> Fetched:
    """Fetches `url` into `target`, which appears whole or not at all (`target`.part while it grows).

    A connection that breaks inside the body is resumed where the server names the version of what it sends, else begun
    again, MAX_RESUMES times at most. A body that ends with its connection, with neither length nor chunks, over plain
    http is the one kind whose early end cannot be told.

    deadline_seconds: for everything together.  silence_seconds: longest wait for the next byte.
    check: called about twice a second, in this thread; what it raises ends the fetch.
    on_progress: bytes so far and in all (None: unknown), about twice a second and at the end.
    etag, last_modified: of an earlier fetch, as the server gave them; NotModified is raised if they still hold.
    Raises `url_forbidden`, `too_large`, `input_too_slow`, `input_refused` (the server's answer is final),
    `input_unreachable` (retryable), and OSError where the file cannot be written.
    """
    guard = Guard(allow_hosts)
    checked = guard.check_url(url)
    deadline = Deadline(deadline_seconds, check)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb") as file:
            known = {"If-None-Match": etag} if etag else {"If-Modified-Since": last_modified} if last_modified else {}
            download = _Download(checked, file, guard, deadline, max_bytes, on_progress, silence_seconds, known)
            fetched = download.run()
        part.replace(target)
        return fetched
    except DeadlinePassed as error:
        raise NightshiftError(
            "input_too_slow",
            f"{shown(checked)} did not arrive within {deadline_seconds:g} s.",
            hint="Use a faster server, or upload the input.",
        ) from error
    finally:
        part.unlink(missing_ok=True)


class _Download:
    """The state that outlives a broken connection: how much is on disk, and of which version."""

    def __init__(
        self,
        url: httpx.URL,
        file: BinaryIO,
        guard: Guard,
        deadline: Deadline,
        max_bytes: int,
        on_progress: Callable[[int, int | None], None],
        silence_seconds: float,
        known: dict[str, str],
    ) -> None:
        self._url = url
        self._known = known
        self._file = file
        self._guard = guard
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._on_progress = on_progress
        self._silence_seconds = silence_seconds
        self._done = 0
        self._total: int | None = None
        self._version: str | None = None
        self._begun = False
        self._reported = deadline.tick()

    def run(self) -> Fetched:
        resumes = 0
        while True:
            try:
                return self._pull()
            except NightshiftError as error:
                # Before the body began the job's own backoff decides; a fetch only mends what it has begun.
                if error.code != "input_unreachable" or not self._begun or resumes == MAX_RESUMES:
                    raise
                resumes += 1
                self._deadline.sleep(min(8.0, 0.1 * 2**resumes))

    def _pull(self) -> Fetched:
        known = {} if self._begun else self._known
        resume = {}
        if self._done and self._version:
            resume = {"Range": f"bytes={self._done}-", "If-Range": self._version}
        try:
            with self._open(known | resume) as (url, response):
                self._begin(url, response, resuming=bool(resume))
                self._read(url, response)
                self._report(final=True)
                return describe(self._done, url, response)
        except FAILURES as error:
            raise self._unreachable(f"{shown(self._url)}: {error or 'the connection broke'}.") from error

    @contextmanager
    def _open(self, headers: dict[str, str]) -> Iterator[tuple[httpx.URL, httpx.Response]]:
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            with exchange(
                "GET",
                url,
                guard=self._guard,
                deadline=self._deadline,
                headers=headers,
                silence_seconds=self._silence_seconds,
            ) as response:
                if response.status_code not in _REDIRECTS:
                    yield url, response
                    return
                url = self._follow(url, response)
        raise self._refused(f"{shown(self._url)} redirects more than {MAX_REDIRECTS} times.", response)

    def _follow(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        location = response.headers.get("location")
        if not location:
            raise self._refused(f"{shown(url)} redirects to nowhere.", response)
        try:
            following = url.join(location)
        except httpx.InvalidURL as error:
            raise forbidden(f"{shown(url)} redirects to what is not a URL.") from error
        following = self._guard.check_url(str(following))
        if url.scheme == "https" and following.scheme == "http":
            raise forbidden(f"{shown(url)} redirects from https to http.")
        return following

    def _begin(self, url: httpx.URL, response: httpx.Response, *, resuming: bool) -> None:
        """Judges status and headers, and puts the file where the body goes on."""
        status = response.status_code
        length = int(response.headers["content-length"]) if "content-length" in response.headers else None
        if status == 206 and resuming:
            span = content_range(response)
            if span is None or not self._continues(response, *span):
                self._version = None
                raise self._unreachable(f"{shown(url)} did not resume where it was asked to.")
            self._total = span[1] or self._total
        elif status == 200:
            self._done = 0
            self._file.seek(0)
            self._file.truncate()
            self._total = length if is_identity(encoding(response)) else None
            self._version = version(response)
            self._begun = True
        elif status == 416 and resuming:
            self._version = None
            raise self._unreachable(f"{shown(url)} changed while it was fetched.")
        elif status == 304 and self._known and not self._begun:
            raise NotModified(shown(url))
        elif status >= 500 or status in _PASSING:
            raise self._unreachable(f"{shown(url)} answered {status}.", response)
        else:
            raise self._refused(f"{shown(url)} answered {status}.", response)
        if max(length or 0, self._total or 0) > self._max_bytes:
            raise self._too_large(url)

    def _continues(self, response: httpx.Response, first: int, total: int | None) -> bool:
        """Whether a partial body is the rest of what is on disk: some servers resume without regard to If-Range."""
        return (
            first == self._done
            and is_identity(encoding(response))
            and (total is None or self._total is None or total == self._total)
            and version(response) in (None, self._version)
        )

    def _read(self, url: httpx.URL, response: httpx.Response) -> None:
        try:
            for piece in decoded(response.iter_raw(), encoding(response)):
                self._done += len(piece)
                if self._done > self._max_bytes:
                    raise self._too_large(url)
                self._file.write(piece)
                self._report()
        except UnknownEncoding as error:
            detail = f"{shown(url)} came encoded as {error}, although identity was asked."
            raise self._refused(detail, response) from error
        except Corrupt as error:
            raise self._refused(f"{shown(url)} cannot be decoded: {error}.", response) from error
        if self._total is not None and self._done != self._total:
            raise self._unreachable(f"{shown(url)} ended after {self._done} of {self._total} bytes.")

    def _report(self, *, final: bool = False) -> None:
        left = self._deadline.tick()
        if final or self._reported - left >= _REPORT_SECONDS:
            self._reported = left
            self._on_progress(self._done, self._total)

    def _too_large(self, url: httpx.URL) -> NightshiftError:
        return NightshiftError("too_large", f"{shown(url)} is larger than the {self._max_bytes} bytes allowed.")

    def _refused(self, detail: str, response: httpx.Response) -> NightshiftError:
        hint = "Check that the URL gives the file to anyone who has it, or upload the input."
        return NightshiftError("input_refused", detail, hint=hint, extra={"upstream_status": response.status_code})

    def _unreachable(self, detail: str, response: httpx.Response | None = None) -> NightshiftError:
        extra: dict[str, int | float] = {}
        if response is not None:
            extra["upstream_status"] = response.status_code
            wait = retry_after(response.headers.get("retry-after"))
            if wait is not None:
                extra["retry_after"] = wait
        return NightshiftError("input_unreachable", detail, extra=extra)
