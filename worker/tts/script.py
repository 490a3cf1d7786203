"""Pure: what a job is to say as numbered pieces, who speaks each, and which may be spoken together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.errors import NightshiftError
from common.params import TtsParams
from worker.tts import sentences


@dataclass(frozen=True)
class Speaker:
    """Who speaks. number: from 0.  name: for people, empty where there is only one.  voice: as the request names it, or
    the engine's own.  cloned: whether it is a recording's.  part: the number under which a model of conversations knows
    it, no two speakers' the same unless their voices are."""

    number: int
    name: str
    voice: str
    cloned: bool
    part: int = 0


@dataclass(frozen=True)
class Piece:
    """A part of a turn that is spoken at once. pause: seconds of silence before it."""

    index: int
    turn: int
    speaker: int
    text: str
    pause: float


@dataclass(frozen=True)
class Group:
    """Pieces that are spoken together, by their indices."""

    pieces: tuple[int, ...]


@dataclass(frozen=True)
class Script:
    """The pieces in their order, and the speakers by number."""

    speakers: tuple[Speaker, ...]
    pieces: tuple[Piece, ...]

    @property
    def characters(self) -> int:
        return sum(len(piece.text) for piece in self.pieces)


def write(params: TtsParams, speakers: Sequence[Speaker], longest: int, languages: Sequence[str]) -> Script:
    """The job's script. longest: characters of a piece.  languages: BCP 47, of each speaker.

    Raises `invalid_request` where nothing is left to speak.
    """
    found: list[Piece] = []
    for number, turn in enumerate(params.turns()):
        pause = params.pauses.turn
        for paragraph in sentences.paragraphs(sentences.clean(turn.text)):
            for text in sentences.pieces(paragraph, longest, languages[turn.speaker]):
                found.append(Piece(len(found), number, turn.speaker, text, pause if found else 0.0))
                pause = params.pauses.sentence
            pause = params.pauses.paragraph
    if not found:
        raise NightshiftError(
            "invalid_request",
            "There is nothing to speak.",
            hint="Send some text with letters or digits.",
            pointer="/params/text" if params.script is None else "/params/script",
        )
    return Script(tuple(speakers), tuple(found))


def groups(script: Script, together: int, anchored: frozenset[int], *, in_turn: bool) -> Iterator[Group]:
    """Every piece in one group, in the order in which the groups are to be spoken.

    together: pieces of a group at most.  anchored: speakers whose first piece is heard before their others.
    in_turn: whether each piece hears those before it; then each is a group of its own.

    It depends on the script alone, so that a job that was interrupted forms the same groups again.
    """
    if in_turn:
        yield from (Group((piece.index,)) for piece in script.pieces)
        return
    firsts = {speaker: anchor(script, speaker) for speaker in anchored}
    for some in (sorted(index for index in firsts.values() if index is not None), _others(script, firsts)):
        for start in range(0, len(some), together):
            yield Group(tuple(some[start : start + together]))


def anchor(script: Script, speaker: int) -> int | None:
    """Index of the speaker's first piece."""
    return next((piece.index for piece in script.pieces if piece.speaker == speaker), None)


def _others(script: Script, firsts: dict[int, int | None]) -> list[int]:
    taken = set(firsts.values())
    return [piece.index for piece in script.pieces if piece.index not in taken]
