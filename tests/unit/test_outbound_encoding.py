import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.outbound.encoding import PIECE_BYTES, Corrupt, UnknownEncoding, decoded, is_identity


def split(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@given(body=st.binary(max_size=3000), size=st.integers(1, 400), encoding=st.sampled_from(["gzip", "X-GZip", "deflate"]))
@settings(max_examples=80)
def test_what_was_compressed_comes_back_however_it_is_cut(body: bytes, size: int, encoding: str) -> None:
    packed = zlib.compress(body) if encoding == "deflate" else gzip.compress(body)
    assert b"".join(decoded(split(packed, size), encoding)) == body


@pytest.mark.parametrize("encoding", ["", "identity", " Identity ", "identity, identity"])
def test_identity_passes(encoding: str) -> None:
    assert is_identity(encoding)
    assert list(decoded([b"a", b"b"], encoding)) == [b"a", b"b"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_other_encodings_are_refused_at_once(encoding: str) -> None:
    with pytest.raises(UnknownEncoding):
        decoded([b""], encoding)


@pytest.mark.parametrize("size", [1 << 14, 1 << 30])
def test_a_bomb_comes_in_small_pieces(size: int) -> None:
    body = bytes(50 * PIECE_BYTES)
    packed = gzip.compress(body)
    assert len(packed) < len(body) / 900
    pieces = list(decoded(split(packed, size), "gzip"))
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert b"".join(pieces) == body


@pytest.mark.parametrize("length", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES])
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_nothing_is_left_inside_at_the_edge_of_a_piece(length: int, size: int) -> None:
    packed = gzip.compress(bytes(length))
    assert sum(map(len, decoded(split(packed, size), "gzip"))) == length


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_members_are_joined_and_padding_behind_them_is_left(size: int) -> None:
    packed = gzip.compress(b"one ") + gzip.compress(b"two")
    assert b"".join(decoded(split(packed, size), "gzip")) == b"one two"
    assert b"".join(decoded(split(packed + bytes(9), size), "gzip")) == b"one two"


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_body_that_ends_early_is_corrupt(cut: int) -> None:
    packed = gzip.compress(bytes(range(256)))
    with pytest.raises(Corrupt):
        list(decoded([packed[:-cut]], "gzip"))


def test_a_body_that_is_not_compressed_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        list(decoded([b"plain text"], "gzip"))


def test_an_empty_body_is_empty() -> None:
    assert list(decoded([], "gzip")) == []
