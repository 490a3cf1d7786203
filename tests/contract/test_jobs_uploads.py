"""Uploads: declared, then there; seen by their key alone."""

from __future__ import annotations

from common.db import uploads
from common.db.engine import Database, Tx
from common.db.uploads import Upload
from tests.jobs import new_key


def _create(tx: Tx, key_id: str, **members: object) -> Upload:
    plain = {"filename": "ep 1 – ü.wav", "content_type": "audio/wav", "size": 5, "sha256": None, "ready": False}
    upload_id = uploads.new_id()
    return uploads.create(tx, upload_id, key_id, f"uploads/{key_id}/{upload_id}", **(plain | members))  # type: ignore[arg-type]


def test_an_upload_becomes_ready_with_what_was_seen(database: Database) -> None:
    key_id = new_key(database)
    with database.write() as tx:
        made = _create(tx, key_id, size=2**40)
        assert (made.state, made.size, made.filename) == ("pending", 2**40, "ep 1 – ü.wav")
        done = uploads.ready(tx, made.id, 17, "ab" * 32)
        assert (done.state, done.size, done.sha256) == ("ready", 17, "ab" * 32)
        assert uploads.get(tx, made.id, key_id) == done
        assert _create(tx, key_id, ready=True).state == "ready"


def test_an_upload_is_seen_by_its_key_alone(database: Database) -> None:
    mine, theirs = new_key(database), new_key(database)
    with database.write() as tx:
        made = _create(tx, mine)
        assert uploads.get(tx, made.id, theirs) is None
        assert uploads.page(tx, theirs, before=None, limit=10) == []


def test_pages_go_from_new_to_old(database: Database) -> None:
    key_id = new_key(database)
    with database.write() as tx:
        ids = sorted((_create(tx, key_id).id for _ in range(5)), reverse=True)
        first = uploads.page(tx, key_id, before=None, limit=3)
        second = uploads.page(tx, key_id, before=first[-1].id, limit=3)
    assert [upload.id for upload in [*first, *second]] == ids
