"""Pure: which of the words that were written down for a whole recording are said in a part of it.

What a transcription heard says when; what the caller wrote says what. The two are aligned word by word, and a part's
words are known exactly only where both its ends are: the words on either side of each end agree.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# Within a part the caller may know better than what was heard, but not altogether.
_LEAST_AGREEMENT = 0.7


class Words:
    """heard: text of each utterance.  written: the words of the whole recording."""

    def __init__(self, heard: Sequence[str], written: str) -> None:
        spoken = [[_normal(match[0]) for match in _WORD.finditer(text)] for text in heard]
        self._places = [0]
        for words in spoken:
            self._places.append(self._places[-1] + len(words))
        self._written = written
        self._spans = [match.span() for match in _WORD.finditer(written)]
        said = [word for words in spoken for word in words]
        wrote = [_normal(written[start:end]) for start, end in self._spans]
        self._same: dict[int, int] = {}
        for block in SequenceMatcher(None, said, wrote, autojunk=False).get_matching_blocks():
            self._same |= {block.a + i: block.b + i for i in range(block.size)}
        self._said = len(said)

    def between(self, first: int, last: int) -> str | None:
        """The written words of the utterances `first` to `last`; None where they are not known exactly."""
        low, high = self._places[first], self._places[last + 1]
        if low == high:
            return None
        start, stop = self._same.get(low), self._same.get(high - 1)
        if start is None or stop is None:
            return None
        before = self._same.get(low - 1) if low else -1
        after = self._same.get(high) if high < self._said else len(self._spans)
        if before != start - 1 or after != stop + 1:
            return None
        agreed = sum(i in self._same for i in range(low, high))
        if agreed / max(high - low, stop - start + 1) < _LEAST_AGREEMENT:
            return None
        end = self._spans[stop + 1][0] if stop + 1 < len(self._spans) else len(self._written)
        return self._written[self._spans[start][0] : end].rstrip().rstrip("([{“„«‘").rstrip()


def _normal(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold().replace("’", "'")
