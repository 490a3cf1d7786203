"""Where the items of a batch come from: a manifest, a feed, a bucket. Each is read as a stream of lines.

What a feed or a bucket gives today it may not give tomorrow: it is written down as a manifest of our own before
anything is made of it, so that whoever goes on with a batch takes the same items.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from common import episodes, feeds
from common.episodes import Episode, Feed, Skipped, Why
from common.globs import LeftOut
from common.manifest import Line, WrongLine, read
from common.params.batch import FeedSource, Item, S3Source
from common.settings import Settings

_CHUNK = 1 << 16
# What nobody chose to leave out, and so is told as an error.
_FAULTS = {Why.NO_ENCLOSURE, Why.NOT_AUDIO, Why.BAD_URL, Why.CUT}
_SENTENCES = {
    Why.NO_ENCLOSURE: "The episode has no enclosure.",
    Why.NOT_AUDIO: "The episode's enclosure is not audio.",
    Why.BAD_URL: "The address of the episode's enclosure cannot be used.",
    Why.CUT: (
        "The feed ends in the middle, so there may be more episodes. Once it is whole, a batch with only_new takes the "
        "rest."
    ),
}


@dataclass(frozen=True)
class Found:
    """One item as it was found. line: from 1.  error: why it is none, in place of the item.

    seconds, bytes: as its source says, where it does; bytes only for plans.
    """

    line: int
    item: Item | None = None
    error: Mapping[str, Any] | None = None
    source: str | None = None
    seconds: float | None = None
    bytes: int | None = None


@dataclass
class Harvest:
    """What a feed or a bucket gives, as it is walked through. skipped: how many were left out, by reason."""

    found: Iterator[Found]
    skipped: Counter[str] = field(default_factory=Counter)


def from_manifest(stream: BinaryIO) -> Iterator[Found]:
    """The items of a caller's manifest."""
    for line in read(_chunks(stream), Item.model_validate):
        yield _found(line) if isinstance(line, WrongLine) else Found(line.number, line.item)


def from_items(items: Iterable[Item]) -> Iterator[Found]:
    return (Found(number, item) for number, item in enumerate(items, 1))


def from_feed(
    source: FeedSource, settings: Settings, known: Callable[[Iterable[Episode]], set[str]]
) -> Harvest:  # fmt: skip
    """The wanted episodes of a feed. known: the guids of those that were taken before.

    Raises what `feeds.fetch_feed` raises.
    """
    fetched = feeds.fetch_feed(source.url, allow_hosts=settings.allow_private_hosts).feed
    assert fetched is not None  # only a conditional fetch gives none
    chosen = episodes.select(fetched, source, known(fetched.episodes))
    harvest = Harvest(_of_feed(chosen))
    harvest.skipped.update(str(left.why) for left in chosen.skipped if left.why not in _FAULTS)
    return harvest


def _of_feed(feed: Feed) -> Iterator[Found]:
    wrong = [left for left in feed.skipped if left.why in _FAULTS]
    placed: list[Episode | Skipped] = sorted([*feed.episodes, *wrong], key=lambda one: one.position)
    for line, one in enumerate(placed, 1):
        if isinstance(one, Episode):
            yield Found(line, item_of(one), source=one.title or one.url, seconds=one.seconds, bytes=one.length)
        else:
            error = {"code": "invalid_feed", "message": one.detail or _SENTENCES[one.why], "retryable": False}
            yield Found(line, error=error, source=(one.title or one.guid)[:300])


def item_of(episode: Episode) -> Item:
    """An episode as an item of a batch."""
    named = episode.fields()
    metadata = {name: value[:512] for name, value in named.items() if name in ("show", "title", "guid", "date")}
    return Item.model_validate(
        {
            "input": {"url": episode.url},
            "id": episode.guid[:1000],
            "metadata": metadata,
            **{name: named[name] for name in ("title", "show", "date", "number") if named.get(name)},
        }
    )


def from_s3(source: S3Source, settings: Settings) -> Harvest:
    """The objects that a pattern means. Raises `bucket_forbidden` and `storage_failed`, also while it is read."""
    # boto3 is only needed here; the embedded stack does without.
    from common.storage.s3_inputs import S3Inputs

    selection = source.selection()
    harvest = Harvest(iter(()))

    def walk() -> Iterator[Found]:
        line = 0
        for found in selection.choose(S3Inputs(settings).lister(selection.bucket)):
            if isinstance(found, LeftOut):
                harvest.skipped[str(found.why)] += 1
                continue
            line += 1
            address = f"s3://{selection.bucket}/{found.key}"
            item = Item.model_validate({"input": {"s3": address}, "title": PurePosixPath(found.key).stem or None})
            yield Found(line, item, source=address, bytes=found.size)

    harvest.found = walk()
    return harvest


# --- Our own manifests ------------------------------------------------------------------------------------------------


def written(found: Iterable[Found]) -> Iterator[bytes]:
    """The lines of a manifest of our own, each with an item or an error."""
    for one in found:
        body: dict[str, Any] = {"source": one.source}
        if one.item is not None:
            body["item"] = one.item.model_dump(mode="json", exclude_defaults=True)
        else:
            body["error"] = dict(one.error or {})
        if one.seconds:
            body["seconds"] = one.seconds
        yield json.dumps(body, separators=(",", ":")).encode() + b"\n"


def from_written(stream: BinaryIO) -> Iterator[Found]:
    for line in read(_chunks(stream), dict):
        if isinstance(line, WrongLine):
            yield _found(line)
        else:
            yield _unwritten(line)


def _unwritten(line: Line[dict[str, Any]]) -> Found:
    body = line.item
    item = Item.model_validate(body["item"]) if "item" in body else None
    return Found(
        line.number, item, error=body.get("error"), source=body.get("source"), seconds=body.get("seconds")
    )  # fmt: skip


def _found(wrong: WrongLine) -> Found:
    error = wrong.error().as_job_error()
    problems = [{"pointer": problem.pointer, "detail": problem.detail} for problem in wrong.problems]
    return Found(wrong.number, error={**error, "errors": problems}, source=f"line {wrong.number}")


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk
