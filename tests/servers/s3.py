"""Settings and buckets on the S3 server of the tests."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from pydantic import SecretStr

from common.settings import Settings
from tests.servers.swift import S3Server


def s3_settings(server: S3Server, bucket: str, home: Path, **changes: object) -> Settings:
    """Settings of a service whose files lie in `bucket`; `changes` go over them."""
    values: dict[str, object] = {
        "home": home,
        "s3_endpoint": server.endpoint,
        "s3_bucket": bucket,
        "s3_region": server.region,
        "s3_access_key": SecretStr(server.access_key),
        "s3_secret_key": SecretStr(server.secret_key),
    }
    return Settings(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path) -> str:
    """The name of a new, empty bucket. It goes with the server."""
    from common.storage.s3 import S3Store  # takes long to import

    name = f"test-{uuid.uuid4().hex[:20]}"
    S3Store.from_settings(s3_settings(s3_server, name, tmp_path)).ensure_bucket()
    return name
