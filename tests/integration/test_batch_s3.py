"""A batch of a bucket's objects, on a real S3 server: what a pattern means, and what is new the next time."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.batches import planning
from common.batches.intake import Intake
from common.db.engine import Database
from common.errors import NightshiftError
from common.jobs import batch_query
from common.params.batch import BatchRequest
from common.settings import Settings
from common.storage import open_store
from common.storage.s3_inputs import S3Inputs
from tests.jobs import new_key
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server


def _request(bucket: str, pattern: str = "shows/**/*.{mp3,wav}", **members: object) -> BatchRequest:
    source = {"pattern": f"s3://{bucket}/{pattern}", "exclude": ["**/draft-*"]}
    return BatchRequest.model_validate({"preset": "podcast-voice", "s3": source, "only_new": True, **members})


def test_objects_of_a_bucket(s3_server: S3Server, bucket: str, tmp_path: Path, sqlite_database: Database) -> None:
    settings = s3_settings(s3_server, "own-bucket", tmp_path, s3_input_buckets=(bucket,))
    client = S3Inputs(settings)._client
    for key in ("shows/a/1.mp3", "shows/b/2 ü.wav", "shows/b/draft-3.mp3", "shows/notes.txt", "other/4.mp3"):
        client.put_object(Bucket=bucket, Key=key, Body=b"ID3" if "4" not in key else b"")
    client.put_object(Bucket=bucket, Key="shows/empty.mp3", Body=b"")
    intake = Intake(settings, sqlite_database, open_store(Settings(home=tmp_path / "home")))
    key_id = new_key(sqlite_database)
    plan = planning.plan(intake, key_id, _request(bucket))
    assert (plan.jobs, plan.bytes, plan.skipped) == (2, 6, {"excluded": 1, "empty_object": 1})
    made, _ = intake.make(key_id, _request(bucket))
    batch = intake.run(made.id)
    assert batch is not None
    assert (batch.total, batch.skipped, batch.state) == (2, 2, "active")
    with sqlite_database.read() as tx:
        found = batch_query.items(tx, batch.id, after=0, limit=9)
    assert [job.request["input"]["s3"] for job in found] == [
        f"s3://{bucket}/shows/a/1.mp3", f"s3://{bucket}/shows/b/2 ü.wav",
    ]  # fmt: skip
    client.put_object(Bucket=bucket, Key="shows/a/5.mp3", Body=b"ID3")
    again, _ = intake.make(key_id, _request(bucket))
    second = intake.run(again.id)
    assert second is not None
    assert (second.total, second.skipped) == (1, 4)


def test_a_bucket_nobody_allowed_is_not_listed(
    s3_server: S3Server, bucket: str, tmp_path: Path, sqlite_database: Database
) -> None:
    settings = s3_settings(s3_server, "own-bucket", tmp_path, s3_input_buckets=("another",))
    intake = Intake(settings, sqlite_database, open_store(Settings(home=tmp_path / "home")))
    with pytest.raises(NightshiftError, match="bucket_forbidden"):
        intake.make(new_key(sqlite_database), _request(bucket))
    with pytest.raises(NightshiftError, match="bucket_forbidden"):
        S3Inputs(settings).lister(bucket)
