from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from common.digests import Digests

# Most of them meet in the table: only their last bits say where they stand.
digests = st.one_of(st.integers(0, 3), st.integers(0, 40).map(lambda n: n << 40), st.integers(0, 2**64 - 1))


@given(st.lists(st.tuples(digests, st.integers(0, 255))))
def test_it_says_what_was_set_last(told: list[tuple[int, int]]) -> None:
    table, plain = Digests(), defaultdict[int, int](int)
    for digest, value in told:
        assert table[digest] == plain[digest or 1]
        table[digest] = plain[digest or 1] = value
    assert all(table[digest] == plain[digest or 1] for digest, _ in told)


def test_it_grows_and_keeps_all() -> None:
    table = Digests()
    many = [n * 0x9E3779B97F4A7C15 % 2**64 for n in range(1, 20_000)]
    for digest in many:
        table[digest] = digest % 256
    assert len(table) == len(many)
    assert all(table[digest] == digest % 256 for digest in many)
    assert not any(table[digest + 1] for digest in many[:100])
