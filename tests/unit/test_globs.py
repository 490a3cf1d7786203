"""Globs over keys: what they mean, checked against the standard library part by part, and that none is slow."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import NightshiftError
from common.globs import Glob, LeftOut, Listed, Selection, Why

pieces = st.sampled_from(("a", "b", ".", "-", "é", "*", "?", "[ab]", "[!a]", "[a-c]", "[]a]", "[+-9]", "\n"))
parts = st.one_of(
    st.just("**"), st.lists(pieces, min_size=1, max_size=4).map("".join).filter(lambda part: "**" not in part)
)
patterns = st.lists(parts, min_size=1, max_size=4).map("/".join)
paths = st.lists(st.text("ab.-é1\n", min_size=1, max_size=4), min_size=1, max_size=5).map("/".join)


def means(pattern: list[str], path: list[str]) -> bool:
    """Part by part, each by the standard library."""
    if not pattern:
        return not path
    if pattern == ["**"]:
        return bool(path)
    if pattern[0] == "**":
        return means(pattern[1:], path) or bool(path and means(pattern, path[1:]))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and means(pattern[1:], path[1:])


@given(pattern=patterns, path=paths)
@example(pattern="**/a", path="a")
@example(pattern="a/**/b", path="a/b")
@example(pattern="[+-9]", path="/")
def test_a_pattern_means_what_its_parts_mean(pattern: str, path: str) -> None:
    assert Glob.parse(pattern).matches(path) == means(pattern.split("/"), path.split("/"))


@given(pattern=patterns, path=paths)
def test_whatever_matches_begins_with_the_literal_beginning(pattern: str, path: str) -> None:
    glob = Glob.parse(pattern)
    assert pattern.startswith(glob.literal)
    if glob.matches(path):
        assert path.startswith(glob.literal)


@given(path=st.text(min_size=1, max_size=60).filter(lambda text: "\ud800" not in text))
def test_any_path_can_be_written_as_a_pattern_for_itself_alone(path: str) -> None:
    path = path.encode("utf-8", "replace").decode()
    pattern = "".join(f"\\{char}" if char in "*?[{}\\," else char for char in path)
    assert Glob.parse(pattern).matches(path)
    assert not Glob.parse(pattern).matches(f"{path}x") and not Glob.parse(pattern).matches(f"x{path}")


@given(text=st.text(alphabet="a*?[]{},!-/\\^", max_size=30), path=st.text("a,-/", max_size=10))
def test_any_text_is_a_pattern_or_an_error(text: str, path: str) -> None:
    try:
        glob = Glob.parse(text)
    except NightshiftError as error:
        assert error.code == "invalid_pattern"
    else:
        assert glob.matches(path) in (True, False)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.mp3", ["a.mp3", ".mp3", "a b.mp3"], ["a/b.mp3", "a.MP3", "a.mp3x"]),
        ("**/*.mp3", ["a.mp3", "a/b.mp3", "a/b/c.mp3"], ["a.flac"]),
        ("2026/**", ["2026/a", "2026/a/b"], ["2026", "2027/a"]),
        ("2026/**/raw/*.wav", ["2026/raw/a.wav", "2026/x/y/raw/a.wav"], ["2026/raw/x/a.wav"]),
        ("*.{mp3,flac}", ["a.mp3", "a.flac"], ["a.wav", "a.mp3,flac"]),
        ("{a/**/b,c}.mp3", ["a/b.mp3", "a/x/b.mp3", "c.mp3"], ["a/c.mp3"]),
        ("{**/a,b/**}", ["x/y/a", "a", "b/c/d"], ["b", "x/b/c"]),
        ("e[0-9][!a].mp3", ["e1b.mp3"], ["e1a.mp3", "e1/.mp3", "exb.mp3"]),
        (r"what\?.mp3", ["what?.mp3"], ["whats.mp3"]),
        ("a+b(c)|d.mp3", ["a+b(c)|d.mp3"], ["aab(c)"]),
        ("a,b}", ["a,b}"], ["a"]),
    ],
)
def test_patterns_by_example(pattern: str, yes: list[str], no: list[str]) -> None:
    glob = Glob.parse(pattern)
    assert [path for path in yes if not glob.matches(path)] == []
    assert [path for path in no if glob.matches(path)] == []


@pytest.mark.parametrize(
    "pattern",
    ["", "a[", "a[]", "[b-a]", "[a/b]", "{a", "a\\", "a**b", "**a", "a**/b", "x" * 501, "\ud800", "[\\]]", "[!"],
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        Glob.parse(pattern, "/source/glob")
    assert (caught.value.code, caught.value.pointer) == ("invalid_pattern", "/source/glob")
    assert caught.value.hint


def test_a_pattern_made_to_be_slow_is_not() -> None:
    """Backtracking over this would not end."""
    assert not Glob.parse("*a" * 200 + "b").matches("a" * 1000)
    assert not Glob.parse("**/" * 150 + "b").matches("a/" * 500)


def test_a_file_name_that_is_not_utf8_is_one_character_a_byte() -> None:
    name = b"caf\xe9.mp3".decode("utf-8", "surrogateescape")
    assert Glob.parse("caf?.mp3").matches(name) and not Glob.parse("caf??.mp3").matches(name)


# --- Over a bucket -----------------------------------------------------------------------------------------------


class Bucket:
    """Objects by key; remembers what was listed."""

    def __init__(self, *keys: str) -> None:
        self.objects = [Listed(key, 0 if "empty" in key else 5) for key in sorted(keys)]
        self.asked: list[str] = []

    def list(self, prefix: str) -> Iterator[Listed]:
        self.asked.append(prefix)
        return (found for found in self.objects if found.key.startswith(prefix))


BUCKET = Bucket(
    "shows/", "shows/a.mp3", "shows/a.txt", "shows/b/c.mp3", "shows/b/empty.mp3", "shows/b/../d.mp3", "shows/b/e\n.mp3",
    "shows/trailers/t.mp3", "showsx.mp3", "other/a.mp3",
)  # fmt: skip


def test_a_prefix_means_everything_that_begins_so() -> None:
    found = list(Selection.parse("s3://bucket/shows").choose(BUCKET))
    assert BUCKET.asked[-1] == "shows"
    assert [one.key for one in found if isinstance(one, Listed)] == [
        "shows/a.mp3", "shows/a.txt", "shows/b/c.mp3", "shows/trailers/t.mp3", "showsx.mp3",
    ]  # fmt: skip
    assert {one.key: one.why for one in found if isinstance(one, LeftOut)} == {
        "shows/": Why.FOLDER,
        "shows/b/../d.mp3": Why.BAD_KEY,
        "shows/b/e\n.mp3": Why.BAD_KEY,
        "shows/b/empty.mp3": Why.EMPTY,
    }


def test_a_pattern_chooses_and_exclusions_are_reported() -> None:
    selection = Selection.parse("s3://bucket/shows/**/*.mp3", ["**/trailers/**"])
    found = list(selection.choose(BUCKET))
    assert (selection.bucket, BUCKET.asked[-1]) == ("bucket", "shows/")
    assert [one.key for one in found if isinstance(one, Listed)] == ["shows/a.mp3", "shows/b/c.mp3"]
    assert LeftOut("shows/trailers/t.mp3", Why.EXCLUDED) in found


def test_a_whole_bucket() -> None:
    assert len(list(Selection.parse("s3://bucket/").choose(BUCKET))) == len(BUCKET.objects)


def test_keys_are_chosen_as_they_are_listed() -> None:
    def endless(prefix: str) -> Iterator[Listed]:
        i = 0
        while True:
            yield Listed(f"{prefix}{i:09}.mp3", 1)
            i += 1

    class Endless:
        list = staticmethod(endless)

    chosen = Selection.parse("s3://bucket/a/*5.mp3").choose(Endless())
    assert [next(chosen).key for _ in range(2)] == ["a/000000005.mp3", "a/000000015.mp3"]


@pytest.mark.parametrize("uri", ["", "bucket/a", "s3://", "s3://bucket", "s3:///a", "https://bucket/a", "s3://b*/a"])
def test_what_is_no_place_in_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        Selection.parse(uri, pointer="/source/s3")
    assert (caught.value.code, caught.value.pointer) == ("invalid_pattern", "/source/s3")
