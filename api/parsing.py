"""Requests into models: JSON bodies, query parameters and headers, with errors that point to the place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_origin

from flask import request
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from common.errors import NightshiftError
from common.pointers import located, pointer, walk

MAX_JSON_BYTES = 1_000_000


def json_body(adapter: TypeAdapter[Any], complete: Callable[[Any], Any] | None = None) -> Any:
    """The JSON body as `adapter` reads it. complete: what is made of it before.

    Raises `unsupported_media_type`, `too_large`, `malformed_json` and `invalid_request`.
    """
    kind = request.mimetype
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise NightshiftError(
            "unsupported_media_type",
            f"The body is declared as {kind[:100] or 'nothing'}.",
            hint="Send JSON with Content-Type: application/json.",
        )
    too_large = NightshiftError("too_large", f"A JSON body has at most {MAX_JSON_BYTES} bytes.")
    if (request.content_length or 0) > MAX_JSON_BYTES:
        raise too_large
    # One byte more than allowed tells a chunked body that is too long, without reading on.
    raw = request.stream.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise too_large
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise NightshiftError("malformed_json", f"The body is not valid JSON: {error}.") from error
    nul = _nul(value)
    if nul is not None:
        raise _invalid([{"pointer": nul, "detail": "Text must not hold the character NUL."}])
    if complete is not None:
        value = complete(value)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise invalid(error.errors(), value) from error


def invalid(errors: Iterable[ErrorDetails], value: Any) -> NightshiftError:
    """What is wrong with `value`, as pydantic found it: each of it with its pointer."""
    return _invalid([{"pointer": located(item["loc"], value), "detail": _sentence(item)} for item in _details(errors)])


def query(model: type[BaseModel]) -> BaseModel:
    """The query parameters. Raises `invalid_request`, also for parameters that are not known."""
    return _fields(model, {name: request.args.getlist(name) for name in request.args}, "parameter")


def headers(model: type[BaseModel]) -> BaseModel:
    """The headers that the model names by its aliases. Raises `invalid_request`."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    return _fields(model, {name: request.headers.getlist(name) for name in names if name in request.headers}, "header")


def _fields(model: type[BaseModel], given: Mapping[str, list[str]], where: str) -> BaseModel:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    many = {name for name, field in fields.items() if get_origin(field.annotation) in (list, tuple)}
    values: dict[str, Any] = {}
    for name, texts in given.items():
        if any("\0" in text for text in (name, *texts)):
            raise _invalid([{where: name.replace("\0", ""), "detail": "Text must not hold the character NUL."}])
        values[name] = texts if name in many or len(texts) > 1 else texts[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = [
            {where: str(item["loc"][0]) if item["loc"] else "", "detail": _sentence(item)}
            for item in _details(error.errors())
        ]
        raise _invalid(found) from error


def _details(errors: Iterable[ErrorDetails]) -> list[ErrorDetails]:
    """At most 20, without those that follow from others: a list whose items are all wrong is not also too short."""
    found = list(errors)
    places = [item["loc"] for item in found]

    def follows(item: ErrorDetails) -> bool:
        loc = item["loc"]
        return item["type"] == "too_short" and any(len(p) > len(loc) and p[: len(loc)] == loc for p in places)

    return [item for item in found if not follows(item)][:20]


def _sentence(item: ErrorDetails) -> str:
    return item["msg"].removeprefix("Value error, ")[:300]


def _invalid(found: list[dict[str, str]]) -> NightshiftError:
    first = found[0]
    place = first.get("pointer") or first.get("parameter") or first.get("header") or "the body"
    return NightshiftError(
        "invalid_request",
        f"{place}: {first['detail']}" + (f" ({len(found) - 1} more)" if len(found) > 1 else ""),
        pointer=first.get("pointer"),
        extra={"errors": found},
    )


def _nul(value: Any) -> str | None:
    """Pointer to a text with NUL, which PostgreSQL cannot keep, or to the object with such a name. The parser bounds
    the depth."""
    for way, item in walk(value):
        named = isinstance(item, dict) and any("\0" in name for name in item)
        if named or (isinstance(item, str) and "\0" in item):
            return pointer(way)
    return None
