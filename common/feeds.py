"""A podcast's feed into episodes: RSS or Atom, fetched under guard, read by feedparser from bytes.

A feed comes from strangers. Its bytes are walked once by expat, before the parser sees them, under limits on what they
unfold to; entities of its own are refused, and nothing it names is ever fetched. What is not well-formed is read all
the same, as podcast players do, if it is small: the parser's tolerant way is slow on what was made to be slow.
"""

from __future__ import annotations

import calendar
import io
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urljoin, urlsplit
from xml.parsers import expat

import feedparser

from common.episodes import MAX_EPISODES, Episode, Feed, Skipped, Why
from common.errors import NightshiftError
from common.outbound.fetch import NotModified, fetch

MAX_BYTES = 32_000_000
MAX_BYTES_TOLERATED = 4_000_000
_MAX_ELEMENTS = 1_000_000
_MAX_DEPTH = 100
_MAX_TEXT = 1000
_MAX_TAIL = 4000
_MAX_URL = 4096  # as an input's

_AUDIO = (".mp3", ".m4a", ".m4b", ".aac", ".ogg", ".oga", ".opus", ".flac", ".wav", ".mp4", ".m4v", ".mov", ".webm")
_OPENED = re.compile(rb"<(?:\w+:)?(?:item|entry)(?:\s[^<>]*)?>", re.IGNORECASE)
_CLOSED = re.compile(rb"</(?:\w+:)?(?:item|entry)\s*>", re.IGNORECASE)
_ENDED = re.compile(rb"</(?:\w+:)?(?:rss|feed|rdf)\s*>", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(?:(\d{1,3}):)?(\d{1,3}):)?(\d{1,7})(?:\.\d+)?", re.ASCII)


def read(data: bytes, url: str = "") -> Feed:
    """url: where the feed is from; relative addresses in it are relative to that. Raises `invalid_feed`."""
    well_formed = _examine(data)
    if not well_formed and len(data) > MAX_BYTES_TOLERATED:
        raise _invalid(f"It is not well-formed XML, which is read up to {MAX_BYTES_TOLERATED} bytes.")
    # Bytes in a stream: a bare argument could be taken for an address or a file.
    found = feedparser.parse(io.BytesIO(data), sanitize_html=False, resolve_relative_uris=False)
    if not found.get("version") and not found.entries:
        raise _invalid("It is neither RSS nor Atom.")
    if len(found.entries) > MAX_EPISODES:
        raise _too_many()
    show = _text(found.feed.get("title"))
    entries, cut = list(found.entries), not well_formed and _is_cut(data)
    if cut and _ends_inside_an_item(data):
        del entries[-1:]  # of whose title or address a part may be missing
    episodes: list[Episode] = []
    skipped: list[Skipped] = []
    guids: set[str] = set()
    for position, entry in enumerate(entries, 1):
        episode = _episode(entry, position, show, url)
        if isinstance(episode, Episode) and episode.guid in guids:
            episode = Skipped(position, episode.guid, episode.title, Why.DUPLICATE)
        if isinstance(episode, Skipped):
            skipped.append(episode)
        else:
            guids.add(episode.guid)
            episodes.append(episode)
    if cut:
        skipped.append(Skipped(len(entries) + 1, "", "the end of the feed", Why.CUT))
    return Feed(show, tuple(episodes), tuple(skipped))


@dataclass(frozen=True)
class FetchedFeed:
    """feed: None where it has not changed.  etag, last_modified: to be given when it is fetched again."""

    feed: Feed | None
    etag: str | None
    last_modified: str | None


def fetch_feed(
    url: str,
    *,
    deadline_seconds: float = 60.0,
    max_bytes: int = MAX_BYTES,
    allow_hosts: Iterable[str] = (),
    etag: str | None = None,
    last_modified: str | None = None,
    folder: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> FetchedFeed:
    """Fetches a feed, guarded as every input, and reads it. folder: for the file while it is read.

    Raises what `fetch` raises but NotModified, and `invalid_feed`.
    """
    with TemporaryDirectory(dir=folder, prefix="feed-") as place:
        file = Path(place) / "feed.xml"
        try:
            fetched = fetch(
                url,
                file,
                max_bytes=min(max_bytes, MAX_BYTES),
                deadline_seconds=deadline_seconds,
                allow_hosts=allow_hosts,
                etag=etag,
                last_modified=last_modified,
                check=check,
            )
        except NotModified:
            return FetchedFeed(None, etag, last_modified)
        return FetchedFeed(read(file.read_bytes(), fetched.final_url), fetched.etag, fetched.last_modified)


def _examine(data: bytes) -> bool:
    """Whether it is well-formed XML. Raises `invalid_feed` for what is too much, or declares entities."""
    if len(data) > MAX_BYTES:
        raise _invalid(f"It has more than {MAX_BYTES} bytes.")
    depth = elements = items = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements, items
        depth += 1
        elements += 1
        items += name in ("item", "entry")
        if depth > _MAX_DEPTH:
            raise _invalid(f"Its elements are nested more than {_MAX_DEPTH} deep.")
        if elements > _MAX_ELEMENTS:
            raise _invalid(f"It has more than {_MAX_ELEMENTS} elements.")
        if items > MAX_EPISODES:
            raise _too_many()

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    def entity(*declaration: Any) -> None:
        raise _invalid("It declares entities of its own.")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):
        return False  # ValueError, LookupError: an encoding that expat does not read
    return True


def _is_cut(data: bytes) -> bool:
    """Whether what is not well-formed lacks its end too. A document at fault elsewhere has an end."""
    return not _ENDED.search(_narrow(data[-_MAX_TAIL:]))


def _ends_inside_an_item(data: bytes) -> bool:
    narrow = _narrow(data)
    opened, closed = (max((one.start() for one in mark.finditer(narrow)), default=-1) for mark in (_OPENED, _CLOSED))
    return opened > closed


def _narrow(data: bytes) -> bytes:
    """Tags in UTF-16 as they are in encodings of one byte."""
    return data.replace(b"\0", b"")


def _episode(entry: Any, position: int, show: str, base: str) -> Episode | Skipped:
    title = _text(entry.get("title"))
    guid = _text(entry.get("id"))
    links = [link for link in entry.get("links", ()) if link.get("rel") == "enclosure" and link.get("href")]
    links += [media | {"href": media["url"]} for media in entry.get("media_content", ()) if media.get("url")]
    if not links:
        return Skipped(position, guid, title, Why.NO_ENCLOSURE)
    ranked = [(rank, i) for i, link in enumerate(links) if (rank := _audio_rank(link)) is not None]
    if not ranked:
        return Skipped(
            position, guid, title, Why.NOT_AUDIO, f"Its enclosure is {_type(links[0]) or 'of no known type'}."
        )
    link = links[min(ranked)[1]]
    try:
        url = urljoin(base, link["href"].strip())
        good = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname) and len(url) <= _MAX_URL
    except ValueError:
        good = False
    if not good:
        return Skipped(position, guid, title, Why.BAD_URL, "Its enclosure has no http or https address.")
    return Episode(
        position=position,
        guid=guid or url,
        title=title,
        published=_instant(entry),
        url=url,
        type=_type(link),
        length=_number(link.get("length") or link.get("filesize")) or None,
        seconds=_seconds(entry.get("itunes_duration")),
        number=_number(entry.get("itunes_episode")),
        show=show,
    )


def _audio_rank(link: Any) -> int | None:
    """Smaller is better; None for what holds no sound."""
    kind = _type(link).partition("/")[0]
    named = _path(link["href"]).lower().endswith(_AUDIO)
    if kind == "audio":
        return 0
    if kind == "video":
        return 1
    # Feeds that say application/octet-stream, or nothing, of an MP3 file are not rare.
    return 2 if named and kind in ("", "application", "binary") else None


def _path(url: str) -> str:
    try:
        return urlsplit(url.strip()).path
    except ValueError:
        return ""


def _type(link: Any) -> str:
    return _text(link.get("type")).partition(";")[0].strip().lower()


def _text(value: Any) -> str:
    """On one line, without control characters, and not longer than anyone would read."""
    text = " ".join(str(value or "")[: 4 * _MAX_TEXT].split())
    return "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cs"))[:_MAX_TEXT]


def _instant(entry: Any) -> datetime | None:
    for name in ("published_parsed", "updated_parsed"):
        # Not `get`, which takes one for the other and warns.
        parsed = dict.get(entry, name)
        if parsed:
            try:
                return datetime.fromtimestamp(calendar.timegm(parsed), UTC)
            except (ValueError, OverflowError, OSError):
                continue
    return None


def _number(value: Any) -> int | None:
    text = str(value or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


def _seconds(value: Any) -> int | None:
    """From `3723`, `62:03` or `1:02:03`."""
    match = _CLOCK.fullmatch(str(value or "").strip())
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (hours * 60 + minutes) * 60 + seconds or None


def _too_many() -> NightshiftError:
    return _invalid(f"It has more than {MAX_EPISODES} items.")


def _invalid(detail: str) -> NightshiftError:
    return NightshiftError(
        "invalid_feed",
        f"The feed cannot be read. {detail}",
        hint="Check that the address is that of the feed itself, and that a podcast player can read it.",
    )
