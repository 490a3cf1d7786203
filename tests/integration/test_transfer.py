"""Results delivered into a bucket on a real S3 server: from another bucket of it, and from a local folder."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text, update

from common.db.engine import Database
from common.db.tables import transfers as rows
from common.jobs import finish
from common.jobs.batch import Batch
from common.jobs.job import Job
from common.settings import Settings
from common.storage import Store, open_store
from common.storage.s3 import S3Store
from common.storage.s3_client import connect
from common.storage.s3_outputs import S3Outputs
from nightshift import doctor
from tests import batches
from tests.house import House, wait_for
from tests.jobs import claimed, new_key
from tests.servers.moto import MotoServer
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server
from worker import outbox, transfer
from worker.transfer import Carrier

pytestmark = pytest.mark.timeout(120)

TEMPLATE = {"naming": "{title}.{stem}.{ext}"}
FILES = {"speech.flac": b"speech" * 1000, "waveform.png": b"picture"}


def in_folder(server: S3Server, home: Path, allowed: str, **changes: object) -> Settings:
    """Settings of a service whose files lie in a local folder, and that may deliver into one bucket."""
    return s3_settings(server, "", home, s3_bucket=None, s3_output_buckets=(allowed,), **changes)


@pytest.fixture(params=["folder", "bucket"])
def settings(request: pytest.FixtureRequest, s3_server: S3Server, bucket: str, tmp_path: Path) -> Settings:
    """Of a service that may deliver into `bucket`, its own files in a folder, or in another bucket."""
    home = tmp_path / "home"
    if request.param == "folder":
        return in_folder(s3_server, home, bucket)
    made = s3_settings(s3_server, f"{bucket}-own", home, s3_output_buckets=(bucket,))
    S3Store.from_settings(made).ensure_bucket()
    return made


def published(database: Database, store: Store, job: Job, files: Mapping[str, bytes] = FILES) -> None:
    """Ends a job with these files."""
    lease = claimed(database, job.id).lease
    outputs = []
    for filename, content in files.items():
        key = f"jobs/{job.id}/1/{filename}"
        media = "image/png" if filename.endswith(".png") else "audio/flac"
        store.put(key, io.BytesIO(content), media)
        name, role = filename.partition(".")[0], "waveform" if media == "image/png" else "stem"
        outputs.append(
            {"name": name, "role": role, "filename": filename, "content_type": media, "bytes": len(content),
             "sha256": hashlib.sha256(content).hexdigest(), "key": key}
        )  # fmt: skip
    with database.write() as tx:
        finish.succeed(tx, lease, {"outputs": outputs})


def delivering(database: Database, store: Store, bucket: str, count: int = 1, **deliver: Any) -> Batch:
    """A batch whose jobs have all succeeded."""
    asked = {"to": f"s3://{bucket}/stems/", "overwrite": False, "pictures": False, **deliver}
    batch = batches.made(database, new_key(database), count, template=TEMPLATE, deliver=asked)
    for job in batches.items(database, batch.id):
        published(database, store, job)
    return batch


@contextmanager
def carrying(settings: Settings, database: Database) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=Carrier(settings, database, open_store(settings)).serve, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
        assert not thread.is_alive()


def ended(database: Database, batch: Batch) -> Batch:
    wait_for(lambda: not batches.look(database, batch.id).delivering, 30)
    return batches.look(database, batch.id)


def there(settings: Settings, bucket: str) -> dict[str, bytes]:
    client = connect(settings, settings.s3_endpoint)
    found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {one["Key"]: client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found}


def errors(database: Database) -> list[Mapping[str, Any]]:
    with database.read() as tx:
        return [row.error for row in tx.execute(select(rows).where(rows.c.error.is_not(None)))]


def test_results_lie_under_the_names_of_the_template(settings: Settings, bucket: str, database: Database) -> None:
    batch = delivering(database, open_store(settings), bucket, 3)
    with carrying(settings, database):
        assert (ended(database, batch).delivered, errors(database)) == (3, [])
    assert there(settings, bucket) == {f"stems/Episode-{n}.speech.flac": FILES["speech.flac"] for n in (1, 2, 3)}
    found = connect(settings, settings.s3_endpoint).head_object(Bucket=bucket, Key="stems/Episode-1.speech.flac")
    assert found["ContentType"] == "audio/flac"
    assert found["Metadata"]["sha256"] == hashlib.sha256(FILES["speech.flac"]).hexdigest()


def test_what_lies_there_already_counts_and_what_is_another_stays(
    settings: Settings, bucket: str, sqlite_database: Database
) -> None:
    store, client = open_store(settings), connect(settings, settings.s3_endpoint)
    first = delivering(sqlite_database, store, bucket)
    with carrying(settings, sqlite_database):
        assert ended(sqlite_database, first).delivered == 1
        same = delivering(sqlite_database, store, bucket)
        assert ended(sqlite_database, same).delivered == 1
        client.put_object(Bucket=bucket, Key="stems/Episode-1.speech.flac", Body=b"precious")
        other = delivering(sqlite_database, store, bucket)
        assert ended(sqlite_database, other).undelivered == 1
        (error,) = errors(sqlite_database)
        assert (error["code"], error["retryable"]) == ("target_exists", False)
        assert there(settings, bucket) == {"stems/Episode-1.speech.flac": b"precious"}
        over = delivering(sqlite_database, store, bucket, overwrite=True, pictures=True)
        assert ended(sqlite_database, over).delivered == 1
    assert there(settings, bucket) == {
        "stems/Episode-1.speech.flac": FILES["speech.flac"], "stems/Episode-1.waveform.png": b"picture",
    }  # fmt: skip


def test_in_parts(settings: Settings, bucket: str) -> None:
    """What is too big for one request lies there whole, its digest with it."""
    store, content = open_store(settings), bytes(range(256)) * 4096 * 11
    stat = store.put("jobs/j/1/speech.flac", io.BytesIO(content), "audio/flac")
    digest = hashlib.sha256(content).hexdigest()
    output = {"key": stat.key, "bytes": stat.size, "sha256": digest, "content_type": "audio/flac"}
    outputs = S3Outputs(settings, store, part_bytes=5 << 20)
    for _ in range(2):
        outputs.bring(output, f"s3://{bucket}/deep/speech.flac", overwrite=False)
    assert there(settings, bucket)["deep/speech.flac"] == content


@pytest.mark.parametrize(
    ("changes", "target", "code", "names"),
    [
        ({}, "s3://no-such-bucket-here/a.flac", "delivery_refused", "does not exist"),
        ({"s3_secret_key": SecretStr("wrong")}, "", "delivery_refused", "refused"),
    ],
)
def test_a_bucket_that_refuses(
    s3_server: S3Server, bucket: str, tmp_path: Path, changes: dict[str, Any], target: str, code: str, names: str
) -> None:
    settings = in_folder(s3_server, tmp_path, bucket, **changes)
    store = open_store(settings)
    store.put("jobs/j/1/a.flac", io.BytesIO(b"sound"))
    output = {"key": "jobs/j/1/a.flac", "bytes": 5, "sha256": "0" * 64, "content_type": "audio/flac"}
    with pytest.raises(Exception, match=f"{code}.*{names}"):
        S3Outputs(settings, store).bring(output, target or f"s3://{bucket}/a.flac", overwrite=False)


def test_a_result_that_is_gone_is_not_waited_for(settings: Settings, bucket: str, sqlite_database: Database) -> None:
    store = open_store(settings)
    batch = delivering(sqlite_database, store, bucket)
    (job,) = batches.items(sqlite_database, batch.id)
    store.delete_prefix(f"jobs/{job.id}/")
    with carrying(settings, sqlite_database):
        assert ended(sqlite_database, batch).undelivered == 1
    assert [error["code"] for error in errors(sqlite_database)] == ["input_missing"]


def test_a_bucket_no_longer_allowed_is_tried_a_few_times(
    s3_server: S3Server, bucket: str, tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "REFUSED_DELIVERY", (0.0, 0.0, 0.0))
    settings = in_folder(s3_server, tmp_path, "another")
    batch = delivering(sqlite_database, open_store(settings), bucket)
    with carrying(settings, sqlite_database):
        assert ended(sqlite_database, batch).undelivered == 1
    (error,) = errors(sqlite_database)
    assert (error["code"], "NIGHTSHIFT_S3_OUTPUT_BUCKETS" in error["hint"]) == ("bucket_forbidden", True)
    with sqlite_database.read() as tx:
        assert tx.execute(select(rows.c.tries)).scalar_one() == 3
    assert there(settings, bucket) == {}


def test_a_server_that_is_away_and_comes_back(
    moto_s3: MotoServer, tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = in_folder(moto_s3.server, tmp_path, "mine")
    connect(settings, settings.s3_endpoint).create_bucket(Bucket="mine")
    batch = delivering(sqlite_database, open_store(settings), "mine", 2)
    moto_s3.stop()
    with carrying(settings, sqlite_database):
        wait_for(lambda: len(errors(sqlite_database)) == 2, 60)
        assert {error["code"] for error in errors(sqlite_database)} == {"storage_failed"}
        assert batches.look(sqlite_database, batch.id).delivering == 2, "an outage fails nothing"
        moto_s3.start()
        with sqlite_database.write() as tx:
            tx.execute(update(rows).values(next_at=tx.now()))
        assert ended(sqlite_database, batch).delivered == 2
    assert sorted(there(settings, "mine")) == ["stems/Episode-1.speech.flac", "stems/Episode-2.speech.flac"]


def test_killed_between_copy_and_commit(s3_server: S3Server, bucket: str, tmp_path: Path, sqlite_url: str) -> None:
    """A real deliverer is killed after its copy and before it says so: the next one finds the copy and says so."""
    told = in_folder(s3_server, tmp_path / "home", bucket)
    house = House(
        tmp_path / "home", sqlite_url, s3_endpoint=told.s3_endpoint, s3_access_key=s3_server.access_key,
        s3_secret_key=s3_server.secret_key, s3_output_buckets=(bucket,),
    )  # fmt: skip
    batch = delivering(house.database, house.store, bucket)
    with house.database.write() as tx:
        # Its word of the end is not taken.
        tx.execute(
            text(
                "CREATE TRIGGER deaf BEFORE UPDATE ON transfers WHEN NEW.state = 'done'"
                " BEGIN SELECT RAISE(ABORT, 'deaf'); END"
            )
        )
    with house.running(house.process("worker.deliver")):
        wait_for(lambda: there(told, bucket), 30)
    with house.database.write() as tx:
        tx.execute(text("DROP TRIGGER deaf"))
    before = connect(told, told.s3_endpoint).head_object(Bucket=bucket, Key="stems/Episode-1.speech.flac")
    assert batches.look(house.database, batch.id).delivering == 1
    with house.database.write() as tx:
        tx.execute(update(rows).values(next_at=tx.now()))
    with house.running(house.process("worker.deliver")):
        assert ended(house.database, batch).delivered == 1
    after = connect(told, told.s3_endpoint).head_object(Bucket=bucket, Key="stems/Episode-1.speech.flac")
    assert after["LastModified"] == before["LastModified"], "it was not copied again"
    with house.database.read() as tx:
        assert tx.execute(select(rows.c.tries)).scalar_one() == 2
    house.database.dispose()


def test_a_copy_that_takes_long_stays_with_its_deliverer(
    s3_server: S3Server, bucket: str, tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "HOLD_SECONDS", 2.0)
    monkeypatch.setattr(outbox, "POLL_SECONDS", 0.05)
    bring, go_on = S3Outputs.bring, threading.Event()

    def slowly(*args: Any, **more: Any) -> None:
        assert go_on.wait(60)
        bring(*args, **more)

    monkeypatch.setattr(S3Outputs, "bring", slowly)
    settings = in_folder(s3_server, tmp_path, bucket)
    batch = delivering(sqlite_database, open_store(settings), bucket)

    def held_until() -> datetime | None:
        with sqlite_database.read() as tx:
            found: datetime | None = tx.execute(select(rows.c.next_at).where(rows.c.tries == 1)).scalar_one_or_none()
            return found

    with carrying(settings, sqlite_database):
        try:
            first = wait_for(held_until, 30)
            wait_for(lambda: (held_until() or first) > first, 30)
        finally:
            go_on.set()
        assert ended(sqlite_database, batch).delivered == 1


def test_doctor_tells_of_copies_that_failed(
    s3_server: S3Server, bucket: str, tmp_path: Path, sqlite_url: str, sqlite_database: Database
) -> None:
    settings = in_folder(s3_server, tmp_path / "home", bucket, database_url=sqlite_url)
    connect(settings, settings.s3_endpoint).put_object(
        Bucket=bucket, Key="stems/Episode-1.speech.flac", Body=b"precious"
    )
    batch = delivering(sqlite_database, open_store(settings), bucket, 2)
    with carrying(settings, sqlite_database):
        assert ended(sqlite_database, batch).undelivered == 1
    (found,) = doctor.deliveries(settings)
    assert found.level == "warning" and found.says.endswith(": 1")
    assert "retry-failed" in found.mend
