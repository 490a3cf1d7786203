"""`python -m common.storage.ensure`: makes the bucket where it is missing, and sees that the storage can be used.

A service that starts before its storage answers is told to try again by whoever starts it: the exit status is 1.
"""

from __future__ import annotations

import sys

from common import log
from common.errors import NightshiftError
from common.settings import Settings, load
from common.storage import open_store

_log = log.get(__name__)


def ensure(settings: Settings) -> None:
    """Makes the bucket of the settings, or the folder. Raises `storage_failed` where it cannot be used."""
    if settings.s3_bucket:
        from common.storage.s3 import S3Store

        S3Store.from_settings(settings).ensure_bucket()
    open_store(settings).check()


def main() -> int:
    settings = load()
    log.setup(settings)
    where = f"s3://{settings.s3_bucket}" if settings.s3_bucket else str(settings.files)
    try:
        ensure(settings)
    except NightshiftError as error:
        _log.error("the storage cannot be used", storage=where, error=error.detail, mend=error.hint)
        return 1
    _log.info("the storage is ready", storage=where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
