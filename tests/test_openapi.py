import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest
from httpx import AsyncClient
from jsonschema import Draft202012Validator
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from openapi_spec_validator import validate

from app.database import connect
from app.database_url import parse_database_url
from app.embedded import EmbeddedServer
from app.main import create_app
from app.openapi import build_document
from app.problems import PROBLEMS, title_of, type_of
from app.settings import Settings
from app.stores import service_keys
from tests.conftest import TEMPLATE, client_of, new_conversation, run_sql, running

COMMITTED = Path(__file__).with_name("openapi.json")
UNDOCUMENTED = {"/openapi.json", "/docs", "/", "/c/{conversation_id}", "/activity", "/assets/{name}"}
ADMIN_KEY = service_keys.new_key()

ROUTES = create_app(Settings(), parse_database_url("postgresql://localhost/nowhere")).routes
DOCUMENT: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(build_document(ROUTES, version("verbatim"))))
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
HANDLERS: list[tuple[str, HTTPRouteHandler]] = [
    (route.path_format, handler)
    for route in ROUTES
    if isinstance(route, HTTPRoute)
    for handler in sorted(route.route_handlers, key=lambda handler: str(handler.operation_id))
    if handler.http_methods != {"OPTIONS"} and route.path_format not in UNDOCUMENTED
]


def walk(value: object) -> Iterator[dict[str, Any]]:
    """All objects of a JSON value."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(part)


def faults(schema: dict[str, Any], value: object) -> list[str]:
    """What is wrong with a value by a schema of the document."""
    validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def follow(reference: str) -> Any:
    assert reference.startswith("#/")
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def reached(value: object) -> set[str]:
    """The schemas that a part of the document refers to, and those that they refer to."""
    known: set[str] = set()
    new = {part["$ref"] for part in walk(value) if "$ref" in part}
    while new:
        known |= new
        new = {part["$ref"] for name in new for part in walk(follow(name)) if "$ref" in part} - known
    return known


@pytest.fixture(scope="module")
async def client(template: EmbeddedServer) -> AsyncIterator[AsyncClient]:
    """A client of one application for the whole file: each test works on a conversation of its own."""
    run_sql(template.url(), "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", "test_openapi", TEMPLATE)
    url, key = template.url("test_openapi"), service_keys.new_key()
    connection = await connect(url, 5)
    await service_keys.create_service_key(connection, key, "acme", "alice")
    await service_keys.create_service_key(connection, ADMIN_KEY, "acme", None, is_admin=True)
    await connection.close()
    settings = Settings(pool_size=2, stream_seconds=0.05, allow_unsafe_database=True)
    async with running(settings, url) as app, client_of(app, key) as client:
        yield client
    run_sql(template.url(), "DROP DATABASE {}", "test_openapi")


# The document


async def test_the_served_document_is_the_committed_one(client: AsyncClient) -> None:
    served = (await client.get("/openapi.json")).json()
    if "REGENERATE" in os.environ:
        COMMITTED.write_text(json.dumps(served, indent=2, ensure_ascii=False) + "\n")
    assert json.loads(COMMITTED.read_text()) == served, "the API changed: REGENERATE=1 pytest tests/test_openapi.py"


def test_the_document_is_valid() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    validate(DOCUMENT)


def test_every_reference_resolves() -> None:
    references = {part["$ref"] for part in walk(DOCUMENT) if "$ref" in part}
    assert all(isinstance(follow(reference), dict) for reference in references)
    assert {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]} <= references


@pytest.mark.parametrize(("path", "handler"), HANDLERS, ids=[handler.operation_id for _, handler in HANDLERS])
def test_a_handler_is_an_operation_of_its_name(path: str, handler: HTTPRouteHandler) -> None:
    (method,) = handler.http_methods
    name = re.sub(r"_(.)", lambda match: match[1].upper(), handler.fn.__name__)
    assert handler.operation_id == name
    assert DOCUMENT["paths"][path][method.lower()]["operationId"] == name


def test_every_problem_is_described() -> None:
    for error, (status, _) in PROBLEMS.items():
        assert f"- `{type_of(error)}` ({status}): {title_of(error)}" in DOCUMENT["info"]["description"]


# For people


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_says_what_it_does(name: str) -> None:
    _, _, operation = OPERATIONS[name]
    assert re.fullmatch(r"[A-Z].*[^.]", operation["summary"])
    assert operation["tags"]
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    for parameter in operation["parameters"]:
        assert parameter["description"], parameter["name"]


def test_every_shape_says_what_it_is() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert [name for name, schema in schemas.items() if "description" not in schema and "enum" not in schema] == []


# For generators of clients


def test_names_are_plain_identifiers() -> None:
    assert [name for name in DOCUMENT["components"]["schemas"] if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name)] == []


def test_patterns_are_understood_by_every_engine() -> None:
    patterns = {part["pattern"] for part in walk(DOCUMENT) if isinstance(part.get("pattern"), str)}
    assert patterns
    assert [pattern for pattern in patterns if re.search(r"\(\?|\\u|\\Z", pattern)] == []


def test_integers_and_times_have_their_format() -> None:
    for part in walk(DOCUMENT["components"]["schemas"]):
        if "integer" in (part.get("type") or ""):
            assert part["format"] == "int64"
        for name, member in part.get("properties", {}).items():
            types = member.get("type", [])
            is_number = not {"integer", "number"}.isdisjoint([types] if isinstance(types, str) else types)
            is_time = name.endswith("_at") and not is_number
            assert (member.get("format") == "date-time") == is_time, name


def test_what_always_comes_is_required() -> None:
    """A default says what is meant where nothing comes, which is for requests alone."""
    answers = [operation["responses"] for *_, operation in OPERATIONS.values()]
    assert [schema for schema in reached(answers) for part in walk(follow(schema)) if "default" in part] == []


def test_null_is_a_type_and_an_enumeration_has_a_name() -> None:
    for part in walk(DOCUMENT["components"]["schemas"]):
        if {"type": "null"} in part.get("anyOf", ()):
            assert len(part["anyOf"]) > 2 or "$ref" in part["anyOf"][0]
        assert "default" not in part or part["default"] is not None
        for member in part.get("properties", {}).values():
            assert "enum" not in member


# Examples


def test_every_example_of_a_schema_fits_it() -> None:
    schemas = [part for part in walk(DOCUMENT) if isinstance(part.get("examples"), list)]
    assert schemas
    assert [found for schema in schemas for example in schema["examples"] if (found := faults(schema, example))] == []


def test_every_example_beside_a_schema_fits_it() -> None:
    parts = [part for part in walk(DOCUMENT) if isinstance(part.get("schema"), dict)]
    examples = [(part["schema"], part["example"]) for part in parts if "example" in part]
    examples += [(part["schema"], each["value"]) for part in parts for each in part.get("examples", {}).values()]
    assert len(examples) > len(OPERATIONS)
    assert [found for schema, example in examples if (found := faults(schema, example))] == []


def test_every_body_has_an_example() -> None:
    media = {
        name: operation["requestBody"]["content"]
        for name, (*_, operation) in OPERATIONS.items()
        if "requestBody" in operation
    }
    assert [name for name, content in media.items() if "example" not in content["application/json"]] == []


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_answers_as_it_says(client: AsyncClient, name: str) -> None:
    """With its own example as the body, on a conversation of two messages, the second deleted, and a reply.

    What may be said many times is said with each of its values.
    """
    method, path, operation = OPERATIONS[name]
    conversation = await new_conversation(client, ["one", "two"])
    first, second = (await client.get(f"{conversation}/messages")).json()["data"]
    await client.delete(f"{conversation}/messages/{second['id']}")
    reply = (await client.post(f"{conversation}/replies")).json()["message"]
    ids = {"conversation_id": first["conversation_id"], "message_id": reply["id"], "key": "default"}
    ids["session_id"] = ids["openai_conversation_id"] = ids["conversation_id"]
    ids |= {"item_id": f"msg_{first['id'].replace('-', '')}0000", "model_name": "echo"}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    required = {
        parameter["name"]: ids.get(parameter["name"]) or parameter["schema"]["minimum"]
        for parameter in operation["parameters"]
        if parameter["in"] == "query" and parameter["required"]
    }
    repeated = {
        parameter["name"]: parameter["schema"]["items"]["enum"]
        for parameter in operation["parameters"]
        if parameter["in"] == "query" and parameter["schema"]["type"] == "array"
    }
    is_for_admins = "admin-required" in str(operation["responses"].get("403"))
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"} if is_for_admins else {}
    answer = await client.request(method, path.format(**ids), json=body, params=required | repeated, headers=headers)
    assert answer.is_success, answer.text
    documented = operation["responses"][str(answer.status_code)]
    always = documented["headers"].keys() - {"Location", "Idempotent-Replay"}
    assert [header for header in always if header not in answer.headers] == []
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    if media_type == "text/event-stream":
        assert documented["content"][media_type]["x-events"]  # what they say is looked at where they happen
        return
    content = documented.get("content", {}).get("application/json")
    assert bool(content) == bool(answer.content)
    if content:
        assert faults(content["schema"], answer.json()) == []


WITHIN_ONE = [
    name for name, (_, path, _) in OPERATIONS.items() if "conversation_id}" in path or path.startswith("/chat")
]


@pytest.mark.parametrize("name", WITHIN_ONE)
async def test_a_problem_is_as_the_document_says(client: AsyncClient, name: str) -> None:
    method, path, operation = OPERATIONS[name]
    nowhere = dict.fromkeys(("conversation_id", "session_id", "openai_conversation_id"), "nowhere")
    answer = await client.request(method, path.format(message_id="1", item_id="1", **nowhere), json={})
    assert answer.is_client_error
    documented = operation["responses"][str(answer.status_code)]
    assert [header for header in documented["headers"] if header not in answer.headers] == []
    (media_type,) = documented["content"]
    assert answer.headers["content-type"] == media_type
    content = documented["content"][media_type]
    assert faults(content["schema"], answer.json()) == []
    examples = [example["value"] for example in content["examples"].values()]
    assert identity_of(answer.json()) in map(identity_of, examples)


def identity_of(problem: dict[str, Any]) -> tuple[object, ...]:
    """What a program tells a problem by."""
    error = problem.get("error")
    return (error["type"], error["code"]) if error else (problem["type"],)
