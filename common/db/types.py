"""Column types and SQL expressions that PostgreSQL and SQLite share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Float, literal
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class Timestamp(TypeDecorator[datetime]):
    """An instant, UTC: `timestamptz` on PostgreSQL; on SQLite seconds since 1970, which compare as numbers."""

    impl = Float
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=True) if dialect.name == "postgresql" else Float(53))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return value.timestamp()

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)


def to_json(value: Any) -> str:
    """The text of a JSON column. What a decoder says of a broken file, or a loudness of silence, may hold what
    PostgreSQL's JSON cannot: NUL and lone surrogates become U+FFFD, numbers that are not finite become null."""
    with suppress(ValueError):
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        if "\\u0000" not in text and "\\ud" not in text:
            return text
    return json.dumps(_storable(value), separators=(",", ":"))


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


# SQL NULL for None: a CHECK on `IS NULL` must see it.
Json = JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


class Now(FunctionElement[datetime]):
    """The database's clock plus some seconds. One clock for all hosts: a worker's own never decides about a lease."""

    type = Timestamp()
    inherit_cache = True
    name = "now_plus"

    def __init__(self, plus: float | ColumnElement[float] = 0.0) -> None:
        super().__init__(literal(float(plus)) if isinstance(plus, int | float) else plus)


@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: Any, **kw: Any) -> str:
    # statement_timestamp() is STABLE, so comparisons with it can use an index, and it does not stand still in a long
    # transaction as now() does.
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: Any, **kw: Any) -> str:
    return f"((julianday('now') - 2440587.5) * 86400.0 + {compiler.process(element.clauses, **kw)})"
