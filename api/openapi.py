"""The OpenAPI 3.1 document, from the operations and the models that validate and answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter

from api.operations import Operation, Resource
from api.problems import MEDIA_TYPE
from api.schemas import Problem
from common.errors import CATALOGUE

_REF = "#/components/schemas/{model}"
_BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
_KNOWN = {
    "application/json": {"type": "object"},
    "text/event-stream": {"type": "string"},
    "text/plain": {"type": "string"},
}
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}


def document(resources: Sequence[Resource], version: str) -> dict[str, Any]:
    """The document as JSON. Deterministic: it can be compared and kept."""
    operations = [operation for resource in resources for operation in resource.operations]
    schemas, components = TypeAdapter.json_schemas(_models(operations), ref_template=_REF)
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nightshift",
            "version": version,
            "summary": "A self-hosted, asynchronous job queue for media models",
            "description": (
                "Send a file to `/v1/uploads`, name it in a job to `/v1/jobs`, follow the job by `/v1/jobs/{job_id}`, "
                "its events or a callback, and fetch what it made from `/v1/jobs/{job_id}/results`. "
                "Errors are `application/problem+json`; branch on `code`."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": resource.tag, "description": resource.description} for resource in resources],
        "paths": paths,
        "components": {
            "schemas": components.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key, `ns_…`"}},
        },
    }


def error_codes(operation: Operation) -> list[str]:
    """Every code that the operation may answer with."""
    codes = {"internal", "method_not_allowed", *operation.errors}
    if operation.scope is not None:
        codes |= {"unauthenticated", "forbidden", "unavailable"}
    if operation.parameters:
        codes.add("not_found")
    if operation.query or operation.headers:
        codes.add("invalid_request")
    if operation.body is not None:
        codes |= {"invalid_request", "malformed_json", "too_large", "unsupported_media_type"}
    return sorted(codes)


def _models(operations: Iterable[Operation]) -> list[tuple[Any, Any, TypeAdapter[Any]]]:
    found: dict[tuple[Any, str], TypeAdapter[Any]] = {(Problem, "serialization"): TypeAdapter(Problem)}
    for operation in operations:
        if operation.body is not None:
            found[operation.body, "validation"] = TypeAdapter(operation.body)
        for answer in operation.answers.values():
            if answer.model is not None:
                found[answer.model, "serialization"] = TypeAdapter(answer.model)
    return [(model, mode, adapter) for (model, mode), adapter in found.items()]


def _operation(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in operation.parameters
        ]
        + _fields(operation.query, "query")
        + _fields(operation.headers, "header"),
        "responses": _answers(operation, schemas) | _errors(operation),
        "security": [] if operation.scope is None else [{"key": []}],
    }
    if operation.scope is not None:
        described["description"] += f" Needs the scope `{operation.scope}`."
    content: dict[str, Any] = {}
    if operation.body is not None:
        content["application/json"] = {"schema": schemas[operation.body, "validation"]}
    for media, description in operation.media.items():
        content[media] = {"schema": _media_schema(media, description)}
    if content:
        described["requestBody"] = {"required": True, "content": content}
    return described


def _media_schema(media: str, description: str) -> dict[str, Any]:
    if media == "multipart/form-data":
        return {
            "type": "object",
            "description": description,
            "properties": {"file": _BINARY},
            "required": ["file"],
        }
    return {**_BINARY, "description": description}


def _fields(model: type[BaseModel] | None, where: str) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema(ref_template=_REF)
    definitions = schema.get("$defs", {})
    required = schema.get("required", [])
    parameters = []
    for name, described in schema["properties"].items():
        described = _inlined(described, definitions)
        parameter = {"name": name, "in": where, "required": name in required, "schema": described}
        if description := described.pop("description", None):
            parameter["description"] = description
        parameters.append(parameter)
    return parameters


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with references resolved: those of parameters are small, and no component stands for them."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    return [_inlined(item, definitions) for item in schema] if isinstance(schema, list) else schema


def _answers(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        content: dict[str, Any] = {}
        if answer.model is not None:
            content["application/json"] = {"schema": schemas[answer.model, "serialization"]}
        if answer.media is not None:
            content[answer.media] = {"schema": _KNOWN.get(answer.media, _BINARY)}
        responses[str(status)] = {"description": answer.description}
        if content:
            responses[str(status)]["content"] = content
        if answer.headers:
            responses[str(status)]["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
            }
    return responses


def _errors(operation: Operation) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for code in error_codes(operation):
        by_status.setdefault(CATALOGUE[code].status, []).append(code)
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {CATALOGUE[code].title}" for code in codes),
            "content": _PROBLEM,
        }
        for status, codes in sorted(by_status.items())
    }
