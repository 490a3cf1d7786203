"""What strangers may send: every answer is one of the documented ones, and never a 500."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.db.keys import Scope
from common.errors import CATALOGUE
from common.states import State
from tests import jobs
from tests.api import Api, Caller, api, sqlite_api

__all__ = ["api", "sqlite_api"]

VALID = {"input": {"url": "https://media.example/a.wav"}, "params": {"prompts": ["speech"]}}


def post_raw(caller: Caller, raw: bytes | str, path: str = "/v1/jobs", media: str = "application/json") -> Any:
    return caller.post(path, data=raw, content_type=media)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"{]", b"nul", b"\xff\xfe", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\ud800"}', b"[" * 100_000, b'{"a":' * 50_000, b'{"a": 1,}', b"{'a': 1}", b'{"a": 1} x', b'"\x01"',
        b'{"input": ' + b"9" * 100_000 + b"}", "{}".encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_no_json(sqlite_api: Api, raw: bytes) -> None:
    response = post_raw(sqlite_api.me, raw)
    assert (response.status_code, response.json["code"]) in ((400, "malformed_json"), (422, "invalid_request"))


@pytest.mark.parametrize("raw", [b"null", b"[]", b'"text"', b"1", b"true", b"{}", b'{"": {}}', b"1e999", b"-0.0"])
def test_what_is_json_but_no_request(sqlite_api: Api, raw: bytes) -> None:
    response = post_raw(sqlite_api.me, raw)
    assert response.status_code in (400, 422)


@pytest.mark.parametrize("media", ["text/plain", "application/xml", "", "application/x-www-form-urlencoded", "json"])
def test_a_body_that_is_not_declared_as_json(sqlite_api: Api, media: str) -> None:
    response = post_raw(sqlite_api.me, json.dumps(VALID), media=media)
    assert (response.status_code, response.json["code"]) == (415, "unsupported_media_type")
    assert post_raw(sqlite_api.me, json.dumps(VALID), media="application/json; charset=utf-8").status_code == 202
    assert post_raw(sqlite_api.me, json.dumps(VALID), media="application/vnd.api+json").status_code == 202


def test_a_body_that_is_too_long(sqlite_api: Api) -> None:
    long = json.dumps({**VALID, "metadata": {"a": "x" * 1_000_000}})
    response = post_raw(sqlite_api.me, long)
    assert (response.status_code, response.json["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"metadata": {"title": "a\0b"}}, "/metadata/title"),
        ({"metadata": {"a\0b": "title"}}, "/metadata"),
        ({"batch": "\0"}, "/batch"),
        ({"params": {"prompts": ["speech\0"]}}, "/params/prompts/0"),
        ({"engine": "rnn\0oise"}, "/engine"),
    ],
)
def test_nul_is_refused_where_it_stands(api: Api, members: dict[str, Any], pointer: str) -> None:
    response = api.me.submit(**members)
    assert (response.status_code, response.json["pointer"]) == (422, pointer)
    assert "\0" not in response.text


@pytest.mark.parametrize(
    "path", ["/v1/jobs/%00", "/v1/uploads/a%00b", "/v1/callbacks/%00", "/v1/engines/%00", "/v1/files/%00"]
)
def test_nul_in_an_address_is_nowhere(api: Api, path: str) -> None:
    assert api.me.get(path).status_code in (403, 404)


@pytest.mark.parametrize(
    "text",
    [
        "ünïcode — 漢字 🎧",
        "\u202egpj.exe",
        "'; DROP TABLE jobs; --",
        "{{7*7}}",
        "\x7f\x1b[31m",
        "e\u0301" * 50,
        "\ufffe",
    ],
)
def test_any_text_is_kept_as_it_is(api: Api, text: str) -> None:
    job = api.me.submit(batch=text, metadata={text[:60]: text}).json
    seen = api.me.get(f"/v1/jobs/{job['id']}").json
    assert (seen["batch"], seen["metadata"]) == (text, {text[:60]: text})
    assert [found["id"] for found in api.me.get("/v1/jobs", query_string={"batch": text}).json["items"]] == [job["id"]]


@pytest.mark.parametrize(
    "members",
    [
        {"params": {"prompts": ["speech"], "seed": seed}}
        for seed in (-1, 2**63, 10**300, 1.5, math.pi, "x", None, [], {})
    ]
    + [
        {"params": {"prompts": [{"description": "speech", "spans": [["+", 0, end]]}]}}
        for end in (1e300, "x", None, 10**400)
    ]
    + [{"priority": 5}, {"metadata": {"a": 1}}, {"metadata": []}, {"deadline": "9" * 100}, {"deadline": 10**30}]
    + [{"metadata": {str(i): "x" for i in range(33)}}, {"batch": "x" * 121}, {"engine": "x" * 65}, {"kind": None}]
    + [{"input": {"url": "https://" + "x" * 5000}}, {"input": {"url": "https://[::ffff:127.0.0.1]/"}}]
    + [{"input": {"url": "http://\u2460.example\x00"}}, {"input": {"url": "https://media.example:99999/"}}],
)  # fmt: skip
def test_wrong_values_are_refused(api: Api, members: dict[str, Any]) -> None:
    response = api.me.submit(**members)
    assert response.status_code == 422, response.text
    assert api.me.get("/v1/jobs").json["items"] == []


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/", "/v1/jobs/", "//v1/jobs", "/v1/jobs/a/b/c", "/v2/jobs", "/v1/../x"]
)
def test_addresses_that_lead_nowhere(sqlite_api: Api, path: str) -> None:
    response = sqlite_api.me.get(path)
    assert (response.status_code, response.json["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", "/v1/jobs"), ("POST", "/v1/jobs/x"), ("DELETE", "/v1/engines"), ("TRACE", "/v1/jobs")],
)
def test_methods_that_are_not_there(sqlite_api: Api, method: str, path: str) -> None:
    response = sqlite_api.me.request(method, path)
    assert (response.status_code, response.json["code"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["Allow"]


def test_head_and_options(sqlite_api: Api) -> None:
    head = sqlite_api.me.request("HEAD", "/v1/jobs")
    assert (head.status_code, head.data, head.mimetype) == (200, b"", "application/json")
    options = sqlite_api.app.test_client().options("/v1/jobs")
    assert options.status_code == 200 and {"GET", "POST"} <= set(options.headers["Allow"].split(", "))


@pytest.mark.parametrize(
    ("given_id", "kept"), [("abc-123._X", True), ("", False), ("a b", False), ("x" * 129, False), ("ü", False)]
)
def test_a_request_has_an_id(sqlite_api: Api, given_id: str, kept: bool) -> None:
    response = sqlite_api.me.get("/v1/jobs/x", headers={"X-Request-Id": given_id})
    assert (response.headers["X-Request-Id"] == given_id) is kept
    assert response.json["request_id"] == response.headers["X-Request-Id"]


def test_what_was_not_foreseen_discloses_nothing(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("postgresql://user:password@db/")

    monkeypatch.setattr("common.jobs.query.get", broken)
    response = sqlite_api.me.get("/v1/jobs/x")
    assert (response.status_code, response.json["code"]) == (500, "internal")
    assert "password" not in response.text and "RuntimeError" not in response.text


# --- Anything at all -------------------------------------------------------------------------------------------------

texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["\0", "", " ", "null", "-1", "1e400", "9" * 40, "NaN", "../..", "%00", "'\"", "job_01", "2024-01-01T00:00:00Z"]
    ),
)
words = st.sampled_from(["speech", "https://media.example/a.wav", "rnnoise", "ep 1.wav", "audio/wav"]) | st.text(
    st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30
)
numbers = st.one_of(
    st.integers(),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**309]),
    st.floats(allow_nan=False, allow_infinity=False),
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def like(schema: dict[str, Any], document: dict[str, Any], bent: bool, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that fit a schema; where `bent`, any part may be replaced by anything."""
    if depth > 12:
        return values
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return like(document["components"]["schemas"][name], document, bent, depth + 1)
    fitting = _fitting(schema, document, bent, depth)
    return st.one_of(fitting, fitting, fitting, values) if bent else fitting


def _fitting(schema: dict[str, Any], document: dict[str, Any], bent: bool, depth: int) -> st.SearchStrategy[Any]:
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([like(option, document, bent, depth + 1) for option in options])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        required = schema.get("required", [])
        parts = {name: like(part, document, bent, depth + 1) for name, part in schema["properties"].items()}
        return st.fixed_dictionaries(
            {name: parts[name] for name in required}, optional={n: p for n, p in parts.items() if n not in required}
        )
    if kind == "array":
        if prefix := schema.get("prefixItems"):
            return st.tuples(*(like(item, document, bent, depth + 1) for item in prefix)).map(list)
        least = schema.get("minItems", 0)
        return st.lists(like(schema.get("items", {}), document, bent, depth + 1), min_size=least, max_size=least + 2)
    if kind == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum"))
    if kind == "number":
        least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        return st.floats(least + 0.001, schema.get("maximum", 1e9))
    plain = {
        "boolean": st.booleans(),
        "null": st.none(),
        "object": st.dictionaries(words, words, max_size=3),
    }
    if kind in plain:
        return plain[kind]
    if schema.get("format") == "date-time":
        return st.datetimes(timezones=st.just(UTC) | st.timezones()).map(datetime.isoformat)
    if "pattern" in schema and "http" not in schema["pattern"]:
        return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda text: text.isprintable())
    return words


@pytest.fixture
def inhabited(api: Api) -> tuple[Api, Caller, list[str]]:
    """An API with things in it, a caller who may do everything, and ids of all kinds."""
    caller = api.caller("everything", Scope.ADMIN)
    ids = [
        jobs.brought(api.database, caller.key.id, state).id for state in (State.WAITING, State.RUNNING, State.FAILED)
    ]
    ids += [api.succeeded(caller).id, caller.upload(), caller.post("/v1/uploads", json={"size": 3}).json["id"]]
    ids += [item["id"] for item in caller.get("/v1/callbacks").json["items"]]
    return api, caller, ids


# One database for all examples: what earlier ones left is part of the hostility.
@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_is_sent_is_answered_as_documented(
    inhabited: tuple[Api, Caller, list[str]], data: st.DataObject
) -> None:
    """Every answer is checked against the document by `Caller`; 500 is not among those that may come."""
    api, caller, ids = inhabited
    document = api.contract.document
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        # It would take away the caller's own key.
        if (method, path) != ("delete", "/v1/keys/{key_id}")
    ]
    method, path, operation = data.draw(st.sampled_from(operations), label="operation")
    bent = data.draw(st.booleans(), label="bent")
    query: dict[str, Any] = {}
    headers: dict[str, str] = {}
    for parameter in operation["parameters"]:
        name = parameter["name"]
        if parameter["in"] == "path":
            fitting = [identity for identity in ids if identity.startswith(_PREFIXES.get(name, "?"))]
            value = data.draw(st.sampled_from(ids + 4 * fitting) if not bent else texts.filter(_one_part))
            path = path.replace(f"{{{name}}}", quote(value.encode("utf-8", "replace"), safe=""))
        elif data.draw(st.integers(0, 3)) == 0:
            value = data.draw(like(parameter["schema"], document, bent))
            if parameter["in"] == "query":
                query[name] = value if isinstance(value, list) else str(value)
            elif name != "Prefer":
                headers[name] = re.sub(r"[^ -~]", "", str(value))
    if path.endswith("/events"):
        headers["Accept"] = "application/json"
    more: dict[str, Any] = {}
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        media = data.draw(st.sampled_from([*content, *(["text/plain"] if bent else ["application/json"] * 3)]))
        if media == "application/json" and "application/json" in content:
            body = data.draw(like(content[media]["schema"], document, bent), label="body")
            if path == "/v1/jobs" and not bent:
                body["input"] = data.draw(st.sampled_from(_inputs(ids)))
            more = {"data": json.dumps(body), "content_type": media}
        else:
            more = {"data": data.draw(st.binary(min_size=3, max_size=5)), "content_type": media.replace("*", "x")}
    response = caller.request(method, path, query_string=query, headers=headers, **more)
    assert response.status_code != 500, response.text
    if response.status_code >= 400 and response.mimetype == "application/problem+json" and method != "HEAD":
        assert response.json["code"] in CATALOGUE and response.json["detail"]


_PREFIXES = {"job_id": "job_", "upload_id": "upl_", "callback_id": "msg_"}


def _one_part(text: str) -> bool:
    """Whether a text can stand between two slashes of an address."""
    return text not in ("", ".", "..") and "/" not in text


def _inputs(ids: list[str]) -> list[dict[str, str]]:
    """Some that are there, and some that are not."""
    found = [{"upload": identity} for identity in ids if identity.startswith("upl_")]
    found += [{"job": identity, "output": "speech"} for identity in ids if identity.startswith("job_")]
    return [*found, {"url": "https://media.example/a.wav"}, {"url": "http://10.0.0.1/"}, {"s3": "s3://a/b"}]
