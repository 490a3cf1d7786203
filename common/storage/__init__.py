"""Where uploads, blocks and results lie: one protocol (`store`), a local folder and S3 behind it."""

from __future__ import annotations

from common.settings import Settings
from common.storage.store import PresignedPut, Stat, Store

__all__ = ["PresignedPut", "Stat", "Store", "open_store"]


def open_store(settings: Settings) -> Store:
    """S3 where a bucket is set, else the local folder. Contacts nothing; `Store.check` does."""
    if settings.s3_bucket:
        # boto3 takes a noticeable part of a second and 30 MB to import; the embedded stack never needs it.
        from common.storage.s3 import S3Store

        return S3Store.from_settings(settings)
    from common.storage.local import LocalStore

    return LocalStore(settings.files)
