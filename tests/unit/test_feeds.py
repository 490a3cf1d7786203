"""Feeds into episodes: as publishers write them, as they get them wrong, and as somebody would who means harm."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.episodes import Episode, Feed, Skipped, Wanted, Why, select
from common.errors import NightshiftError
from common.feeds import MAX_BYTES_TOLERATED, FetchedFeed, fetch_feed, read
from tests.servers.receiver import Answer, Receiver

NAMESPACES = (
    'xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd" xmlns:media="http://search.yahoo.com/mrss/" '
    'xmlns:content="http://purl.org/rss/1.0/modules/content/"'
)


def item(i: int, **changes: str | None) -> str:
    """An item of a feed; each part can be replaced by other XML, or left out by None."""
    parts = {
        "title": f"<title>Episode {i}</title>",
        "guid": f'<guid isPermaLink="false">guid-{i}</guid>',
        "date": f"<pubDate>{format_datetime(datetime(2026, 1, 1, 9, tzinfo=UTC) + timedelta(days=i))}</pubDate>",
        "enclosure": f'<enclosure url="https://cdn.example/{i}.mp3?a=1&amp;b=2" length="{i}000" type="audio/mpeg"/>',
        "more": f"<itunes:duration>1:02:0{i % 10}</itunes:duration><itunes:episode>{i}</itunes:episode>",
    } | changes
    return f"<item>{''.join(part or '' for part in parts.values())}</item>"


def rss(*items: str, title: str = "El Podcast", head: str = '<?xml version="1.0" encoding="UTF-8"?>') -> bytes:
    inner = f"<title>{title}</title>{''.join(items)}"
    return f'{head}<rss version="2.0" {NAMESPACES}><channel>{inner}</channel></rss>'.encode()


def only(*items: str) -> Episode:
    (episode,) = read(rss(*items)).episodes
    return episode


def left_out(feed: Feed) -> list[tuple[int, Why]]:
    return [(one.position, one.why) for one in feed.skipped]


# --- As publishers write them ------------------------------------------------------------------------------------


def test_an_episode_has_all_that_the_feed_says_of_it() -> None:
    feed = read(rss(item(3)))
    assert (feed.show, feed.skipped) == ("El Podcast", ())
    assert feed.episodes == (
        Episode(
            position=1,
            guid="guid-3",
            title="Episode 3",
            published=datetime(2026, 1, 4, 9, tzinfo=UTC),
            url="https://cdn.example/3.mp3?a=1&b=2",
            type="audio/mpeg",
            length=3000,
            seconds=3723,
            number=3,
            show="El Podcast",
        ),
    )
    assert feed.episodes[0].fields() == {
        "show": "El Podcast", "title": "Episode 3", "guid": "guid-3",
        "date": "2026-01-04", "year": "2026", "month": "01", "number": "3",
    }  # fmt: skip


def test_atom_too() -> None:
    feed = read(
        b"""<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Show</title><entry>
        <id>urn:uuid:1</id><title>One</title><updated>2026-01-02T10:00:00+02:00</updated>
        <link rel="alternate" href="https://e.example/1"/>
        <link rel="enclosure" href="https://e.example/1.opus" type="audio/ogg; codecs=opus" length="12"/>
        </entry></feed>"""
    )
    (episode,) = feed.episodes
    assert (episode.guid, episode.url, episode.type) == ("urn:uuid:1", "https://e.example/1.opus", "audio/ogg")
    assert episode.published == datetime(2026, 1, 2, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("3723", 3723), ("62:03", 3723), ("1:02:03", 3723), ("59.9", 59), ("0", None), ("soon", None), ("1:2:3:4", None)],
)
def test_durations(duration: str, seconds: int | None) -> None:
    assert only(item(1, more=f"<itunes:duration>{duration}</itunes:duration>")).seconds == seconds


def test_a_guid_that_is_missing_is_the_enclosure_s_address() -> None:
    assert only(item(1, guid=None)).guid == "https://cdn.example/1.mp3?a=1&b=2"


def test_of_several_enclosures_the_first_with_sound_is_taken() -> None:
    pdf, video, audio = (
        f'<enclosure url="https://c.example/{name}" type="{kind}" length="1"/>'
        for name, kind in (("notes.pdf", "application/pdf"), ("1.mp4", "video/mp4"), ("1.mp3", "audio/mpeg"))
    )
    assert only(item(1, enclosure=pdf + video + audio)).url.endswith("1.mp3")
    assert only(item(1, enclosure=pdf + video)).url.endswith("1.mp4")


@pytest.mark.parametrize(
    "enclosure",
    [
        '<enclosure url="https://c.example/1.MP3?x=1" length="" type="application/octet-stream"/>',
        '<enclosure url="https://c.example/1.m4a"/>',
        '<media:content url="https://c.example/1" type="audio/mp4" fileSize="5"/>',
        '<enclosure url=" /1.mp3 " type="AUDIO/MPEG; charset=x" length="about 5"/>',
    ],
)
def test_enclosures_that_say_little_or_say_it_their_own_way(enclosure: str) -> None:
    (episode,) = read(rss(item(1, enclosure=enclosure)), "https://c.example/feeds/show.xml").episodes
    assert episode.url.lower().startswith("https://c.example/1")


@pytest.mark.parametrize(
    ("enclosure", "why"),
    [
        (None, Why.NO_ENCLOSURE),
        ('<enclosure length="5"/>', Why.NO_ENCLOSURE),
        ('<enclosure url="https://c.example/notes.pdf" type="application/pdf"/>', Why.NOT_AUDIO),
        ('<enclosure url="https://c.example/cover.jpg" type="image/jpeg"/>', Why.NOT_AUDIO),
        ('<enclosure url="file:///etc/passwd" type="audio/mpeg"/>', Why.BAD_URL),
        ('<enclosure url="https:///1.mp3" type="audio/mpeg"/>', Why.BAD_URL),
        ('<enclosure url="https://[1.mp3" type="audio/mpeg"/>', Why.BAD_URL),
        (f'<enclosure url="https://c.example/{"x" * 5000}" type="audio/mpeg"/>', Why.BAD_URL),
        ('<enclosure url="1.mp3" type="audio/mpeg"/>', Why.BAD_URL),  # and where the feed is from is not known
    ],
)
def test_an_item_without_usable_sound_is_reported(enclosure: str | None, why: Why) -> None:
    feed = read(rss(item(1), item(2, enclosure=enclosure), item(3)))
    assert [episode.position for episode in feed.episodes] == [1, 3]
    (skipped,) = feed.skipped
    assert (skipped.position, skipped.guid, skipped.title, skipped.why) == (2, "guid-2", "Episode 2", why)


def test_one_guid_is_one_episode_and_an_unusable_item_takes_none_away() -> None:
    again = item(3, guid="<guid>guid-1</guid>")
    feed = read(rss(item(1, enclosure=None), item(2, guid="<guid>guid-1</guid>"), again))
    assert [episode.title for episode in feed.episodes] == ["Episode 2"]
    assert left_out(feed) == [(1, Why.NO_ENCLOSURE), (3, Why.DUPLICATE)]


# --- As they get them wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_feed_that_is_not_well_formed_is_read(encoding: str) -> None:
    document = rss(item(1, title="<title>Salt & Pepper <3</title>"), item(2)).decode()
    feed = read(document.replace("UTF-8", encoding).encode(encoding))
    assert feed.skipped == ()
    assert [episode.guid for episode in feed.episodes] == ["guid-1", "guid-2"]
    assert feed.episodes[0].title.startswith("Salt & Pepper")


@given(st.data())
def test_a_feed_that_is_cut_off_gives_what_arrived_whole_and_says_that_more_may_be_missing(data: st.DataObject) -> None:
    ampersand = "<title>Salt & Pepper</title>"  # with which no parser gets as far as the cut
    title = data.draw(st.sampled_from(["<title>One</title>", ampersand]))
    document = rss(*(item(i, title=title) for i in range(1, 6)))
    whole = read(document).episodes
    kept = data.draw(st.integers(document.index(b"<item>"), len(document) - 1))
    feed = read(document[:kept])
    assert feed.episodes == whole[: document[:kept].count(b"</item>")]
    assert left_out(feed) == [(len(feed.episodes) + 1, Why.CUT)]


def test_a_feed_that_is_cut_off_before_its_first_episode_says_so() -> None:
    whole = rss("<!-- an <item> by itself, and what follows it -->")
    assert left_out(read(whole)) == []
    assert left_out(read(whole[: whole.index(b" by itself")])) == [(1, Why.CUT)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "windows-1252"])
def test_encodings(encoding: str) -> None:
    name = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    text = rss(item(1), title="Señor", head=f'<?xml version="1.0" encoding="{name}"?>').decode()
    assert read(text.encode(encoding)).show == "Señor"


def test_text_is_one_short_line() -> None:
    feed = read(rss(item(1, title=f"<title>\n  One\t &#x9b; two {'x' * 5000}</title>"), title="A\n B"))
    assert feed.show == "A B" and feed.episodes[0].title.startswith("One › two x")
    assert len(feed.episodes[0].title) <= 1000


def test_dates_that_are_none_are_none() -> None:
    assert only(item(1, date="<pubDate>yesterday</pubDate>")).published is None
    assert only(item(1, date="<pubDate>Fri, 02 Jan 0000 10:00:00 GMT</pubDate>")).published is None
    assert only(item(1, date=None)).published is None


@pytest.mark.parametrize(
    "data",
    [b"", b"<!doctype html><html><body>Not found</body></html>", b"{}", bytes(range(256)), b"<x/>", b"\xff\xfe", b"<"],
)
def test_what_is_no_feed_is_refused(data: bytes) -> None:
    with pytest.raises(NightshiftError) as caught:
        read(data)
    assert caught.value.code == "invalid_feed" and caught.value.hint


@given(data=st.binary(max_size=400), cut=st.integers(0, 2000), at=st.integers(0, 2000))
def test_damage_ends_in_a_feed_or_an_error(data: bytes, cut: int, at: int) -> None:
    whole = rss(item(1), item(2))
    try:
        feed = read(whole[:at] + data + whole[at + cut :])
    except NightshiftError as error:
        assert error.code == "invalid_feed"
    else:
        assert all(episode.url.startswith(("http://", "https://")) for episode in feed.episodes)


# --- As somebody would who means harm ----------------------------------------------------------------------------

BOMB = "".join(f'<!ENTITY {"abcdefghij"[i]} "{("&" + "zabcdefghij"[i] + ";") * 10}">' for i in range(10))


@pytest.mark.parametrize(
    "declaration",
    [
        '<!ENTITY z "lol">' + BOMB,
        f'<!ENTITY j "{"x" * 100_000}">',
        '<!ENTITY j SYSTEM "file:///etc/hostname">',
        '<!ENTITY j SYSTEM "http://127.0.0.1:1/">',
        '<!ENTITY % j SYSTEM "http://127.0.0.1:1/"> %j;',
    ],
)
@pytest.mark.parametrize("broken", ["", "<title>&</title>"])
def test_entities_neither_unfold_nor_reach_out(declaration: str, broken: str) -> None:
    hostile = f'<?xml version="1.0"?><!DOCTYPE rss [{declaration}]>'
    tracemalloc.start()
    try:
        with pytest.raises(NightshiftError, match="entities of its own"):
            read(rss(item(1, title=f"<title>{'&j;' * 10_000}</title>{broken}"), head=hostile))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", ["file:///etc/hostname", "http://127.0.0.1:1/x.dtd"])
def test_a_document_type_elsewhere_is_not_fetched(place: str) -> None:
    head = f'<?xml version="1.0"?><!DOCTYPE rss PUBLIC "-//Netscape Communications//DTD RSS 0.91//EN" "{place}">'
    assert len(read(rss(item(1), head=head)).episodes) == 1


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (rss("<a>" * 200 + "</a>" * 200), "nested"),
        (b"<rss><channel>" + b"<a>" * 100_000, "nested"),
        (rss("<item/>" * 50_001), "50000 items"),
        (b'<rss version="2.0"><channel>&' + b"<item/>" * 50_001, "50000 items"),
        (b"<rss><channel>&" + b" " * MAX_BYTES_TOLERATED, "not well-formed"),
        (b" " * 32_000_001, "more than 32000000 bytes"),
    ],
    ids=["deep", "deep without end", "many", "many, broken", "broken and large", "large"],
)
def test_too_much_is_refused(data: bytes, part: str) -> None:
    with pytest.raises(NightshiftError, match=part) as caught:
        read(data)
    assert caught.value.code == "invalid_feed"


def test_bytes_are_never_taken_for_a_file_or_an_address(receiver: Receiver, tmp_path: Path) -> None:
    """The parser opens what looks like either; a feed's bytes are only read."""
    file = tmp_path / "feed.xml"
    file.write_bytes(rss(item(1)))
    receiver.serve("/feed", Answer(body=rss(item(1))))
    for data in (str(file).encode(), file.as_uri().encode(), receiver.url("/feed").encode()):
        with pytest.raises(NightshiftError, match="neither"):
            read(data)
    assert receiver.requests == []


# --- Which are wanted --------------------------------------------------------------------------------------------

FEED = read(rss(*(item(i) for i in range(9, 0, -1)), item(10, date=None), item(1)))


def titles(feed: Feed) -> list[int]:
    return [int(episode.title.split()[-1]) for episode in feed.episodes]


def test_conditions() -> None:
    assert titles(select(FEED, Wanted())) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 10]
    chosen = select(FEED, Wanted(since=date(2026, 1, 4), until=date(2026, 1, 6)))
    assert titles(chosen) == [5, 4, 3]
    assert dict.fromkeys(why for _, why in left_out(chosen)) == dict.fromkeys(
        [Why.AFTER, Why.BEFORE, Why.NO_DATE, Why.DUPLICATE]
    )
    assert titles(select(FEED, Wanted(title="SODE 1"))) == [1, 10]
    assert titles(select(FEED, Wanted(title_regex=r"episode [2-4]$"))) == [4, 3, 2]
    assert titles(select(FEED, Wanted(count=2))) == [9, 8]
    assert titles(select(FEED, Wanted(title_regex="[246]", count=2))) == [6, 4]


def test_what_was_taken_before_is_not_taken_again_and_does_not_count() -> None:
    chosen = select(FEED, Wanted(count=2), known={"guid-9", "guid-7"})
    assert titles(chosen) == [8, 6]
    assert (1, Why.KNOWN) in left_out(chosen) and (3, Why.KNOWN) in left_out(chosen)


@given(
    order=st.permutations(range(8)),
    undated=st.sets(st.integers(0, 7)),
    known=st.sets(st.integers(0, 7)),
    since=st.none() | st.integers(1, 9),
    until=st.none() | st.integers(1, 9),
    count=st.none() | st.integers(1, 9),
)
def test_each_item_is_taken_or_left_out_once_in_the_feed_s_order(
    order: list[int], undated: set[int], known: set[int], since: int | None, until: int | None, count: int | None
) -> None:
    episodes = tuple(
        Episode(position, str(i), f"Episode {i}", None if i in undated else datetime(2026, 1, i + 1, tzinfo=UTC),
                "https://e.example", "", None, None, None, "")
        for position, i in enumerate(order, 1)
    )  # fmt: skip
    wanted = Wanted(since=since and date(2026, 1, since), until=until and date(2026, 1, until), count=count)
    chosen = select(Feed("", episodes, (Skipped(9, "", "", Why.NOT_AUDIO),)), wanted, set(map(str, known)))
    positions = [one.position for one in chosen.episodes]
    assert positions == sorted(positions)
    assert sorted(positions + [one.position for one in chosen.skipped]) == list(range(1, 10))
    assert [one.position for one in chosen.skipped] == sorted(one.position for one in chosen.skipped)
    passing = [
        i for i in order
        if i not in known
        and (since is None or (i not in undated and i + 1 >= since))
        and (until is None or (i not in undated and i + 1 <= until))
    ]  # fmt: skip
    newest = sorted(passing, key=lambda i: (i in undated, 0 if i in undated else -i))[:count]
    assert {int(one.guid) for one in chosen.episodes} == set(newest)


@pytest.mark.parametrize("pattern", ["(a", "(?=a)", r"(a)\1", "a{2000}", "(((a{100}){100}){100})", "x" * 501, ""])
def test_expressions_that_are_refused(pattern: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Wanted(title_regex=pattern)
    assert caught.value.errors()[0]["loc"] == ("title_regex",)


def test_an_expression_made_to_be_slow_is_not() -> None:
    """Backtracking would take longer than anyone lives."""
    hostile = Feed("", (*only_titles("a" * 1000 + "!"),), ())
    assert select(hostile, Wanted(title_regex="(a+)+$")).episodes == ()


def only_titles(*texts: str) -> list[Episode]:
    return [
        Episode(i, str(i), text, None, "https://e.example", "", None, None, None, "") for i, text in enumerate(texts, 1)
    ]


def encoded_twice(text: str) -> bool:
    try:
        return text.encode("iso-8859-1").decode() != text
    except UnicodeError:
        return False


readable = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn", "Co")), max_size=40).filter(
    lambda text: not encoded_twice(text)
)


@given(title=readable, show=readable)
def test_titles_come_through_as_they_are(title: str, show: str) -> None:
    feed = read(rss(item(1, title=f"<title>{escape(title)}</title>"), title=escape(show)))
    assert (feed.episodes[0].title, feed.show) == (" ".join(title.split()), " ".join(show.split()))


def test_a_title_that_was_encoded_twice_is_mended() -> None:
    assert read(rss(item(1, title="<title>Se\u00c3\u00b1or</title>"))).episodes[0].title == "Señor"


# --- Fetched -----------------------------------------------------------------------------------------------------


def get(receiver: Receiver, path: str, **options: Any) -> FetchedFeed:
    return fetch_feed(receiver.url(path), allow_hosts=["127.0.0.1"], deadline_seconds=20, **options)


def test_a_feed_is_fetched_and_its_addresses_are_relative_to_where_it_was_in_the_end(
    receiver: Receiver, tmp_path: Path
) -> None:
    relative = item(1, enclosure='<enclosure url="audio/1.mp3" type="audio/mpeg"/>')
    receiver.serve("/moved", Answer.redirect("/shows/feed.xml"))
    receiver.serve("/shows/feed.xml", Answer(body=rss(relative)))
    feed = get(receiver, "/moved", folder=tmp_path).feed
    assert feed is not None
    (episode,) = feed.episodes
    assert episode.url == receiver.url("/shows/audio/1.mp3")
    assert list(tmp_path.iterdir()) == []


def test_a_feed_without_end_or_on_a_private_address_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    receiver.serve("/feed", Answer(body=random.Random(1).randbytes(50_000), endless=True))
    with pytest.raises(NightshiftError) as caught:
        get(receiver, "/feed", folder=tmp_path, max_bytes=1_000_000)
    assert caught.value.code == "too_large"
    with pytest.raises(NightshiftError) as caught:
        fetch_feed(receiver.url("/feed"))
    assert caught.value.code == "url_forbidden"
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_a_feed_is_said_to_be_none(receiver: Receiver) -> None:
    receiver.serve("/feed", Answer(body=b"<!doctype html><title>Welcome</title>"))
    with pytest.raises(NightshiftError) as caught:
        get(receiver, "/feed")
    assert caught.value.code == "invalid_feed"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"ETag": 'W/"v1"', "Last-Modified": "Fri, 02 Jan 2026 10:00:00 GMT"}, ("if-none-match", 'W/"v1"')),
        ({"Last-Modified": "Fri, 02 Jan 2026 10:00:00 GMT"}, ("if-modified-since", "Fri, 02 Jan 2026 10:00:00 GMT")),
    ],
)
def test_a_feed_that_has_not_changed_is_not_sent_again(
    receiver: Receiver, tmp_path: Path, given: dict[str, str], asked: tuple[str, str]
) -> None:
    receiver.script(Answer(body=rss(item(1)), headers=given), Answer(304, headers=given), path="/feed")
    first = get(receiver, "/feed", folder=tmp_path)
    assert first.feed is not None and len(first.feed.episodes) == 1
    again = get(receiver, "/feed", folder=tmp_path, etag=first.etag, last_modified=first.last_modified)
    assert again == FetchedFeed(None, first.etag, first.last_modified)
    plain, conditional = (request.headers for request in receiver.requests)
    assert "if-none-match" not in plain and "if-modified-since" not in plain
    name, value = asked
    assert conditional[name] == value
    assert list(tmp_path.iterdir()) == []


def test_nothing_changed_is_no_answer_to_one_who_has_nothing(receiver: Receiver) -> None:
    receiver.serve("/feed", Answer(304))
    with pytest.raises(NightshiftError) as caught:
        get(receiver, "/feed")
    assert caught.value.code == "input_refused"
