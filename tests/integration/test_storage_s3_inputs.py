from __future__ import annotations

import io
import uuid
from pathlib import Path

import pytest

from common.errors import NightshiftError
from common.settings import Settings
from common.storage.s3 import S3Store
from common.storage.s3_inputs import S3Inputs, parse_s3_uri
from tests.servers.processes import free_port
from tests.servers.s3 import s3_settings
from tests.servers.swift import S3Server


def allowing(*buckets: str, own: str = "own") -> Settings:
    return Settings(s3_bucket=own, s3_input_buckets=buckets)


def test_an_allowed_object_is_read(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    key = "Staffel 1/Folge #1? + ü%20.mp3"
    S3Store.from_settings(s3_settings(s3_server, bucket, tmp_path)).put("x", io.BytesIO(b"y"))
    settings = s3_settings(s3_server, "own-bucket", tmp_path, s3_input_buckets=(bucket,))
    inputs = S3Inputs(settings)
    inputs._client.put_object(Bucket=bucket, Key=key, Body=b"ID3...", ContentType="audio/mpeg")
    with inputs.open(f"s3://{bucket}/{key}") as found:
        assert (found.bucket, found.key, found.size, found.content_type) == (bucket, key, 6, "audio/mpeg")
        assert found.stream.read() == b"ID3..."
        found.stream.seek(3)
        assert found.stream.read() == b"..."
    assert found.stream.closed
    with pytest.raises(NightshiftError) as missing, inputs.open(f"s3://{bucket}/not/there.mp3"):
        pass
    assert missing.value.code == "input_missing"


def test_an_allowed_bucket_that_is_missing_or_away(s3_server: S3Server, tmp_path: Path) -> None:
    name = f"test-{uuid.uuid4().hex[:20]}"
    settings = s3_settings(s3_server, "own-bucket", tmp_path, s3_input_buckets=(name,))
    away = settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{free_port()}"})
    for inputs in (S3Inputs(settings), S3Inputs(away)):
        with pytest.raises(NightshiftError) as failed, inputs.open(f"s3://{name}/a.mp3"):
            pass
        assert failed.value.code == "storage_failed"
        assert failed.value.hint


@pytest.mark.parametrize("uri", ["s3://other/a.mp3", "s3://allowed2/a", "s3://ALLOWED/a", "s3://own/jobs/1/1/x"])
def test_other_buckets_are_forbidden(uri: str) -> None:
    with pytest.raises(NightshiftError) as failed:
        parse_s3_uri(allowing("allowed"), uri)
    assert failed.value.code == "bucket_forbidden"
    assert "NIGHTSHIFT_S3_INPUT_BUCKETS" in failed.value.hint


def test_the_services_own_bucket_is_forbidden_even_where_it_is_listed() -> None:
    with pytest.raises(NightshiftError) as failed:
        parse_s3_uri(allowing("own", own="own"), "s3://own/uploads/other-key/u")
    assert failed.value.code == "bucket_forbidden"


@pytest.mark.parametrize(
    "uri", ["", "s3://", "s3://allowed", "s3://allowed/", "s3:///a", "S3://allowed/a", "http://allowed/a", "s3://allowed/a/",
     "s3://allowed/../own/uploads/k/u", "s3://allowed/./a", "s3://allowed/a/..", "s3://allowed/a\r\nb", "s3://allowed/a\0"]
)  # fmt: skip
def test_what_is_no_address_of_an_object(uri: str) -> None:
    with pytest.raises(NightshiftError) as failed:
        parse_s3_uri(allowing("allowed"), uri)
    assert failed.value.code == "invalid_request"


def test_the_key_is_taken_as_it_stands() -> None:
    settings = allowing("allowed")
    assert parse_s3_uri(settings, "s3://allowed/a//b/..c/%2e?x=1#y") == ("allowed", "a//b/..c/%2e?x=1#y")
