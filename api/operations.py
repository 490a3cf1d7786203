"""Routes that describe themselves: what an operation takes, gives and may answer is said once, beside its view.

The same declaration authenticates, parses and documents (`api.openapi`), so that the document cannot drift from it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, g, request
from pydantic import BaseModel, TypeAdapter

from api import auth, parsing
from common.db.keys import Scope
from common.errors import NightshiftError

View = Callable[..., Any]


@dataclass(frozen=True)
class Answer:
    """A successful answer. model: of its JSON body; None where the body is something else, or absent.

    media: content type of a body that is not JSON; `*/*` for files.
    """

    description: str
    model: type[BaseModel] | None = None
    media: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One method of one path. scope: what the key needs; None where no key is needed.

    body: type of the JSON body.  media: further content types of the body, each with a description.
    errors: codes of the catalogue beyond those that follow from the rest.
    """

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str
    scope: Scope | None
    answers: Mapping[int, Answer]
    errors: tuple[str, ...] = ()
    query: type[BaseModel] | None = None
    headers: type[BaseModel] | None = None
    body: Any = None
    media: Mapping[str, str] = field(default_factory=dict)
    complete: Callable[[Any], Any] | None = None

    @property
    def parameters(self) -> list[str]:
        """Names of the path's parameters."""
        return re.findall(r"{(\w+)}", self.path)

    @property
    def rule(self) -> str:
        return re.sub(r"{(\w+)}", r"<\1>", self.path)


class Resource(Blueprint):
    """The operations on one kind of thing. tag: what it is called in the document."""

    def __init__(self, name: str, tag: str, description: str) -> None:
        super().__init__(name, __name__)
        self.tag, self.description = tag, description
        self.operations: list[Operation] = []

    def operation(
        self,
        method: str,
        path: str,
        summary: str,
        *,
        scope: Scope | None,
        answers: Mapping[int, Answer],
        errors: tuple[str, ...] = (),
        query: type[BaseModel] | None = None,
        headers: type[BaseModel] | None = None,
        body: Any = None,
        media: Mapping[str, str] | None = None,
        complete: Callable[[Any], Any] | None = None,
    ) -> Callable[[View], View]:
        """Registers a view; its docstring is the description, its name the operation's id.

        The view takes the path's parameters and, where declared, `query`, `headers` and `body`. It returns a model, or
        (model, status), or (model, status, headers), or a Response; without a status, the first of `answers`. With
        `media`, `body` is None unless the request's content type is JSON. complete: is given the JSON before it is
        validated, and returns what is.
        """

        def register(view: View) -> View:
            operation = Operation(
                method, path, view.__name__, self.tag, summary, _text(view.__doc__), scope, answers, errors, query,
                headers, body, media or {}, complete,
            )  # fmt: skip
            self.operations.append(operation)
            self.add_url_rule(operation.rule, view.__name__, _wrapped(operation, view), methods=[method])
            return view

        return register


def _wrapped(operation: Operation, view: View) -> View:
    adapter: TypeAdapter[Any] | None = TypeAdapter(operation.body) if operation.body is not None else None

    @functools.wraps(view)
    def call(**path: str) -> Response:
        if operation.scope is not None:
            g.key = auth.authenticate()
            auth.require(g.key, operation.scope)
        if any("\0" in value for value in path.values()):
            raise NightshiftError("not_found")
        given: dict[str, Any] = dict(path)
        if operation.query is not None:
            given["query"] = parsing.query(operation.query)
        if operation.headers is not None:
            given["headers"] = parsing.headers(operation.headers)
        if adapter is not None:
            other = bool(operation.media) and not request.mimetype.endswith(("/json", "+json"))
            given["body"] = None if other else parsing.json_body(adapter, operation.complete)
        return _response(operation, view(**given))

    return call


def _response(operation: Operation, result: Any) -> Response:
    if isinstance(result, Response):
        return result
    model, status, headers = (
        (*result, {})[:3] if isinstance(result, tuple) else (result, next(iter(operation.answers)), {})
    )
    if model is None:
        response = Response(status=status)
        response.headers.remove("Content-Type")
    else:
        response = Response(model.model_dump_json(by_alias=True), status, mimetype="application/json")
    response.headers.update(headers)
    return response


def _text(docstring: str | None) -> str:
    return re.sub(r"\s*\n\s*(?=\S)", " ", (docstring or "").strip())
