"""The baseline of `submit`: a Flask view that writes one row, on the same server as the API and nothing around it.

`python -m bench.bare_flask` serves it with the settings of the API: the same gunicorn, the same threads, the same
database through SQLAlchemy with the same pool.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, jsonify, request
from sqlalchemy import Column, MetaData, Table, Text, insert
from ulid import ULID

from api.__main__ import Server
from common import log
from common.db.engine import Database
from common.db.types import Json
from common.settings import load

TABLE = Table("bare_jobs", MetaData(), Column("id", Text, primary_key=True), Column("body", Json, nullable=False))


def create_app(database: Database) -> Flask:
    app = Flask("bare")

    @app.post("/v1/jobs")
    def submit() -> Any:
        job = f"job_{ULID()}"
        with database.write() as tx:
            tx.execute(insert(TABLE).values(id=job, body=request.get_json()))
        return jsonify(id=job), 202

    return app


class BareServer(Server):
    def load(self) -> Any:
        log.setup(self._settings)
        return create_app(Database(self._settings.database, pool_size=self._settings.api_threads))


if __name__ == "__main__":
    BareServer(load()).run()
