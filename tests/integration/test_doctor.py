"""What `nightshift doctor` says of the buckets of others, on a real S3 server. Of copies: `test_transfer.py`."""

from __future__ import annotations

from pathlib import Path

from common.settings import Settings
from common.storage.s3_client import connect
from nightshift import doctor
from tests.servers.processes import free_port
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server


def test_no_buckets_and_no_copies_are_no_finding(tmp_path: Path, sqlite_url: str) -> None:
    settings = Settings(home=tmp_path, database_url=sqlite_url)
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
