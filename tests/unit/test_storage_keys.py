from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.http import parse_options_header

from common.storage import keys
from common.storage.keys import check_folder, check_key, check_prefix, content_disposition, download_name


def test_the_layout() -> None:
    assert keys.job_folder("01J") == "jobs/01J/"
    assert keys.attempt_folder("01J", 2) == "jobs/01J/2/"
    assert keys.artifact("01J", 2, "speech.flac") == "jobs/01J/2/speech.flac"
    assert keys.blocks_folder("01J") == "jobs/01J/blocks/"
    assert keys.blocks_folder("01J", "ab12") == "jobs/01J/blocks/ab12/"
    assert keys.block("01J", "ab12", 42, "speech", "flac") == "jobs/01J/blocks/ab12/000042/speech.flac"
    assert keys.upload("k1", "u1") == "uploads/k1/u1"


@given(st.integers(0, 999_999), st.integers(0, 999_999))
def test_blocks_list_in_their_order(one: int, other: int) -> None:
    first, second = (keys.block("j", "f", index, "speech", "flac") for index in (one, other))
    assert (first < second) == (one < other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keys.job_folder(""),
        lambda: keys.job_folder("a/b"),
        lambda: keys.job_folder(".."),
        lambda: keys.attempt_folder("j", 0),
        lambda: keys.artifact("j", 1, "../x"),
        lambda: keys.artifact("j", 1, "a/b"),
        lambda: keys.block("j", "f", 1_000_000, "s", "flac"),
        lambda: keys.block("j", "f", -1, "s", "flac"),
        lambda: keys.block("j", "f/g", 1, "s", "flac"),
        lambda: keys.block("j", "f", 1, "s/t", "flac"),
        lambda: keys.upload("k", "../other/u"),
        lambda: keys.upload("k/../other", "u"),
    ],
)
def test_a_part_cannot_leave_its_folder(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]


@given(st.text())
def test_a_valid_key_is_a_path_below_the_store(key: str) -> None:
    try:
        assert check_key(key) == key
    except ValueError:
        return
    assert not key.startswith("/")
    assert not key.endswith("/")
    assert all(part and part not in (".", "..") for part in key.split("/"))
    assert "\0" not in key
    key.encode("utf-8")


def test_prefixes_and_folders() -> None:
    assert [check_prefix(prefix) for prefix in ("", "a", "a/", "a/b")] == ["", "a", "a/", "a/b"]
    assert check_folder("a/b/") == "a/b/"
    for prefix in ("/", "a//", "../", "a/./"):
        with pytest.raises(ValueError):
            check_prefix(prefix)
    for folder in ("", "/", "a", "a//"):
        with pytest.raises(ValueError):
            check_folder(folder)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("speech.flac", "speech.flac"),
        ("Folge 12 – Überblick.mp3", "Folge 12 – Überblick.mp3"),
        ("C:\\Users\\me\\ep.mp3", "ep.mp3"),
        ("../../etc/passwd", "passwd"),
        ('a"b\r\nSet-Cookie: x=1.wav', "ab Set-Cookie x=1.wav"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("", "download"),
        ("...", "download"),
        (".flac", "download.flac"),
        ("..con.txt", "_con.txt"),
        ("播客.mp3", "播客.mp3"),
        ("con.txt", "_con.txt"),
        ("COM1", "_COM1"),
        ("e\u0301.wav", "é.wav"),
        ("/", "download"),
    ],
)
def test_names_for_downloads(name: str, safe: str) -> None:
    assert download_name(name) == safe


@given(st.text())
def test_any_name_becomes_a_safe_one_and_stays_so(name: str) -> None:
    safe = download_name(name)
    assert safe
    assert len(safe.encode("utf-8")) <= 150
    assert not safe.startswith(".")
    assert not set(safe) & set('/\\<>:"|?*\0\r\n')
    assert all(unicodedata.category(char)[0] != "C" for char in safe)
    assert download_name(safe) == safe


def test_a_long_name_keeps_its_extension() -> None:
    name = download_name("ü" * 500 + ".flac")
    assert name.endswith("ü.flac")
    assert len(name.encode("utf-8")) <= 150


@given(st.text())
def test_the_header_is_ascii_and_names_the_file_to_a_parser(name: str) -> None:
    header = content_disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert parse_options_header(header) == ("attachment", {"filename": download_name(name)})
    plain, _, extended = header.partition("; filename*=")
    _, options = parse_options_header(plain)
    if extended:
        assert options["filename"].isascii()
        assert "%" not in options["filename"]
    else:
        assert options["filename"] == download_name(name)


def test_the_header_of_a_name_beyond_ascii() -> None:
    assert content_disposition("speech.flac") == 'attachment; filename="speech.flac"'
    assert (
        content_disposition("Überblick.mp3")
        == "attachment; filename=\"Uberblick.mp3\"; filename*=UTF-8''%C3%9Cberblick.mp3"
    )
    assert content_disposition("播客.mp3").startswith('attachment; filename="download.mp3"; filename*=UTF-8')
