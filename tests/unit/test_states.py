"""The table of transitions against design's own, written out here a second time."""

from __future__ import annotations

import pytest

from common.states import ACTIVE, TABLE, TERMINAL, State, Verb, sources

DESIGN = """
-                             submit     waiting
waiting                       release    queued
queued                        recall     waiting
queued                        claim      running
running                       checkpoint running
running                       succeed    succeeded
running                       yield      waiting
running                       retry      waiting
running                       rescue     waiting
running                       rescue     failed
running                       fail       failed
waiting                       fail       failed
waiting,queued                cancel     cancelled
running                       cancel     cancelled
waiting,queued                expire     expired
failed,cancelled,expired      resubmit   waiting
"""


def _design() -> set[tuple[str | None, str, str]]:
    rows = [line.split() for line in DESIGN.strip().splitlines()]
    return {(None if source == "-" else source, verb, to) for froms, verb, to in rows for source in froms.split(",")}


def test_the_table_is_the_designs() -> None:
    assert {(t.source, t.verb, t.target) for t in TABLE} == _design()


def test_every_state_is_active_or_terminal() -> None:
    assert set(State) == ACTIVE | TERMINAL
    assert not ACTIVE & TERMINAL


def test_every_state_is_reached_and_every_verb_used() -> None:
    assert {t.target for t in TABLE} == set(State)
    assert {t.verb for t in TABLE} == set(Verb)


def test_what_has_succeeded_stays_so() -> None:
    assert not [t for t in TABLE if t.source is State.SUCCEEDED]


def test_only_resubmit_leaves_a_terminal_state() -> None:
    assert {t.verb for t in TABLE if t.source in TERMINAL} == {Verb.RESUBMIT}


def test_every_active_state_has_a_way_to_an_end() -> None:
    reached, frontier = set(TERMINAL), set(TERMINAL)
    while frontier:
        frontier = {t.source for t in TABLE if t.source and t.target in frontier} - reached
        reached |= frontier
    assert reached == set(State)


@pytest.mark.parametrize(
    ("verb", "target", "expected"),
    [
        (Verb.CANCEL, None, {State.WAITING, State.QUEUED, State.RUNNING}),
        (Verb.RESCUE, State.FAILED, {State.RUNNING}),
        (Verb.RESUBMIT, None, {State.FAILED, State.CANCELLED, State.EXPIRED}),
        (Verb.RESUBMIT, State.RUNNING, set()),
        (Verb.SUBMIT, None, set()),
    ],
)
def test_sources(verb: Verb, target: State | None, expected: set[State]) -> None:
    assert sources(verb, target) == expected
