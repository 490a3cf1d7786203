from __future__ import annotations

import json
import re

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api import RESOURCES
from api.openapi import document
from tests.api import Api, api, sqlite_api

__all__ = ["api", "sqlite_api"]

UNDOCUMENTED = {"/", "/static/<path:filename>", "/v1/docs", "/v1/docs/<name>"}


def test_the_document_is_valid_openapi(sqlite_api: Api) -> None:
    OpenAPIV31SpecValidator(sqlite_api.contract.document).validate()


def test_the_document_is_served_to_everybody(sqlite_api: Api) -> None:
    response = sqlite_api.stranger().get("/v1/openapi.json")
    assert response.json == json.loads(json.dumps(sqlite_api.contract.document))
    assert response.json["openapi"] == "3.1.0"


def test_the_document_does_not_depend_on_chance() -> None:
    assert json.dumps(document(RESOURCES, "1")) == json.dumps(document(RESOURCES, "1"))


def test_every_route_is_in_the_document(sqlite_api: Api) -> None:
    for rule in sqlite_api.app.url_map.iter_rules():
        if rule.rule in UNDOCUMENTED:
            continue
        path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
        methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        assert methods <= {method.upper() for method in sqlite_api.contract.document["paths"][path]}, rule


def test_every_operation_says_what_it_is(sqlite_api: Api) -> None:
    names = []
    for path, methods in sqlite_api.contract.document["paths"].items():
        for operation in methods.values():
            names.append(operation["operationId"])
            assert operation["summary"] and operation["description"], path
            assert any(status < "400" for status in operation["responses"]), path
    assert len(names) == len(set(names)) > 30


def test_a_bare_string_is_documented_as_a_prompt(sqlite_api: Api) -> None:
    prompt = sqlite_api.contract.document["components"]["schemas"]["Prompt"]
    assert {option.get("type") for option in prompt["anyOf"]} == {"string", "object"}


@pytest.mark.parametrize("path", ["/", "/v1/docs"])
def test_a_page_needs_nothing_from_elsewhere(sqlite_api: Api, path: str) -> None:
    client = sqlite_api.app.test_client()
    response = client.get(path)
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", response.text), (
        "code or style inside the page"
    )
    referred = re.findall(r'(?:src|href)="([^"#]+)"', response.text)
    assert referred
    for address in referred:
        assert address.startswith("/"), address
        assert client.get(address).status_code == 200, address


def test_only_files_of_the_docs_are_served(sqlite_api: Api) -> None:
    for name in ("index.css", "..%2f__init__.py", "LICENSE"):
        assert sqlite_api.app.test_client().get(f"/v1/docs/{name}").status_code == 404
