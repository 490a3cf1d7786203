"""Pure: the states of a job and the one table of allowed transitions.

Every verb of `common.jobs` performs transitions of this table and no other; CHECK constraints stand behind them, and a
state machine test walks all interleavings against it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ACTIVE = frozenset({State.WAITING, State.QUEUED, State.RUNNING})
TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})
UNSUCCESSFUL = TERMINAL - {State.SUCCEEDED}


class Reason(StrEnum):
    """Why a job is in its state; shown to users beside the state."""

    SUBMITTED = "submitted"
    RESUBMITTED = "resubmitted"
    UPSTREAM = "waiting_for_upstream"
    RELEASED = "released"
    CLAIMED = "claimed"
    DONE = "done"
    CACHED = "taken_from_cache"
    PREEMPTED = "preempted"
    DRAINED = "worker_drained"
    WINDOW_CLOSED = "window_closed"
    PAUSED = "paused"
    BACKOFF = "retry_backoff"
    LEASE_EXPIRED = "lease_expired"
    ERROR = "error"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    CRASHED = "worker_crashed"
    UPSTREAM_FAILED = "upstream_failed"
    BY_CALLER = "cancelled_by_caller"
    DEADLINE = "deadline_passed"


class Verb(StrEnum):
    SUBMIT = "submit"
    RELEASE = "release"
    RECALL = "recall"
    CLAIM = "claim"
    CHECKPOINT = "checkpoint"
    SUCCEED = "succeed"
    YIELD = "yield"
    RETRY = "retry"
    RESCUE = "rescue"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    RESUBMIT = "resubmit"


class Transition(NamedTuple):
    source: State | None
    verb: Verb
    target: State


TABLE: frozenset[Transition] = frozenset(
    {
        Transition(None, Verb.SUBMIT, State.WAITING),
        Transition(State.WAITING, Verb.RELEASE, State.QUEUED),
        # Its batch was paused or its window closed before anybody took it up.
        Transition(State.QUEUED, Verb.RECALL, State.WAITING),
        Transition(State.QUEUED, Verb.CLAIM, State.RUNNING),
        Transition(State.RUNNING, Verb.CHECKPOINT, State.RUNNING),
        Transition(State.RUNNING, Verb.SUCCEED, State.SUCCEEDED),
        Transition(State.RUNNING, Verb.YIELD, State.WAITING),
        Transition(State.RUNNING, Verb.RETRY, State.WAITING),
        Transition(State.RUNNING, Verb.RESCUE, State.WAITING),
        Transition(State.RUNNING, Verb.RESCUE, State.FAILED),
        Transition(State.RUNNING, Verb.FAIL, State.FAILED),
        # A job whose upstream failed never ran: it fails from where it waits.
        Transition(State.WAITING, Verb.FAIL, State.FAILED),
        Transition(State.WAITING, Verb.CANCEL, State.CANCELLED),
        Transition(State.QUEUED, Verb.CANCEL, State.CANCELLED),
        Transition(State.RUNNING, Verb.CANCEL, State.CANCELLED),
        Transition(State.WAITING, Verb.EXPIRE, State.EXPIRED),
        Transition(State.QUEUED, Verb.EXPIRE, State.EXPIRED),
        Transition(State.FAILED, Verb.RESUBMIT, State.WAITING),
        Transition(State.CANCELLED, Verb.RESUBMIT, State.WAITING),
        Transition(State.EXPIRED, Verb.RESUBMIT, State.WAITING),
    }
)


def sources(verb: Verb, target: State | None = None) -> frozenset[State]:
    """The states from which `verb` may start (to `target`, where given): what a guarded UPDATE puts in its WHERE."""
    return frozenset(
        t.source for t in TABLE if t.verb is verb and t.source is not None and (target is None or t.target is target)
    )
