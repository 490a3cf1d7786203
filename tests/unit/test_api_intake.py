from __future__ import annotations

import hashlib
import io
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.intake import Intake, declared_digest
from common.errors import NightshiftError


def drained(intake: Intake, step: int) -> bytes:
    parts = []
    while part := intake.read(step):
        parts.append(part)
    return b"".join(parts)


@given(st.binary(max_size=200), st.integers(1, 64))
def test_the_bytes_pass_unchanged_and_hashed(content: bytes, step: int) -> None:
    digest = hashlib.sha256(content).hexdigest()
    intake = Intake(io.BytesIO(content + b"what follows"), len(content), digest)
    assert drained(intake, step) == content
    assert intake.sha256 == digest


@given(st.binary(max_size=50), st.integers(1, 10), st.integers(1, 64))
def test_a_short_body_never_ends_in_good_order(content: bytes, lacking: int, step: int) -> None:
    intake = Intake(io.BytesIO(content), len(content) + lacking, None)
    with pytest.raises(NightshiftError, match="ended after") as caught:
        drained(intake, step)
    assert caught.value.code == "invalid_request"


def test_another_digest_is_no_good_end() -> None:
    intake = Intake(io.BytesIO(b"abc"), 3, "0" * 64)
    assert intake.read(3) == b"abc"
    with pytest.raises(NightshiftError, match="digest"):
        intake.read(3)


def test_reading_all_at_once_and_into_a_buffer() -> None:
    assert Intake(io.BytesIO(b"abcdef"), 3, None).read() == b"abc"
    buffer = bytearray(2)
    assert Intake(io.BytesIO(b"abcdef"), 3, None).readinto(buffer) == 2 and buffer == b"ab"
    assert io.BufferedReader(Intake(io.BytesIO(b"abcdef"), 3, None)).read() == b"abc"


@given(st.binary(max_size=20))
def test_both_headers_declare_the_same(content: bytes) -> None:
    digest = hashlib.sha256(content)
    field = f"sha-512=:AAAA:, sha-256=:{b64encode(digest.digest()).decode()}:"
    assert declared_digest(field, None) == declared_digest(None, digest.hexdigest().upper()) == digest.hexdigest()
    assert declared_digest(field, digest.hexdigest()) == digest.hexdigest()


def test_nothing_declared() -> None:
    assert declared_digest(None, None) is None
    assert declared_digest("md5=:AAAA:", None) is None
