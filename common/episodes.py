"""Pure: the episodes of a podcast, and which of them are wanted."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import re2
from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_EPISODES = 50_000
_MAX_PATTERN = 500
_PATTERN_BYTES = 1 << 20


class Why(StrEnum):
    """Why an item of a feed is left out. CUT: the feed ends in the middle of it, or of what should follow."""

    NO_ENCLOSURE = "no_enclosure"
    NOT_AUDIO = "not_audio"
    BAD_URL = "bad_url"
    CUT = "cut"
    DUPLICATE = "duplicate_guid"
    KNOWN = "taken_before"
    NO_DATE = "no_date"
    BEFORE = "before_since"
    AFTER = "after_until"
    TITLE = "title_differs"
    COUNT = "beyond_count"


@dataclass(frozen=True)
class Episode:
    """position: in the feed, from 1.  guid: the feed's own, else the enclosure's address.  published: UTC.

    type: as the feed says, lower case; empty for none.  length: bytes, seconds: duration; as the feed says, not as is.
    """

    position: int
    guid: str
    title: str
    published: datetime | None
    url: str
    type: str
    length: int | None
    seconds: int | None
    number: int | None
    show: str

    def fields(self) -> dict[str, str]:
        """What fills a naming template."""
        fields = {"show": self.show, "title": self.title, "guid": self.guid}
        if self.published:
            day = self.published.date()
            fields |= {"date": day.isoformat(), "year": f"{day.year:04}", "month": f"{day.month:02}"}
        if self.number is not None:
            fields["number"] = str(self.number)
        return fields


@dataclass(frozen=True)
class Skipped:
    """position: in the feed, from 1.  detail: a sentence, where the reason alone does not say enough."""

    position: int
    guid: str
    title: str
    why: Why
    detail: str = ""


@dataclass(frozen=True)
class Feed:
    """In the order of the feed."""

    show: str
    episodes: tuple[Episode, ...]
    skipped: tuple[Skipped, ...]


class Wanted(BaseModel):
    """Which episodes of a feed to take; all conditions together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: date | None = Field(None, description="First day of publication, UTC")
    until: date | None = Field(None, description="Last day of publication, UTC")
    title: str | None = Field(None, min_length=1, max_length=200, description="Part of the title, whatever its case")
    title_regex: str | None = Field(
        None, min_length=1, max_length=_MAX_PATTERN, description="RE2 expression found in the title, whatever its case"
    )
    count: int | None = Field(None, ge=1, le=MAX_EPISODES, description="At most this many, the newest")

    @field_validator("title_regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            _pattern(value)
        return value


def select(feed: Feed, wanted: Wanted, known: Collection[str] = ()) -> Feed:
    """The feed with the wanted episodes only, and why each of the others was left out. known: guids taken before."""
    pattern = _pattern(wanted.title_regex) if wanted.title_regex else None
    part = _folded(wanted.title) if wanted.title else ""

    def unwanted(episode: Episode) -> Why | None:
        day = episode.published.date() if episode.published else None
        if (wanted.since or wanted.until) and day is None:
            return Why.NO_DATE
        if wanted.since and day and day < wanted.since:
            return Why.BEFORE
        if wanted.until and day and day > wanted.until:
            return Why.AFTER
        if part not in _folded(episode.title) or (pattern and not pattern.search(episode.title)):
            return Why.TITLE
        return Why.KNOWN if episode.guid in known else None

    reasons = {episode.position: why for episode in feed.episodes if (why := unwanted(episode))}
    kept = [episode for episode in feed.episodes if episode.position not in reasons]
    if wanted.count is not None:
        newest = sorted(kept, key=_newest_first)
        reasons |= {episode.position: Why.COUNT for episode in newest[wanted.count :]}
    skipped = [
        Skipped(episode.position, episode.guid, episode.title, reasons[episode.position])
        for episode in feed.episodes
        if episode.position in reasons
    ]
    return Feed(
        feed.show,
        tuple(episode for episode in kept if episode.position not in reasons),
        tuple(sorted((*feed.skipped, *skipped), key=lambda one: one.position)),
    )


def _newest_first(episode: Episode) -> tuple[bool, float, int]:
    if episode.published is None:
        return True, 0.0, episode.position
    return False, -episode.published.timestamp(), episode.position


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _pattern(text: str) -> Any:
    """RE2 runs in linear time whatever the expression. Raises ValueError."""
    options = re2.Options()
    options.max_mem = _PATTERN_BYTES
    options.log_errors = False
    options.case_sensitive = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"not an expression that RE2 reads: {reason}") from error
