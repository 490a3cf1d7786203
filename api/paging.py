"""Pages of a list, newest first. A cursor is opaque and signed: it works for the list it came from and no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import request
from itsdangerous import BadData, URLSafeSerializer
from pydantic import BaseModel, ConfigDict, Field

from api.context import public_url, service
from common.errors import NightshiftError

T = TypeVar("T")


class PageQuery(BaseModel):
    """Which page to give."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Most items of the page")
    cursor: str | None = Field(None, max_length=500, description="`next` of the page before")

    def before(self, name: str) -> str | None:
        """The id that the page starts after. name: of the list. Raises `invalid_cursor`."""
        if self.cursor is None:
            return None
        try:
            value = _serializer(name).loads(self.cursor)
        except BadData as error:
            raise NightshiftError(
                "invalid_cursor", hint="Pass `next` of the previous page as it is, or leave the cursor out."
            ) from error
        return str(value)


def cut(
    name: str, query: PageQuery, found: Sequence[T], key: Callable[[T], str] | None = None
) -> tuple[list[T], str | None, dict[str, str]]:
    """A page from `query.limit` + 1 found items: the items, the cursor of the next page, and the Link header.

    key: what the next page starts after; left out: the id.
    """
    items = list(found[: query.limit])
    if len(found) <= query.limit:
        return items, None, {}
    last: Any = items[-1]
    cursor = _serializer(name).dumps(key(last) if key is not None else last.id)
    assert isinstance(cursor, str)
    others = [(key, value) for key, value in request.args.items(multi=True) if key != "cursor"]
    address = public_url(f"{request.path}?{urlencode([*others, ('cursor', cursor)])}")
    return items, cursor, {"Link": f'<{address}>; rel="next"'}


def _serializer(name: str) -> URLSafeSerializer:
    return URLSafeSerializer(service().signing_key, salt=f"cursor:{name}")
