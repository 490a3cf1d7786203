"""A state machine that calls the verbs as workers, zombies, a scheduler and callers do, in any order.

After each call it compares the whole database with what was allowed: no transition outside the table, no job lost, no
result twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RULE_MARKER,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, event, func, select

from common.db import keys, processes, usage
from common.db.engine import Database, SimulatedClock
from common.db.tables import batches as batch_rows
from common.db.tables import metadata
from common.db.tables import usage as ledger
from common.errors import NightshiftError
from common.jobs import batches, claiming, finish, queueing, running, steering, submit, sweep
from common.jobs.batch import Batch, OnError
from common.jobs.batches import Entry, NewBatch
from common.jobs.job import Job, Lease, LeaseLost
from common.states import ACTIVE, TABLE, TERMINAL, Reason, State, Transition, Verb
from tests.jobs import ERROR, LEASE, QUOTA, RECEIVER, Snapshot, request, result, snapshot

DAWN = datetime(2030, 1, 1, tzinfo=UTC)
RETENTION = 2000.0
WORKERS = ("w1", "w2", "w3")
ENDED = {Verb.FAIL}  # what waits for a job that ends badly fails with it, whatever ended that one

any_number = st.integers(0, 10**6)


class Machine(RuleBasedStateMachine):
    """Calls the verbs as processes do, and looks at the whole database before and after each call."""

    database: Database
    clock: SimulatedClock

    @initialize()
    def empty(self) -> None:
        self.clock.now = DAWN
        with self.database.write() as tx:
            for table in reversed(metadata.sorted_tables):
                tx.execute(delete(table))
            self.key_ids = [
                keys.create(tx, name, ["write"], weight=weight)[0].id for name, weight in (("a", 1), ("b", 3))
            ]
            for worker in WORKERS:
                processes.register(tx, worker, "worker", lanes=["cpu"])
        self.leases: list[Lease] = []
        self.submitted: set[str] = set()
        self.pruned: set[str] = set()
        self.to_go: set[str] = set()
        self.succeeded: set[str] = set()
        self.to_stop: set[str] = set()
        self.blocks: set[tuple[str, str, int]] = set()
        self.messages: dict[str, list[str]] = {}
        self.needs: dict[str, set[str]] = {}
        self.first_with: dict[tuple[str, str], str] = {}
        self.batches: dict[str, Batch] = {}
        self.seen = self._look()

    # --- One call, and what it may have changed -----------------------------------------------------------------------

    def _do(self, verbs: set[Verb], call: Callable[[Any], Any], *, only: set[str] | None = None) -> Any:
        """Runs `call` in a transaction; it may make transitions of `verbs` alone, and of the jobs in `only` where given
        and of those that wait for them. Returns what it returned, or the exception it raised."""
        before = self.seen
        try:
            with self.database.write() as tx:
                answer = call(tx)
        except (LeaseLost, NightshiftError) as error:
            answer = error
        after = self.seen = self._look()
        if isinstance(answer, Exception):
            assert after == before, f"{answer!r} was raised, and yet something changed"
            return answer
        self._check_changes(before, after, verbs, only)
        self._check_everything(after)
        self._check_batches(after)
        self._check_usage(after)
        return answer

    def _look(self) -> Snapshot:
        with self.database.read() as tx:
            return snapshot(tx)

    def _check_changes(self, before: Snapshot, after: Snapshot, verbs: set[Verb], only: set[str] | None) -> None:
        for job_id in after.jobs.keys() - before.jobs.keys():
            assert Verb.SUBMIT in verbs
            assert after.jobs[job_id]["state"] == State.WAITING
            self.submitted.add(job_id)
            self.messages[job_id] = []
        for job_id in before.jobs.keys() & after.jobs.keys():
            old, new = before.jobs[job_id], after.jobs[job_id]
            if old["state"] != new["state"]:
                self._check_transition(before, old, new, verbs)
                assert only is None or job_id in only or old["upstream"] in only or old["state"] == State.WAITING
            elif old["attempt"] != new["attempt"] or old["result"] != new["result"]:
                raise AssertionError(f"{job_id} changed without a transition")
            elif new["state"] == State.QUEUED:
                assert old["updated_at"] == new["updated_at"], (
                    "how long it has stood in the queue is not known any more"
                )
            told = after.events[job_id][len(before.events[job_id]) :]
            assert after.events[job_id][: len(before.events[job_id])] == before.events[job_id]
            assert [event["state"] for event in told] == ([new["state"]] if old["state"] != new["state"] else [])
        gone = before.jobs.keys() - after.jobs.keys()
        assert gone <= self.to_go, "a job was deleted before its time"
        self.pruned |= gone
        self.blocks = {block for block in self.blocks if block[0] not in gone}

    def _check_transition(self, before: Snapshot, old: Any, new: Any, verbs: set[Verb]) -> None:
        made = {verb for verb in verbs if Transition(old["state"], verb, new["state"]) in TABLE}
        assert made, f"{old['state']} -> {new['state']} is no transition of {sorted(verbs)}"
        job_id, target = new["id"], new["state"]
        assert new["attempt"] == old["attempt"] + (target == State.RUNNING)
        if target == State.QUEUED:
            assert self.needs.get(job_id, set()) <= self.succeeded, "released before its upstreams succeeded"
            assert old["run_at"] <= self.clock.now
        if target in (State.QUEUED, State.RUNNING) and old["batch_id"] is not None:
            assert self.batches[old["batch_id"]].open_until is not None, "a job of a closed batch went on"
        if old["state"] == State.RUNNING and job_id in self.to_stop:
            assert target in (State.CANCELLED, State.FAILED), "a job that was asked to stop went on"
        if target == State.SUCCEEDED:
            self.succeeded.add(job_id)
            self.blocks = {block for block in self.blocks if block[0] != job_id}
        if target in TERMINAL:
            self.to_stop.discard(job_id)
            if new["request"]["callback"]:
                self.messages[job_id].append(f"job.{target}")

    def _check_everything(self, now: Snapshot) -> None:
        assert now.jobs.keys() | self.pruned == self.submitted
        assert now.blocks == self.blocks
        for job_id, row in now.jobs.items():
            assert row["state"] in ACTIVE | TERMINAL
            assert now.callbacks[job_id] == self.messages[job_id]
            assert (row["result"] is not None) == (row["state"] == State.SUCCEEDED)
            if row["result"] is not None:
                assert row["result"]["attempt"] == row["result_attempt"] == row["attempt"]
            if row["upstream"] is not None:
                assert row["state"] == State.WAITING
                assert now.jobs[row["upstream"]]["state"] in ACTIVE, "it waits for what will never come"
            assert not row["cancel_requested"] or row["state"] in {State.RUNNING, *TERMINAL}

    def _check_batches(self, now: Snapshot) -> None:
        """Their counts are those of their jobs, and they are over when these are."""
        with self.database.read() as tx:
            found = [Batch.from_row(row) for row in tx.execute(select(batch_rows))]
        self.batches |= {batch.id: batch for batch in found}
        for batch in found:
            own = [row for row in now.jobs.values() if row["batch_id"] == batch.id]
            if len(own) < batch.total:
                continue  # some were deleted, and stay counted
            for state in TERMINAL:
                assert batch.count(state) == sum(row["state"] == state for row in own)
            assert batch.over == (batch.state not in ("preparing",) and batch.ended == batch.total)

    def _check_usage(self, now: Snapshot) -> None:
        """The ledger says what is there."""
        there = Counter[str]()
        for row in now.jobs.values():
            if row["result"] is not None:
                there[row["key_id"]] += sum(output["bytes"] for output in row["result"]["outputs"])
        with self.database.read() as tx:
            told = tx.execute(select(ledger.c.key_id, func.sum(ledger.c.bytes)).group_by(ledger.c.key_id))
            assert Counter({key_id: int(total) for key_id, total in told}) == there

    def _some(self, number: int, states: set[State] | frozenset[State] = frozenset(State)) -> str | None:
        ids = sorted(job_id for job_id, row in self.seen.jobs.items() if row["state"] in states)
        return ids[number % len(ids)] if ids else None

    # --- Callers ------------------------------------------------------------------------------------------------------

    @rule(
        key=st.integers(0, 1), again=st.sampled_from((None, None, "one", "two")), body=st.integers(0, 1),
        priority=st.sampled_from(("interactive", "batch")), upstream=st.none() | any_number,
        deadline=st.none() | st.integers(0, 200), callback=st.booleans(),
    )  # fmt: skip
    def submit(
        self, key: int, again: str | None, body: int, priority: str, upstream: int | None, deadline: int | None,
        callback: bool,
    ) -> None:  # fmt: skip
        self._submit(key, again, body, priority, upstream, deadline, callback)

    def _submit(
        self, key: int, again: str | None, body: int, priority: str, upstream: int | None, deadline: int | None,
        callback: bool,
    ) -> None:  # fmt: skip
        members: dict[str, Any] = {"priority": priority, "metadata": {"body": str(body)}}
        if not callback:
            members["callback"] = None
        if deadline is not None and again is None:
            members["deadline"] = (DAWN + timedelta(seconds=deadline)).isoformat()
        other = (
            self._some(upstream, ACTIVE if upstream % 3 else frozenset(State))
            if upstream is not None and again is None
            else None
        )
        if other is not None:
            members["input"] = {"job": other, "output": "speech"}
        key_id, asked = self.key_ids[key], request(**members)
        answer = self._do(
            {Verb.SUBMIT},
            lambda tx: submit.submit(tx, key_id, asked, default_quota=QUOTA, idempotency_key=again),
        )
        if isinstance(answer, NightshiftError):
            assert answer.code in {"input_missing", "upstream_failed", "idempotency_mismatch"}
            return
        if other is not None and answer.created:
            self.needs[answer.job.id] = {other}
        if again is not None and answer.created:
            assert self.first_with.setdefault((key_id, again), answer.job.id) in {answer.job.id, *self.pruned}
            self.first_with[key_id, again] = answer.job.id
        elif again is not None:
            assert self.first_with[key_id, again] == answer.job.id

    @rule(one=any_number, other=any_number)
    def submit_for_two(self, one: int, other: int) -> None:
        """A job that reads what two others make, which may be one and the same, or have ended."""
        upstreams = [self._some(number, ACTIVE if number % 3 else frozenset(State)) for number in (one, other)]
        if None in upstreams:
            return
        asked = request(
            kind="segmentation", input=None, params={"mode": "automatic"},
            inputs=[{"job": upstream, "output": "speech"} for upstream in upstreams],
        )  # fmt: skip
        answer = self._do({Verb.SUBMIT}, lambda tx: submit.submit(tx, self.key_ids[0], asked, default_quota=QUOTA))
        if isinstance(answer, NightshiftError):
            assert answer.code in {"input_missing", "upstream_failed"}
            return
        self.needs[answer.job.id] = set(upstreams)

    @rule(number=any_number)
    def cancel(self, number: int) -> None:
        if (job_id := self._some(number)) is not None:
            job = self._do({Verb.CANCEL, *ENDED}, lambda tx: finish.cancel(tx, job_id), only={job_id})
            if job.state is State.RUNNING:
                self.to_stop.add(job_id)
            else:
                assert job.terminal, "a job that is not running is cancelled at once"

    @rule(number=any_number)
    def resubmit(self, number: int) -> None:
        if (job_id := self._some(number, TERMINAL)) is not None:
            self._do({Verb.RESUBMIT}, lambda tx: submit.resubmit(tx, job_id, default_quota=QUOTA), only={job_id})

    @rule(priority=st.sampled_from(("interactive", "batch")), worker=st.sampled_from(WORKERS), late=st.booleans())
    def a_job_that_starts_at_once(self, priority: str, worker: str, late: bool) -> None:
        """The usual way, in one step: without it most walks never get far."""
        self._submit(0, None, 0, priority, None, 1 if late else None, True)
        self._release()
        self._claim(worker, None)

    # --- Batches ------------------------------------------------------------------------------------------------------

    @rule(key=st.integers(0, 1), count=st.integers(0, 3), stop=st.booleans(), callback=st.booleans())
    def batch(self, key: int, count: int, stop: bool, callback: bool) -> None:
        more = {"on_error": OnError.STOP if stop else OnError.SKIP}
        new = NewBatch("nightly", {}, {}, "digest", callback={"url": RECEIVER} if callback else None, **more)
        made, _ = self._do(set(), lambda tx: batches.create(tx, self.key_ids[key], new))
        asked = request(priority="batch", callback={"url": RECEIVER} if callback else None)
        entries = [Entry(number, asked) for number in range(1, count + 1)]
        if entries:
            made = self._do(
                {Verb.SUBMIT},
                lambda tx: batches.take_in(tx, made, entries, default_quota=QUOTA, lease_seconds=LEASE),
            )
        self._do(set(), lambda tx: batches.activate(tx, made))

    def _batch(self, number: int) -> str | None:
        ids = sorted(self.batches)
        return ids[number % len(ids)] if ids else None

    @rule(number=any_number, verb=st.sampled_from((steering.pause, steering.resume, steering.cancel)))
    def steer(self, number: int, verb: Callable[..., Batch]) -> None:
        if (batch_id := self._batch(number)) is not None:
            answer = self._do({Verb.RECALL}, lambda tx: verb(tx, batch_id))
            assert not isinstance(answer, NightshiftError) or answer.code in {"state_conflict", "not_found"}

    @rule(number=any_number, limit=st.integers(1, 3))
    def cancel_some(self, number: int, limit: int) -> None:
        if (batch_id := self._batch(number)) is not None:
            self._do({Verb.CANCEL, *ENDED}, lambda tx: steering.cancel_some(tx, batch_id, limit=limit))
            self.to_stop |= {
                job_id
                for job_id, row in self.seen.jobs.items()
                if row["state"] == State.RUNNING and row["cancel_requested"]
            }

    @rule(number=any_number, limit=st.integers(1, 3))
    def retry_some(self, number: int, limit: int) -> None:
        if (batch_id := self._batch(number)) is not None:
            self._do({Verb.RESUBMIT}, lambda tx: steering.retry_some(tx, batch_id, default_quota=QUOTA, limit=limit))

    @rule()
    def recall(self) -> None:
        self._do({Verb.RECALL}, queueing.recall)
        for row in self.seen.jobs.values():
            if row["state"] == State.QUEUED and row["batch_id"] is not None:
                assert self.batches[row["batch_id"]].open_until is not None

    # --- Workers ------------------------------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS), named=st.none() | any_number)
    def claim(self, worker: str, named: int | None) -> None:
        self._claim(worker, named)

    @rule(worker=st.sampled_from(WORKERS), rung=any_number)
    def answer(self, worker: str, rung: int) -> None:
        """A bell, of whatever job."""
        self._claim(worker, None, rung=self._some(rung), resident=["rnnoise"], affinity_seconds=60.0)

    def _claim(self, worker: str, named: int | None, **more: Any) -> None:
        job_id = None if named is None else self._some(named)
        job: Job | None = self._do(
            {Verb.CLAIM}, lambda tx: claiming.claim(tx, worker, ["cpu"], LEASE, job_id=job_id, **more)
        )  # fmt: skip
        if job is not None:
            assert job_id in (None, job.id)
            self.leases.append(job.lease)

    @rule(worker=st.sampled_from(WORKERS), most=st.integers(1, 3))
    def claim_in_company(self, worker: str, most: int) -> None:
        def call(tx: Any) -> list[Job]:
            leader = claiming.claim(tx, worker, ["cpu"], LEASE)
            return [leader, *claiming.join(tx, leader, ["cpu"], LEASE, most)] if leader else []

        company = self._do({Verb.CLAIM}, call)
        assert len(company) <= most + 1 and len({job.id for job in company}) == len(company)
        assert all(job.unblemished for job in company[1:])
        self.leases += [job.lease for job in company]

    def _with(self, number: int, verbs: set[Verb], call: Callable[[Any, Lease], Any]) -> Lease | None:
        """A worker uses one of the leases it ever had. Returns it where it was valid and the call took effect."""
        lease = self.leases[-1 - number % len(self.leases)]
        row = self.seen.jobs.get(lease.job_id)
        valid = row is not None and row["state"] == State.RUNNING and row["attempt"] == lease.attempt
        before = self.seen
        answer = self._do(verbs, lambda tx: call(tx, lease), only={lease.job_id})
        if not valid:
            assert self.seen == before, "a fenced write changed something"
            return None
        return None if isinstance(answer, LeaseLost) else lease

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 8), index=st.integers(0, 2), fingerprint=st.sampled_from(("x", "y")))
    def checkpoint(self, number: int, index: int, fingerprint: str) -> None:
        def call(tx: Any, lease: Lease) -> None:
            running.checkpoint(tx, lease, LEASE, fingerprint, index, 3, {"speech": "f"})
            self.blocks.add((lease.job_id, fingerprint, index))

        self._with(number, {Verb.CHECKPOINT}, call)

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 8))
    def renew(self, number: int) -> None:
        lease = self._with(number, {Verb.CHECKPOINT}, lambda tx, lease: running.renew(tx, lease, LEASE, {"done": 1}))
        if lease is not None:
            assert self.seen.jobs[lease.job_id]["lease_until"] == self.clock.now + timedelta(seconds=LEASE)

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 8))
    def succeed(self, number: int) -> None:
        # What waits for several may learn now that another of them has failed.
        self._with(
            number, {Verb.SUCCEED, *ENDED}, lambda tx, lease: finish.succeed(tx, lease, result(attempt=lease.attempt))
        )  # fmt: skip

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 8))
    def fail(self, number: int) -> None:
        self._with(number, {Verb.FAIL}, lambda tx, lease: finish.fail(tx, lease, ERROR))

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 8), delay=st.sampled_from((0.0, 40.0)))
    def retry(self, number: int, delay: float) -> None:
        self._with(
            number, {Verb.RETRY, Verb.FAIL, Verb.CANCEL}, lambda tx, lease: finish.retry(tx, lease, ERROR, delay, 3)
        )  # fmt: skip

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 8))
    def give_back(self, number: int) -> None:
        self._with(number, {Verb.YIELD}, lambda tx, lease: running.give_back(tx, lease, Reason.PREEMPTED))

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 8))
    def stop(self, number: int) -> None:
        self._with(number, {Verb.CANCEL, *ENDED}, lambda tx, lease: finish.cancelled(tx, lease))

    # --- The scheduler, and time --------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((1, 20, 40, 40, 40, 3000)))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += timedelta(seconds=seconds)
        if seconds < 100:
            with self.database.write() as tx:
                for worker in WORKERS:
                    processes.seen(tx, worker)

    @rule()
    def release(self) -> None:
        self._release()

    def _release(self) -> None:
        bells = self._do({Verb.RELEASE}, lambda tx: queueing.fill(tx, "cpu", 2, LEASE))
        assert len({bell.job_id for bell in bells}) == len(bells)
        queued = [row for row in self.seen.jobs.values() if row["state"] == State.QUEUED]
        assert len(queued) <= 2 * 2 * len(WORKERS)

    @rule()
    def ring_again(self) -> None:
        before = {job_id: row["state"] for job_id, row in self.seen.jobs.items()}
        self._do(set(), lambda tx: queueing.unanswered(tx, 15.0, LEASE))
        assert {job_id: row["state"] for job_id, row in self.seen.jobs.items()} == before

    @rule()
    def rescue(self) -> None:
        for job_id in self._do(set(), sweep.expired_leases):
            was = self.seen.jobs[job_id]
            late = was["lease_until"] < self.clock.now
            job = self._do(
                {Verb.RESCUE, Verb.CANCEL, *ENDED}, lambda tx, it=job_id: sweep.rescue(tx, it, max_crashes=3),
                only={job_id},
            )  # fmt: skip
            assert (job is not None) == late
            assert job is None or job.reason in {Reason.LEASE_EXPIRED, Reason.CRASHED, Reason.BY_CALLER}

    @rule(number=any_number)
    def rescue_a_living_one(self, number: int) -> None:
        """A scheduler that looked before the worker renewed its lease."""
        job_id = self._some(number, {State.RUNNING})
        if job_id is not None and self.seen.jobs[job_id]["lease_until"] >= self.clock.now:
            assert self._do(set(), lambda tx: sweep.rescue(tx, job_id, max_crashes=3)) is None

    @rule()
    def expire(self) -> None:
        before = self.seen.jobs
        for job in self._do({Verb.EXPIRE, *ENDED}, finish.expire):
            assert before[job.id]["deadline"] < self.clock.now

    @rule(number=any_number)
    def prune_by_hand(self, number: int) -> None:
        """A caller deletes a job; or a pruner that looked before the job was taken up again."""
        if (job_id := self._some(number)) is not None:
            ended = self.seen.jobs[job_id]["state"] in TERMINAL
            began = self.seen.jobs[job_id]["attempt"] > 0
            sweeps = self.seen.sweeps
            self.to_go = {job_id} if ended else set()
            assert self._do(set(), lambda tx: sweep.remove(tx, job_id)) == ended
            assert self.seen.sweeps == sweeps + (ended and began), "files are deleted with their job and never else"
            self.to_go = set()

    @rule()
    def fold(self) -> None:
        before = self.seen
        self._do(set(), usage.fold)
        assert self.seen == before

    @rule()
    def prune(self) -> None:
        def end(row: Any) -> datetime | None:
            """What is of a batch goes with it."""
            if row["batch_id"] is None:
                return row["finished_at"]
            return self.batches[row["batch_id"]].finished_at

        long_ago = self.clock.now - timedelta(seconds=RETENTION)
        ended = {job_id for job_id, row in self.seen.jobs.items() if (when := end(row)) is not None and when < long_ago}
        self.to_go = ended
        self._do(set(), lambda tx: sweep.prune(tx, retention_seconds=RETENTION, idempotency_seconds=RETENTION))
        assert not ended & self.seen.jobs.keys()
        self.to_go = set()


def forget_the_disk(database: Database) -> None:
    """Nothing loses power here, so no commit waits for the disk: that doubles the steps in a second."""

    def ask(connection: Any, _record: object) -> None:
        connection.execute(
            "PRAGMA synchronous=OFF" if database.url.startswith("sqlite") else "SET synchronous_commit=off"
        )
        connection.commit()

    event.listen(database.engine, "connect", ask)
    database.dispose()


RULES = frozenset(name for name, member in vars(Machine).items() if hasattr(member, RULE_MARKER))


def walk(
    database: Database, examples: int, steps: int, phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink),
    rules: frozenset[str] = RULES,
) -> None:  # fmt: skip
    assert rules <= RULES
    forget_the_disk(database)
    clock = SimulatedClock(DAWN)
    database.clock = clock
    left_out = dict.fromkeys(RULES - rules)
    bound = type("Bound", (Machine,), {"database": database, "clock": clock, **left_out})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, phases=phases, derandomize=True, database=None,
            deadline=None, suppress_health_check=list(HealthCheck), print_blob=False,
        ),
    )  # fmt: skip
