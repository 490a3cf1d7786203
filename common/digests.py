"""Pure: a small number for each of very many digests, in twelve to twenty bytes each where a dict takes a hundred."""

from __future__ import annotations

from array import array

_AT_FIRST = 1024


class Digests:
    """From digests of 64 bits to numbers below 256; those that were never set have 0. A hash table with open addressing
    and linear probing: a digest is as good as a hash."""

    def __init__(self, expected: int = 0) -> None:
        self._held = 0
        self._make(max(_AT_FIRST, 1 << (expected * 5 // 4).bit_length()))

    def _make(self, size: int) -> None:
        # 0 is a free place, so that a digest of 0 counts as 1.
        self._keys = array("Q", bytes(8 * size))
        self._values = bytearray(size)
        self._size = size

    def __len__(self) -> int:
        return self._held

    def __getitem__(self, digest: int) -> int:
        return self._values[self._place(digest or 1)]

    def __setitem__(self, digest: int, value: int) -> None:
        digest = digest or 1
        place = self._place(digest)
        if not self._keys[place]:
            if 5 * self._held >= 4 * self._size:
                self._grow()
                place = self._place(digest)
            self._keys[place] = digest
            self._held += 1
        self._values[place] = value

    def _place(self, digest: int) -> int:
        """Where it is, or where it would be."""
        keys, last = self._keys, self._size - 1
        place = digest & last
        while keys[place] and keys[place] != digest:
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._make(2 * self._size)
        for digest, value in zip(keys, values, strict=True):
            if digest:
                place = self._place(digest)
                self._keys[place], self._values[place] = digest, value
