"""What `nightshift doctor` says of the buckets of others, on a real S3 server, and of what was to be copied there."""

from __future__ import annotations

from pathlib import Path

from common.db.engine import Database
from common.settings import Settings
from common.storage import open_store
from common.storage.s3_client import connect
from nightshift import doctor
from tests.integration.test_transfer import carrying, delivering, ended, in_folder
from tests.servers.processes import free_port
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server


def test_no_buckets_and_no_copies_are_no_finding(tmp_path: Path, sqlite_database: Database) -> None:
    settings = Settings(home=tmp_path, database_url=_url(sqlite_database))
    assert [*doctor.buckets(settings), *doctor.deliveries(settings)] == []


def test_each_bucket_is_tried_for_what_it_is_there_for(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    settings = s3_settings(
        s3_server, "own", tmp_path, s3_input_buckets=(bucket, "lost-in"), s3_output_buckets=(bucket, "lost-out")
    )
    found = list(doctor.buckets(settings))
    assert [one.level for one in found] == ["ok", "problem", "ok", "problem"]
    lost = [one for one in found if one.level == "problem"]
    assert [one.part for one in lost] == ["bucket for inputs", "bucket for results"]
    assert all("does not exist" in one.says and "lost-" in one.mend for one in lost)
    client = connect(settings, settings.s3_endpoint)
    assert not client.list_objects_v2(Bucket=bucket).get("Contents")
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads"), "what was begun is taken back"


def test_a_server_that_is_away_is_told(s3_server: S3Server, tmp_path: Path) -> None:
    settings = s3_settings(s3_server, "own", tmp_path, s3_input_buckets=("in",), s3_output_buckets=("out",))
    away = settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{free_port()}"})
    found = list(doctor.buckets(away))
    assert [one.level for one in found] == ["problem", "problem"]
    assert all(away.s3_endpoint in one.mend for one in found)


def test_copies_that_failed_are_told(
    s3_server: S3Server, bucket: str, tmp_path: Path, sqlite_database: Database
) -> None:
    settings = in_folder(s3_server, tmp_path / "home", bucket, database_url=_url(sqlite_database))
    connect(settings, settings.s3_endpoint).put_object(
        Bucket=bucket, Key="stems/Episode-1.speech.flac", Body=b"precious"
    )
    batch = delivering(sqlite_database, open_store(settings), bucket, 2)
    with carrying(settings, sqlite_database):
        assert ended(sqlite_database, batch).undelivered == 1
    (found,) = doctor.deliveries(settings)
    assert found.level == "warning" and found.says.endswith(": 1")
    assert "retry-failed" in found.mend


def _url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)
