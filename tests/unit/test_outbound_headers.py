import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.outbound.headers import MAX_NAME, content_range, describe, filename, version

URL = httpx.URL("https://files.example/shows/ep%201.mp3?token=a/b")
NOW, BEFORE = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT"


def answer(**headers: str) -> httpx.Response:
    return httpx.Response(200, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(etag='"v1"'), '"v1"'),
        (answer(etag='W/"v1"'), None),
        (answer(etag='W/"v1"', last_modified=BEFORE, date=NOW), None),
        (answer(etag='"v1"', accept_ranges="none"), None),
        (answer(etag='"v1"', content_encoding="gzip"), None),
        (answer(last_modified=BEFORE, date=NOW), BEFORE),
        (answer(last_modified=NOW, date=NOW), None),
        (answer(last_modified=BEFORE), None),
        (answer(last_modified="yesterday", date=NOW), None),
        (answer(last_modified="Sun, 06 Nov 1994 08:49:36 -0000", date=NOW), None),
        (answer(), None),
    ],
)
def test_only_a_strong_version_may_be_resumed(response: httpx.Response, expected: str | None) -> None:
    assert version(response) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 5-9/10", (5, 10)),
        ("bytes 5-9/*", (5, None)),
        ("bytes */10", None),
        ("items 5-9/10", None),
        ("bytes 5-9", None),
        (f"bytes 5-9/{'9' * 5000}", None),
        ("", None),
    ],
)
def test_content_range(value: str, expected: tuple[int, int | None] | None) -> None:
    assert content_range(answer(content_range=value)) == expected


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        (None, "ep 1.mp3"),
        ("attachment", "ep 1.mp3"),
        ('attachment; filename="pilot.flac"', "pilot.flac"),
        ("attachment; filename=pilot.flac", "pilot.flac"),
        ("attachment; filename*=UTF-8''F%C3%BCr%20alle.wav", "Für alle.wav"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:\\\\temp\\\\a.mp3"', "a.mp3"),
        ('attachment; filename=".."', None),
        ('attachment; filename="a\x00b\x1f.mp3"', "ab.mp3"),
    ],
)
def test_filename(disposition: str | None, expected: str | None) -> None:
    assert filename(URL, disposition) == expected


def test_a_url_without_a_path_gives_no_name() -> None:
    assert filename(httpx.URL("https://files.example/"), None) is None


@given(st.text(max_size=400))
@settings(max_examples=200)
def test_a_name_never_leaves_its_folder(text: str) -> None:
    name = filename(httpx.URL("https://files.example/"), f'attachment; filename="{text}"')
    assert name is None or (0 < len(name) <= MAX_NAME and name not in (".", "..") and not set(name) & set("/\\\0\r\n"))


def test_a_long_name_keeps_its_suffix() -> None:
    name = filename(httpx.URL(f"https://files.example/{'a' * 500}.flac"), None)
    assert name is not None and len(name) == MAX_NAME and name.endswith("a.flac")


def test_describe() -> None:
    found = describe(7, URL, answer(content_type="Audio/MPEG; charset=x", etag='"v"', last_modified=NOW))
    assert (found.size, found.content_type, found.final_url) == (7, "audio/mpeg", str(URL))
    assert (found.filename, found.etag, found.last_modified) == ("ep 1.mp3", '"v"', NOW)
    assert describe(0, URL, answer()).content_type is None
