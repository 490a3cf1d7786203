"""What is wrong, and how to mend it: each check looks at one part and says so in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import httpx
from sqlalchemy.exc import SQLAlchemyError

from common.db import migrate, processes
from common.db.engine import Database, Tx
from common.engines import REGISTRY
from common.errors import NightshiftError
from common.jobs import figures
from common.settings import Settings
from common.storage import open_store
from nightshift.errors import NightshiftClientError
from nightshift.place import find

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Finding:
    """level: ok, warning (it works, but not all of it), or problem.  mend: what to do."""

    part: str
    level: Literal["ok", "warning", "problem"]
    says: str
    mend: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every part in turn. A part that is not reachable costs seconds, not minutes, and stops no other check."""
    checks: tuple[tuple[str, Callable[[Settings], Iterator[Finding]]], ...] = (
        ("database", database),
        ("broker", broker),
        ("storage", storage),
        ("buckets", buckets),
        ("processes", crew),
        ("deliveries", deliveries),
        ("engines", engines),
        ("language model", language_model),
        ("api", api),
    )
    for part, check in checks:
        try:
            yield from check(settings)
        except Exception as error:  # a check that breaks is a finding too
            yield Finding(part, "problem", f"{type(error).__name__}: {error}", "This is unexpected: look at the log.")


def database(settings: Settings) -> Iterator[Finding]:
    opened = Database(settings.database, pool_size=1)
    where = opened.engine.url.render_as_string(hide_password=True)
    try:
        at, newest = migrate.current(opened)
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
        yield Finding("database", "problem", f"{where}: {cause}", "Start it, or correct NIGHTSHIFT_DATABASE_URL.")
        return
    finally:
        opened.dispose()
    if at != newest:
        yield Finding(
            "database", "problem", f"{where} is at schema {at or 'none'}, not {newest}.", "Run: nightshift migrate"
        )
    else:
        yield Finding("database", "ok", f"{where}, schema {at}")


def broker(settings: Settings) -> Iterator[Finding]:
    if settings.broker is None:
        yield Finding("broker", "ok", "none: workers look into the database")
        return
    import redis

    where = settings.broker.rsplit("@", 1)[-1]
    try:
        redis.Redis.from_url(settings.broker, socket_timeout=3, socket_connect_timeout=3).ping()
    except (redis.RedisError, ValueError) as error:
        yield Finding("broker", "problem", f"{where}: {error}", "Start Redis, or correct NIGHTSHIFT_BROKER_URL.")
        return
    yield Finding("broker", "ok", where)


def _asked(settings: Settings, question: Callable[[Tx], Answer]) -> Answer | None:
    """What the database answers; None while it is away."""
    opened = Database(settings.database, pool_size=1)
    try:
        with opened.read() as tx:
            return question(tx)
    except SQLAlchemyError:
        return None
    finally:
        opened.dispose()


def storage(settings: Settings) -> Iterator[Finding]:
    where = f"s3://{settings.s3_bucket}" if settings.s3_bucket else str(settings.files)
    try:
        open_store(settings).check()
    except NightshiftError as error:
        yield Finding("storage", "problem", f"{where}: {error.detail}", error.hint)
        return
    yield Finding("storage", "ok", where)


def buckets(settings: Settings) -> Iterator[Finding]:
    """Those of others: whether inputs can be found in them, and results written into them."""
    if not settings.s3_input_buckets and not settings.s3_output_buckets:
        return
    # boto3 is only needed here; the embedded stack does without.
    from common.storage.s3_inputs import S3Inputs
    from common.storage.s3_outputs import S3Outputs

    inputs, outputs = S3Inputs(settings), S3Outputs(settings, open_store(settings))

    def listed(bucket: str) -> None:
        next(iter(inputs.lister(bucket).list("")), None)

    for use, names, tried in (
        ("inputs", settings.s3_input_buckets, listed), ("results", settings.s3_output_buckets, outputs.check)
    ):  # fmt: skip
        for bucket in names:
            part, where = f"bucket for {use}", f"s3://{bucket}"
            try:
                tried(bucket)
            except NightshiftError as error:
                yield Finding(part, "problem", f"{where}: {error.detail}", error.hint)
            else:
                yield Finding(part, "ok", where)


def crew(settings: Settings) -> Iterator[Finding]:
    known = _asked(settings, lambda tx: processes.list_all(tx, settings.alive_seconds))
    if known is None:
        yield Finding("processes", "problem", "not known while the database is away")
        return
    commands = {
        "scheduler": "python -m worker.scheduler",
        "deliverer": "python -m worker.deliver",
        "worker": "python -m worker",
    }
    losses = {
        "scheduler": "Lost bells, expired leases and retries wait for it.",
        "deliverer": "Callbacks wait for it.",
        "worker": "Jobs wait for it.",
    }
    for role, command in commands.items():
        alive = [process for process in known if process.role == role and process.alive]
        if not alive:
            yield Finding(role, "problem", f"no {role} is alive. {losses[role]}", f"Run: {command} (or: nightshift up)")
        for process in alive:
            if process.quarantined_until is not None:
                died = ", ".join(process.crashed_jobs)
                yield Finding(
                    role, "warning", f"{process.name} is in quarantine: it died on {died}.", "Look at its log."
                )
            elif process.control != "run":
                yield Finding(role, "warning", f"{process.name} is told to {process.control}.")
            else:
                doing = f", runs {', '.join(process.job_ids)}" if process.job_ids else ""
                yield Finding(role, "ok", f"{process.name} on {process.host}{doing}")


def deliveries(settings: Settings) -> Iterator[Finding]:
    """Results that were to be copied into buckets, of the last day."""
    found = _asked(settings, lambda tx: figures.deliveries(tx, 86400.0))
    if found is None:
        return
    if found.failed:
        says = f"results that could not be copied into their bucket in the last day: {found.failed}"
        mend = "nightshift batch errors BATCH says why; nightshift batch retry-failed BATCH tries again."
        yield Finding("deliveries", "warning", says, mend)
    if found.retrying:
        says = f"copies that failed and are tried again: {found.retrying} of {found.pending} on their way"
        yield Finding("deliveries", "warning", says, "Look at the deliverer's log.")


def engines(settings: Settings) -> Iterator[Finding]:
    known_workers = _asked(settings, lambda tx: processes.list_all(tx, settings.alive_seconds, "worker"))
    if known_workers is None:
        return
    workers = [worker for worker in known_workers if worker.alive]
    for spec in REGISTRY.values():
        told = [worker.info.get("engines", {}).get(spec.name) for worker in workers]
        known = [state for state in told if state]
        if any(state["ready"] for state in known):
            yield Finding("engine", "ok", f"{spec.name} ({spec.kind})")
            continue
        says = known[0]["missing"] if known else f"no live worker serves the lane {spec.lane}"
        mend = (
            known[0].get("hint", "") if known else ("Run: python -m worker" + (" --cpu" if spec.lane == "cpu" else ""))
        )
        yield Finding("engine", "warning", f"{spec.name} ({spec.kind}): {says}", mend)


def language_model(settings: Settings) -> Iterator[Finding]:
    """Whether the configured server answers, and has the model; nothing is asked of the model."""
    part = "language model"
    if settings.llm_url is None and settings.llm_model is None:
        return
    if settings.llm_url is None or settings.llm_model is None:
        lacking = "NIGHTSHIFT_LLM_URL" if settings.llm_url is None else "NIGHTSHIFT_LLM_MODEL"
        yield Finding(part, "problem", f"{lacking} is not set: nobody answers.", "Set both, or neither.")
        return
    key = settings.llm_api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        answer = httpx.get(f"{settings.llm_url.rstrip('/')}/models", headers=headers, timeout=5.0, trust_env=False)
    except httpx.HTTPError as error:
        reason = error or type(error).__name__
        yield Finding(part, "problem", f"{settings.llm_url}: {reason}", "Start it, or correct NIGHTSHIFT_LLM_URL.")
        return
    if answer.status_code in (401, 403):
        yield Finding(part, "problem", f"{settings.llm_url} refuses the key.", "Correct NIGHTSHIFT_LLM_API_KEY.")
    elif answer.status_code != 200:
        yield Finding(
            part, "warning", f"{settings.llm_url}/models answers {answer.status_code}.",
            "Is NIGHTSHIFT_LLM_URL the base of an OpenAI-like interface, usually ending with /v1?",
        )  # fmt: skip
    elif settings.llm_model not in (names := _models_of(answer)):
        told = f"It has: {', '.join(names[:10])}." if names else "It names none."
        yield Finding(
            part, "warning", f"{settings.llm_url} does not name {settings.llm_model}. {told}",
            "Correct NIGHTSHIFT_LLM_MODEL.",
        )  # fmt: skip
    else:
        yield Finding(part, "ok", f"{settings.llm_model} at {settings.llm_url}")


def _models_of(answer: httpx.Response) -> list[str]:
    try:
        return [str(entry["id"]) for entry in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def api(settings: Settings) -> Iterator[Finding]:
    try:
        place = find(home=settings.home)
    except NightshiftClientError:
        yield Finding(
            "api", "warning", "its address or the key is not known here", "Set NIGHTSHIFT_URL and NIGHTSHIFT_API_KEY."
        )
        return
    try:
        answer = httpx.get(f"{place.url}/v1/keys/me", headers={"Authorization": f"Bearer {place.api_key}"}, timeout=5.0)
    except httpx.HTTPError as error:
        yield Finding("api", "problem", f"{place.url}: {error}", "Run: python -m api (or: nightshift up)")
        return
    if answer.status_code == 401:
        yield Finding(
            "api", "problem", f"{place.url} does not know the key.", "Make one: nightshift key create --local NAME"
        )
    elif answer.status_code != 200:
        yield Finding("api", "problem", f"{place.url} answers {answer.status_code}.", f"Look at {place.url}/readyz.")
    else:
        yield Finding("api", "ok", place.url)
