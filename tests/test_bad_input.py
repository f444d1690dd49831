"""Nasty requests against every operation: each is refused as a problem, at once, and nothing is stored or echoed."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

import pytest
from litestar import Litestar
from msgspec import Struct, field, json

from app.database import connect
from app.database_url import parse_database_url
from app.embedded import EmbeddedServer
from app.identifiers import MessageIds
from app.main import create_app
from app.openai_errors import PREFIX, example_of, is_openai, status_at
from app.openapi import build_document
from app.problems import PROBLEMS, error_named
from app.queries import Conn
from app.settings import Settings
from app.stores import service_keys
from tests.conftest import TEMPLATE, client_of, run_sql, running

HOME = "/v1/conversations"
DOOR = f"{PREFIX}/conversations"
CONVERSATION = "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10"
UNKNOWN = "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e11"
MESSAGE = MessageIds(UUID(CONVERSATION)).of(1)
CANARY = "canary-5d1f-what-the-client-said"
CODES = {
    "invalid_input",
    "invalid_value",
    "invalid_type",
    "invalid_json",
    "missing_required_parameter",
    "unknown_parameter",
    "unsupported_parameter",
    "empty_array",
    "array_above_max_length",
    "string_above_max_length",
    "integer_below_min_value",
    "integer_above_max_value",
    "object_above_max_properties",
    "property_name_above_max_length",
}
"""What may be wrong with a request at the door of OpenAI's clients, beside what has a problem of its own."""
STATUSES = {name: status for status, name in PROBLEMS.values()}
OPENAI_CONVERSATION = f"conv_{CONVERSATION.replace('-', '')}"
ITEM = f"msg_{MESSAGE.replace('-', '')}0000"
PARAMETERS = {
    "conversation_id": CONVERSATION,
    "session_id": CONVERSATION,
    "message_id": "first",
    "key": "fresh",
    "openai_conversation_id": OPENAI_CONVERSATION,
    "item_id": "first",
    "model_name": "echo",
}
ABSENT = re.compile(
    r"Conversation with id '(.*)' not found\.|Item with id '(.*)' not found in conversation\."
    r"|No (?:item|conversation) found with id '(.*)'",
    re.DOTALL,
)
"""What the door of OpenAI's clients says of an id in a path, or in `after`, as OpenAI does."""
INNER_WORDS = re.compile(
    r"(?i:asyncpg|postgres|psycopg|msgspec|litestar|uvicorn|python|traceback|exception|sqlstate|codec|<class|object at)"
    r"|(?i:\b(select|insert|update|relation|column)\b)|\b(int|str|float|bool|dict|NoneType|None|True|False)\b|\.py\b"
)


class Case(Struct, kw_only=True):
    """A request, and the name of the problem that it is."""

    problem: str
    method: str = "POST"
    path: str = HOME
    query: bytes = b""
    key: str = "alice"
    headers: list[tuple[str, str | bytes]] = field(default_factory=list)
    body: bytes | list[bytes] = b""
    app: str = "app"


class Answer(Struct):
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


def expect_problem(case: Case, answer: Answer, body: Any) -> dict[str, bool]:
    """What a problem should be, by what is wrong where it is not."""
    if answer.headers.get("content-type") != "application/problem+json":
        return {f"answered {answer.status} {answer.headers.get('content-type')}": False}
    expected = STATUSES[case.problem], f"urn:verbatim:problem:{case.problem}"
    return {
        f"answered {answer.status} {body}": (answer.status, body["type"]) == expected,
        "another status in the body": body["status"] == answer.status,
        "another request id in the body": body["request_id"] == answer.headers["x-request-id"],
    }


def expect_envelope(case: Case, answer: Answer, body: Any) -> dict[str, bool]:
    """What an error should be at the door of OpenAI's clients; what is invalid there has one of many codes."""
    error = error_named(case.problem)
    assert error is not None
    if answer.headers.get("content-type") != "application/json" or list(body) != ["error"]:
        return {f"answered {answer.status} {answer.headers.get('content-type')} {body}": False}
    problem, expected = body["error"], (status_at(case.path, error), example_of(error).error)
    is_named = problem["code"] in CODES if case.problem == "invalid-input" else problem["code"] == expected[1].code
    return {
        f"answered {answer.status} {body}": answer.status == expected[0] and is_named,
        "other members": problem.keys() == {"message", "type", "param", "code"},
        "another type": problem["type"] == expected[1].type,
        "no message": bool(problem["message"]),
        "no request id": bool(answer.headers["x-request-id"]),
    }


class World(Struct):
    """Two services over one database of this module's own, the small one with small limits."""

    apps: dict[str, Litestar]
    keys: dict[str, str]
    connection: Conn
    known: str | None = None
    """The digest of what is stored, as it was seen last."""

    async def ask(self, case: Case) -> Answer:
        """The answer to a request that reaches the application as a server hands it on, unmended by any client."""
        headers = [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in case.headers]
        if case.key:
            headers.append((b"authorization", f"Bearer {self.keys[case.key]}".encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": case.method,
            "scheme": "http",
            "path": unquote(case.path),
            "raw_path": case.path.encode(),
            "query_string": case.query,
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        chunks = case.body if isinstance(case.body, list) else [case.body]
        coming = iter(
            [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
            + [{"type": "http.request", "body": b"", "more_body": False}]
        )
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return next(coming, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        started = perf_counter()
        await asyncio.wait_for(self.apps[case.app](scope, receive, send), 10)
        return Answer(
            sent[0]["status"],
            {name.decode(): value.decode() for name, value in sent[0]["headers"]},
            b"".join(message["body"] for message in sent[1:]),
            perf_counter() - started,
        )

    async def faults(self, case: Case) -> list[str]:
        """What is wrong with the refusal of a bad request; nothing should be."""
        answer = await self.ask(case)
        said, body = f"{answer.headers} {answer.body.decode()}", json.decode(answer.body or b"null")
        if is_openai(unquote(case.path)):
            expectations = expect_envelope(case, answer, body)
            if answer.status == 404 and (named := ABSENT.fullmatch(body["error"]["message"])):
                asked = unquote(f"{case.path} {case.query.decode('latin-1')}")
                expectations["names what was not asked for"] = next(filter(None, named.groups()), "") in asked
                said = f"{answer.headers} {body['error'] | {'message': ''}}".replace("None", "null")
        else:
            expectations = expect_problem(case, answer, body)
        expectations |= {
            "says what the client said": CANARY not in said,
            f"speaks of its insides: {said}": INNER_WORDS.search(said) is None,
            "a long answer": len(answer.body) < 2000,
            "a late answer": answer.seconds < 5,
            "something is stored": not await self.has_changed(),
        }
        return [fault for fault, is_absent in expectations.items() if not is_absent]

    async def has_changed(self) -> bool:
        """Whether anything that a client can store is not as it was seen last."""
        seen, self.known = (
            self.known,
            await self.connection.fetchval(
                """SELECT md5(string_agg(entry, '|')) FROM (
                SELECT owner::text AS entry FROM owners AS owner
                UNION ALL SELECT conversation::text FROM conversations AS conversation
                UNION ALL SELECT message::text FROM messages AS message
            ) AS entries"""
            ),
        )
        return seen != self.known


@pytest.fixture(scope="module")
async def world(template: EmbeddedServer) -> AsyncIterator[World]:
    run_sql(template.url(), "CREATE DATABASE bad_input TEMPLATE {} STRATEGY FILE_COPY", TEMPLATE)
    url = template.url("bad_input")
    connection = await connect(url, 5)
    keys = {name: service_keys.new_key() for name in ("alice", "anyone", "admin")}
    await service_keys.create_service_key(connection, keys["alice"], "acme", "alice", is_admin=False)
    await service_keys.create_service_key(connection, keys["anyone"], "acme", None, is_admin=False)
    await service_keys.create_service_key(connection, keys["admin"], "acme", None, is_admin=True)
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(Settings(), url))
        small = Settings(body_limit_bytes=2048, message_limit_bytes=1024)
        small_app = await stack.enter_async_context(running(small, url))
        async with client_of(app, keys["alice"]) as client:
            first = {"role": "user", "content": "x", "client_id": "first"}
            members = {"id": CONVERSATION, "key": "taken", "messages": [first]}
            assert (await client.post(HOME, json=members)).status_code == 201
        world = World({"app": app, "small": small_app}, keys, connection)
        await world.has_changed()
        yield world
    await connection.close()
    run_sql(template.url(), "DROP DATABASE bad_input WITH (FORCE)")


JSON = ("content-type", "application/json")


class Operation(Struct):
    """An operation of the OpenAPI document, and a request of it that would be served."""

    name: str
    method: str
    template: str
    headers: list[str]
    body: dict[str, object] | None
    is_body_optional: bool
    query: bytes
    is_for_admins: bool

    def case(self, problem: str, **members: Any) -> Case:
        path = members.pop("path", self.template.format(**PARAMETERS))
        headers = [JSON, *members.pop("headers", [])] if self.body is not None else members.pop("headers", [])
        sent = {"body": self.text, "query": self.query, "key": "admin" if self.is_for_admins else "alice"} | members
        return Case(problem=problem, method=self.method, path=path, headers=headers, **sent)

    @property
    def text(self) -> bytes:
        return b"" if self.body is None else json.encode(self.body)


def marked(value: Any) -> Any:
    """An example that says the canary wherever it may say anything."""
    if isinstance(value, dict):
        return {name: inner if name in {"role", "client_id"} else marked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [marked(inner) for inner in value]
    return CANARY if isinstance(value, str) else value


def find_operations() -> Iterator[Operation]:
    routes = create_app(Settings(), parse_database_url("postgresql://localhost/none")).routes
    document: Any = build_document(routes, "0")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation.get("security") == []:
                continue
            body = operation.get("requestBody")
            needed = [each["name"] for each in operation["parameters"] if each["in"] == "query" and each["required"]]
            yield Operation(
                name=operation["operationId"],
                method=method.upper(),
                template=path,
                headers=[each["name"] for each in operation["parameters"] if each["in"] == "header"],
                body=marked(body["content"]["application/json"]["example"]) if body else None,
                is_body_optional=bool(body) and not body["required"],
                query="&".join(f"{name}={PARAMETERS.get(name, 1)}" for name in needed).encode(),
                is_for_admins="admin-required" in str(operation["responses"].get("403")),
            )


OPERATIONS = list(find_operations())

BAD_QUERIES = {
    "unknown": b"nonsense=%s" % CANARY.encode(),
    "unknown without value": b"nonsense",
    "a name in brackets": b"limit[]=1",
    "upper case": b"LIMIT=1",
    "no name": b"=1",
    "a nul for a name": b"%00=1",
    "invalid utf-8 escaped": b"nonsense=%ff",
    "invalid utf-8 raw": b"nonsense=\xff",
    "a surrogate": b"nonsense=%ed%a0%80",
    "utf-8 raw": "größe=1".encode(),
    "repeated": b"nonsense=1&nonsense=1",
    "repeated by escape": b"nonsense=1&%6eonsense=2",
    "65 parameters": b"&".join(b"p%d=1" % number for number in range(65)),
    "a long one": b"nonsense=" + b"x" * 100_000,
}
NOT_CONVERSATIONS = {
    "unknown": UNKNOWN,
    "upper case": CONVERSATION.upper(),
    "without hyphens": CONVERSATION.replace("-", ""),
    "in braces": f"%7B{CONVERSATION}%7D",
    "a urn": f"urn:uuid:{CONVERSATION}",
    "with a space": f"{CONVERSATION}%20",
    "with a newline": f"{CONVERSATION}%0A",
    "with a nul": f"{CONVERSATION}%00",
    "with parameters": f"{CONVERSATION};x=1",
    "cut short": CONVERSATION[:-1],
    "a nul": "%00",
    "invalid utf-8": "%ff%fe",
    "an overlong slash": "%c0%af",
    "a bad escape": "%zz",
    "an escaped slash": "a%2fb",
    "up": "..",
    "up escaped": "%2e%2e",
    "a star": "*",
    "null": "null",
    "minus one": "-1",
    "full width": "%EF%BC%90" * 32,
    "sql": "'%20OR%201=1--",
    "a canary": CANARY,
    "long": "x" * 100_000,
    "a message": MESSAGE,
}
NOT_MESSAGES = {
    "unknown": "nope",
    "a canary": CANARY,
    "the next": MessageIds(UUID(CONVERSATION)).of(2),
    "the zeroth": f"{MESSAGE[:-1]}0",
    "the last possible": f"{MESSAGE[:26]}ffffffffff",
    "of another conversation": MessageIds(UUID(UNKNOWN)).of(1),
    "upper case": MESSAGE.upper(),
    "without hyphens": MESSAGE.replace("-", ""),
    "with a newline": f"{MESSAGE}%0A",
    "with a nul": f"{MESSAGE}%00",
    "a client id with a nul": "first%00",
    "a client id with a space": "first%20",
    "a client id in upper case": "FIRST",
    "a nul": "%00",
    "invalid utf-8": "%ff",
    "an emoji": "%F0%9F%98%80",
    "a seq": "1",
    "a long client id": "x" * 129,
    "long": "x" * 100_000,
    "a conversation": CONVERSATION,
}
NOT_OPENAI_CONVERSATIONS = {
    **NOT_CONVERSATIONS,
    "unknown here": f"conv_{UUID(UNKNOWN).hex}",
    "in upper case": f"conv_{UUID(CONVERSATION).hex.upper()}",
    "a prefix in upper case": f"CONV_{UUID(CONVERSATION).hex}",
    "no prefix": UUID(CONVERSATION).hex,
    "another prefix": f"resp_{UUID(CONVERSATION).hex}",
    "two prefixes": f"conv_{OPENAI_CONVERSATION}",
    "a prefix alone": "conv_",
    "a prefix and hyphens": f"conv_{CONVERSATION}",
    "a digit less": OPENAI_CONVERSATION[:-1],
    "a digit more": f"{OPENAI_CONVERSATION}0",
    "a newline behind": f"{OPENAI_CONVERSATION}%0A",
    "a nul behind": f"{OPENAI_CONVERSATION}%00",
    "a space behind": f"{OPENAI_CONVERSATION}%20",
    "full-width digits": f"conv_{'%EF%BC%90' * 32}",
    "an item": ITEM,
    "a canary behind a prefix": f"conv_{CANARY}",
    "a quote": f"{CANARY}'%20not%20found.",
    "1,000 letters": "x" * 1000,
}
OTHER_ITEM = f"msg_{UUID(MessageIds(UUID(UNKNOWN)).of(1)).hex}0000"
NOT_ITEMS = {
    "unknown": "msg_nope",
    "a canary": CANARY,
    "a quote": f"{CANARY}'%20not%20found.",
    "by the place, though it has an id": ITEM,
    "of the next message": f"msg_{UUID(MessageIds(UUID(CONVERSATION)).of(2)).hex}0000",
    "of the zeroth message": f"msg_{UUID(MESSAGE).hex[:-1]}00000",
    "of the last possible message": f"msg_{UUID(MESSAGE).hex[:22]}ffffffffff0000",
    "the next in its message": f"{ITEM[:-1]}1",
    "the last possible in its message": f"{ITEM[:-4]}ffffffff",
    "of another type": ITEM.replace("msg_", "fc_"),
    "of another conversation": OTHER_ITEM,
    "in upper case": ITEM.upper(),
    "a place too short": ITEM[:-1],
    "a place too long": f"{ITEM}00000",
    "a place behind a nul": f"{ITEM[:-4]}%000000",
    "full-width digits": f"msg_{'%EF%BC%90' * 36}",
    "a message": MESSAGE,
    "an id with a newline": "first%0A",
    "an id with a nul": "first%00",
    "an id with a space": "first%20",
    "an id in upper case": "FIRST",
    "an id with a slash": "first%2Fx",
    "an id with slashes": "/first//x",
    "a nul": "%00",
    "invalid utf-8": "%ff",
    "an emoji": "%F0%9F%98%80",
    "up": "%2e%2e%2ffirst",
    "a place": "1",
    "a long id": "x" * 129,
    "1,000 letters": "x" * 1000,
    "long": "x" * 100_000,
}
NOT_KEYS = {
    "a nul": "%00",
    "a space": "a%20b",
    "a newline": "a%0A",
    "an emoji": "%F0%9F%98%80",
    "invalid utf-8": "%ff",
    "a quote": "%22",
    "a bad escape": "%zz",
    "129 characters": "x" * 129,
    "long": "x" * 2000,
}
BAD_CREDENTIALS: dict[str, list[tuple[str, str | bytes]]] = {
    "none": [],
    "empty": [("authorization", "")],
    "a scheme alone": [("authorization", "Bearer")],
    "an empty token": [("authorization", "Bearer ")],
    "another scheme": [("authorization", "Basic YWxpY2U6eA==")],
    "no scheme": [("authorization", CANARY)],
    "no key": [("authorization", f"Bearer {CANARY}")],
    "half a key": [("authorization", "Bearer vb_")],
    "an unknown key": [("authorization", f"Bearer vb_00000000_{'x' * 43}")],
    "a jwt": [("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")],
    "a nul": [("authorization", b"Bearer vb_\x00")],
    "no ascii": [("authorization", b"Bearer vb_\xff\xfe")],
    "long": [("authorization", f"Bearer vb_{'x' * 100_000}")],
    "twice": [("authorization", "Bearer a"), ("authorization", "Bearer b")],
}
BAD_USERS: dict[str, list[str | bytes]] = {
    "empty": [""],
    "invalid utf-8": [b"\xff"],
    "a surrogate": [b"\xed\xa0\x80"],
    "a control character": [b"a\x1fb"],
    "a c1 character": ["a\u0085b"],
    "256 characters": ["x" * 256],
    "twice": [CANARY, CANARY],
}
BAD_KEYS: dict[str, list[str | bytes]] = {
    "empty": [""],
    "quoted and empty": ['""'],
    "a space": [f"{CANARY} x"],
    "quoted with a space": [f'"{CANARY} x"'],
    "256 characters": ["x" * 256],
    "quoted 256 characters": [f'"{"x" * 256}"'],
    "no ascii": ["schlüssel"],
    "invalid utf-8": [b"\xff"],
    "a nul": [b"a\x00b"],
    "a tab": ["a\tb"],
    "twice": ["a", "a"],
}
BAD_VERSIONS: dict[str, list[str | bytes]] = {
    "empty": [""],
    "unquoted": ["1"],
    "unquoted whole": ["1.0"],
    "quoted and empty": ['""'],
    "weak": ['W/"1.0"'],
    "a list": ['"1.0", "2.0"'],
    "negative": ['"-1"'],
    "three numbers": ['"1.0.0"'],
    "no numbers": [f'"{CANARY}"'],
    "half": ['"1."'],
    "19 digits": [f'"{"9" * 19}.0"'],
    "5,000 digits": [f'"{"9" * 5000}"'],
    "a float": ['"1e2"'],
    "other digits": ['"\u0661"'],
    "superscripts": [b'"\xb2"'],
    "a space inside": ['" 1.0"'],
    "two stars": ["*", "*"],
    "twice": ['"1.0"', '"1.0"'],
    "a nul": [b'"1\x00"'],
}
STRANGE_HEADERS: dict[str, list[tuple[str, str | bytes]]] = {
    "accepts html": [("accept", "text/html")],
    "accepts nothing": [("accept", "")],
    "accepts no json": [("accept", "application/json;q=0, application/problem+json;q=0, text/xml")],
    "accepts no ascii": [("accept", b"\xff/\xfe;q=\xfd")],
    "accepts another encoding": [("accept-encoding", "br;q=1, identity;q=0")],
    "accepts another character set": [("accept-charset", "utf-16")],
    "speaks another language": [("accept-language", CANARY)],
    "a request id with a space": [("x-request-id", f"{CANARY} x")],
    "a request id with a newline": [("x-request-id", f"x\r\nx-canary: {CANARY}")],
    "a long request id": [("x-request-id", CANARY * 5)],
    "two request ids": [("x-request-id", CANARY), ("x-request-id", CANARY)],
    "a request id that is no ascii": [("x-request-id", b"\xff")],
    "a broken cookie": [("cookie", b'=;=; \x00="; $Version=\xff')],
    "another method": [("x-http-method-override", "DELETE")],
    "another host": [("x-forwarded-host", CANARY), ("forwarded", f"host={CANARY}")],
    "another prefix": [("x-forwarded-prefix", f"/{CANARY}"), ("x-script-name", f"/{CANARY}")],
    "another origin": [("origin", f"https://{CANARY}"), ("access-control-request-method", "PUT")],
    "a range": [("range", "bytes=0-1")],
    "an old date": [("if-modified-since", CANARY), ("if-unmodified-since", CANARY), ("date", CANARY)],
    "a version that is no ascii": [("if-none-match", b"\xff"), ("if-none-match", CANARY)],
    "an upgrade": [("connection", "upgrade, authorization"), ("upgrade", "websocket")],
    "trailers": [("te", "trailers"), ("trailer", "authorization")],
    "an expectation": [("expect", CANARY)],
    "a header without a name": [("", CANARY)],
    "100 headers": [(f"x-{number}", CANARY) for number in range(100)],
}
BAD_CONTENT_TYPES: dict[str, list[str | bytes]] = {
    "none": [],
    "empty": [""],
    "text": ["text/plain"],
    "text that says json": ["text/json"],
    "a form": ["application/x-www-form-urlencoded"],
    "an upload": ["multipart/form-data; boundary=x"],
    "xml": ["application/xml"],
    "messagepack": ["application/msgpack"],
    "a patch": ["application/merge-patch+json"],
    "a problem": ["application/problem+json"],
    "lines": ["application/jsonl"],
    "more letters": ["application/jsonx"],
    "fewer letters": ["application/jso"],
    "a list": ["application/json, text/plain"],
    "any": ["*/*"],
    "a canary": [CANARY],
    "no ascii": [b"application/json\xff"],
    "no slash": ["application json"],
    "a space inside": ["application/ json"],
    "a nul behind": [b"application/json\x00"],
    "a comma behind": ["application/json,"],
    "full width": ["\uff41pplication/json"],
    "quoted": ['"application/json"'],
    "in a parameter": ["text/plain; x=application/json"],
    "twice": ["application/json", "application/json"],
    "two": ["application/json", "text/plain"],
}
NOT_OBJECTS = {
    "null": b"null",
    "true": b"true",
    "a number": b"1",
    "a string": b'"%s"' % CANARY.encode(),
    "an array": b"[]",
    "an array of objects": b"[{}]",
    "whitespace": b" \n ",
    "a comment": b"// x\n{}",
    "html": b"<html></html>",
    "a form": b"role=user&content=x",
    "a nul": b"\x00",
    "a brace": b"{",
    "two objects": b"{}{}",
    "an object and a nul": b"{}\x00",
    "a trailing comma": b'{"x":1,}',
    "a missing value": b'{"x":}',
    "a missing name": b"{:1}",
    "a bare name": b"{x:1}",
    "single quotes": b"{'x':1}",
    "not a number": b'{"x":NaN}',
    "a lone surrogate": rb'{"\ud800":1}',
    "utf-8 with a byte order mark": "\ufeff{}".encode(),
    "utf-16": "{}".encode("utf-16"),
    "utf-32": "{}".encode("utf-32"),
    "latin-1": '{"é":1}'.encode("latin-1"),
    "10,000 arrays": b"[" * 10_000 + b"]" * 10_000,
    "10,000 objects": b'{"x":' * 10_000 + b"1" + b"}" * 10_000,
    "10,000 arrays unclosed": b"[" * 10_000,
    "gzip": bytes.fromhex("1f8b08000000000000ff"),
}


Cases = Iterator[tuple[str, Case]]


def bad_queries(operation: Operation) -> Cases:
    for name, query in BAD_QUERIES.items():
        yield name, operation.case("invalid-input", query=b"&".join(filter(None, [operation.query, query])))


def bad_credentials(operation: Operation) -> Cases:
    for name, credentials in BAD_CREDENTIALS.items():
        yield name, operation.case("invalid-credentials", key="", headers=credentials)


def bad_headers(operation: Operation) -> Cases:
    for name, users in BAD_USERS.items() if not operation.is_for_admins else ():
        headers = [("x-user-id", user) for user in users]
        yield f"user {name}", operation.case("invalid-input", headers=headers, key="anyone")
    if operation.is_for_admins:
        yield "no admin", operation.case("admin-required", key="anyone")
    else:
        yield "no user", operation.case("user-required", key="anyone")
        yield "another user", operation.case("user-mismatch", headers=[("x-user-id", "bob")])
    yield "host", operation.case("invalid-input", headers=[("host", f"{CANARY} x")])
    for header, table in (("Idempotency-Key", BAD_KEYS), ("If-Match", BAD_VERSIONS)):
        for name, values in table.items() if header in operation.headers else ():
            headers = [(header.lower(), value) for value in values]
            yield f"{header} {name}", operation.case("invalid-input", headers=headers)
    for version in ('"0"', '"1.1"', f'"{"9" * 18}.{"9" * 18}"') if "If-Match" in operation.headers else ():
        yield f"If-Match {version}", operation.case("precondition-failed", headers=[("if-match", version)])


def strange_headers(operation: Operation) -> Cases:
    """A refusal is what it is whatever else is said in headers, and none of them is answered."""
    for name, headers in STRANGE_HEADERS.items():
        query = b"&".join(filter(None, [operation.query, b"nonsense"]))
        yield name, operation.case("invalid-input", query=query, headers=headers)
        yield f"{name} of nobody", operation.case("invalid-credentials", key="", headers=headers)


def bad_paths(operation: Operation) -> Cases:
    tables = (
        ("conversation_id", "not-found", NOT_CONVERSATIONS),
        ("session_id", "not-found", NOT_CONVERSATIONS),
        ("message_id", "not-found", NOT_MESSAGES),
        ("openai_conversation_id", "not-found", NOT_OPENAI_CONVERSATIONS),
        ("item_id", "not-found", NOT_ITEMS),
        ("key", "invalid-input", NOT_KEYS),
    )
    for parameter, problem, texts in tables:
        for name, text in texts.items() if f"{{{parameter}}}" in operation.template else ():
            path = operation.template.format(**PARAMETERS | {parameter: text})
            yield f"{parameter} {name}", operation.case(problem, path=path)


def bad_content_types(operation: Operation) -> Cases:
    for name, types in BAD_CONTENT_TYPES.items():
        case = operation.case("unsupported-media-type")
        case.headers = [("content-type", value) for value in types]
        yield name, case


def bad_bodies(operation: Operation) -> Cases:
    bodies = dict(NOT_OBJECTS) if operation.is_body_optional else {"nothing": b"", **NOT_OBJECTS}
    text, members = operation.text, operation.body or {}
    name = next(iter(members)).encode()
    value = json.encode(members[name.decode()])
    unknown = {
        "an unknown member": b'{"nonsense":1,' + text[1:],
        "an unknown member behind": text[:-1] + b',"nonsense":"%b"}' % CANARY.encode(),
        "a member in upper case": b'{"%b":1,' % name.upper() + text[1:],
        "a prototype": b'{"__proto__":{},' + text[1:],
        "an empty name": b'{"":1,' + text[1:],
        "a name with a nul": b'{"%b\\u0000":1,' % name + text[1:],
    }
    bodies |= {} if operation.name == "chat" else unknown
    bodies |= {
        "cut off": text[:-1],
        "text behind": text + b"x",
        "invalid utf-8 behind": text + b"\xff",
        "a repeated member": b'{"%b":%b,' % (name, value) + text[1:],
        "a repeated member behind": text[:-1] + b',"%b":%b}' % (name, value),
        "a member repeated by escape": b'{"\\u%04x%b":%b,' % (name[0], name[1:], value) + text[1:],
    }
    for place, body in bodies.items():
        yield place, operation.case("invalid-input", body=body)


def long_bodies(operation: Operation) -> Cases:
    """Beyond the limit of the body, whether the length is announced or the body comes in chunks."""
    text = operation.text
    for size in (2049, 10**15):
        yield f"{size}", operation.case("too-large", app="small", headers=[("content-length", str(size))])
    bodies: dict[str, bytes | list[bytes]] = {
        "at once": text + b" " * 2048,
        "in chunks": [text, *[b" " * 100] * 21],
        "byte by byte": [bytes([byte]) for byte in text + b" " * 2048],
    }
    for name, body in bodies.items():
        yield name, operation.case("too-large", app="small", body=body)


THEMES = {
    "queries": bad_queries,
    "credentials": bad_credentials,
    "headers": bad_headers,
    "strange headers": strange_headers,
    "paths": bad_paths,
}
BODY_THEMES = {"content types": bad_content_types, "bodies": bad_bodies, "long bodies": long_bodies}

MESSAGES = f"{HOME}/{CONVERSATION}/messages"
BY_KEY = f"{HOME}/by-key/fresh"
ITEMS = f"{DOOR}/{OPENAI_CONVERSATION}/items"
LONG = f'"{"x" * 256}"'
NUL = r'"a\u0000b"'
LONE = r'"\ud800"'
NOT_TEXTS = ["1", "1.5", "true", "[]", "{}", '["x"]']
NOT_OBJECT = ['"x"', "1", "true", "[]", '[{"x":1}]']
NOT_CALLS = ['"x"', '""', "1", "1e400", "false", f'"{CANARY}"']
NOT_IDS = ("", "x", UNKNOWN.upper(), UNKNOWN.replace("-", ""), f"{{{UNKNOWN}}}", UNKNOWN[:-1], f"urn:uuid:{UNKNOWN}")
WIDE_METADATA = f'{{"x":"{"x" * 16384}"}}'
SPACED_METADATA = f"{{{' ' * 16383}}}"
BAD_MEMBERS = {
    "role": ["null", *NOT_TEXTS, '""', '"User"', '"king"', '" user"', r'"user\u0000"', f'"{CANARY}"'],
    "content": [
        *("1", "-0", "true", "{}", '{"type":"text"}', "null", '["x"]', "[1]", "[null]", "[[]]", "[{}]", '[{"type":1}]'),
        *('[{"type":null}]', '[{"text":"x"}]', '[{"type":"x"},{"type":[]}]', '[{"type":"x"},2]'),
        "[" + ",".join(['{"type":"x"}'] * 1001) + "]",
    ],
    "tool_calls": NOT_CALLS,
    "audio_files": NOT_CALLS,
    "function_calls": NOT_CALLS,
    "usage": NOT_OBJECT,
    "metadata": [*NOT_OBJECT, WIDE_METADATA, SPACED_METADATA],
    "tool_call_id": [*NOT_TEXTS, LONG, NUL, LONE],
    "name": [*NOT_TEXTS, LONG, NUL, LONE],
    "model": [*NOT_TEXTS, LONG, NUL, f'"{"😀" * 129}"'],
    "status": [*NOT_TEXTS, '""', '"done"', '"COMPLETED"', f'"{CANARY}"'],
    "client_id": [*NOT_TEXTS, '""', LONG, NUL, '"a b"', '"a/b"', '"é"', r'"a\n"', r'"a\u0000"'],
    "source": ["{}", "null"],
    "seq": ["1"],
    "id": [f'"{MESSAGE}"'],
    "created_at": ['"2026-01-01T00:00:00Z"'],
}
BAD_CONVERSATION_MEMBERS = {
    "title": [*NOT_TEXTS, f'"{"x" * 501}"', f'"{"😀" * 501}"', NUL, LONE],
    "metadata": [*NOT_OBJECT, WIDE_METADATA, SPACED_METADATA, '{"x":' + "[" * 64 + "]" * 64 + "}"],
    "tags": [
        *('"x"', "1", "true", "{}", "[1]", "[null]", "[[]]", '[""]', '["a","b",3]', f"[{NUL}]", f"[{LONE}]"),
        *(f'["{"x" * 65}"]', "[" + ",".join(['"x"'] * 33) + "]"),
    ],
}
BAD_NEW_MEMBERS = {
    "id": [*NOT_TEXTS, *(f'"{text}"' for text in NOT_IDS), rf'"{UNKNOWN}\n"', rf'"{UNKNOWN}\u0000"'],
    "key": [*NOT_TEXTS, '""', '"a b"', '"a/b"', '"é"', r'"a\n"', NUL, f'"{"x" * 129}"', f'"{CANARY} x"'],
    "messages": ['"x"', "1", "{}", "[1]", "[null]", '["x"]', "[[]]", "[{}]", '[{"role":"user"}]', "[{},{}]"],
    "archived": ["true"],
    "pinned": ["true"],
    "last_seq": ["1"],
    "user_id": ['"alice"'],
}
NOT_FLAGS = ['"true"', '"null"', "1", "0", "[]", "{}"]
BAD_CHANGES = BAD_CONVERSATION_MEMBERS | {"archived": NOT_FLAGS, "pinned": NOT_FLAGS}
NOT_INTEGERS = [
    *('"1"', "1.0", "1e0", "1.5", "true", "[]", "{}", "-1", "-0.5", "1e400"),
    *("4611686018427387905", "9223372036854775808", "9" * 5000),
]


def member(name: str, value: str) -> bytes:
    return f'{{"{name}":{value}}}'.encode()


def message(**members: str) -> str:
    """A message that would be kept but for the members given, as the text of their JSON."""
    texts = {"role": '"user"', "content": f'"{CANARY}"'} | members
    return "{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}"


def batch(*messages: str) -> bytes:
    return f'{{"messages":[{",".join(messages)}]}}'.encode()


def sent(problem: str, method: str, path: str, body: bytes | list[bytes], app: str = "app") -> Case:
    return Case(problem=problem, method=method, path=path, body=body, headers=[JSON], app=app)


def bad_members_of_messages() -> Cases:
    """Of the wrong type, out of range, too long, or of characters that are not let in."""
    for name, values in BAD_MEMBERS.items():
        for place, value in enumerate(values):
            bad = message(**{name: value})
            yield f"append {name} {place}", sent("invalid-input", "POST", MESSAGES, bad.encode())
            yield f"create {name} {place}", sent("invalid-input", "POST", HOME, batch(message(), bad))
            if value != "null":
                yield f"edit {name} {place}", sent("invalid-input", "PATCH", f"{MESSAGES}/first", member(name, value))


def bad_members_of_conversations() -> Cases:
    for name, values in (BAD_CONVERSATION_MEMBERS | BAD_NEW_MEMBERS).items():
        for place, value in enumerate(values):
            yield f"create {name} {place}", sent("invalid-input", "POST", HOME, member(name, value))
            yield f"get or create {name} {place}", sent("invalid-input", "PUT", BY_KEY, member(name, value))
    for name, values in BAD_CHANGES.items():
        for place, value in enumerate(values):
            path = f"{HOME}/{CONVERSATION}"
            yield f"change {name} {place}", sent("invalid-input", "PATCH", path, member(name, value))
    for place, value in enumerate(NOT_INTEGERS):
        fork, restore = f"{HOME}/{CONVERSATION}/fork", f"{MESSAGES}/restore"
        yield f"through {place}", sent("invalid-input", "POST", fork, member("through_seq", value))
        yield f"revision {place}", sent("invalid-input", "POST", restore, member("revision", value))


NOT_NATURAL = [
    *("", "-1", "1.0", "1e1", "0x1", "01", "%2B1", "%201", "1%20", "1_0", "null", "true", "NaN", "x", "%00", "1%00"),
    *("1%0A", "%D9%A1", "%EF%BC%91", "%zz", "1;x", "1,2", "[1]", '"1"', "%F0%9F%98%80", CANARY),
    *("99999999999999999999", "9" * 5000),
]
NOT_BOOLEANS = ["", "yes", "2", "null", "1.0", "-1", "true%00", "%00", CANARY]
NOT_CURSORS = [
    *("", "x", "null", "1", "0", "%00", "%F0%9F%98%80", CANARY, "A" * 31, "A" * 33, "A" * 65, "A" * 5000, "A" * 16),
    *("=" * 32, "!" * 32, "_" * 32, "-" * 32, "f" + "_" * 31, "A" * 31 + "%3D", "A" * 32 + "%0A", "%20" + "A" * 32),
    *("A" * 30 + "%3D%3D", "AAAA" * 9, "A" * 31 + "+", "A" * 31 + "%2B", "A" * 31 + "/", "__________" + "A" * 22),
]
NOT_FORMATS = ["", "HTML", "html%00", "%20html", "html,native", "text/html", "json", "openai", "null", "1", CANARY]
BAD_PARAMETERS = {
    ("GET", MESSAGES): {
        "limit": [*NOT_NATURAL, "0", "1001"],
        "after": [*NOT_NATURAL, "1099511627777"],
        "before": [*NOT_NATURAL, "1099511627777"],
        "order": ["", "up", "ASC", "asc%00", "asc,desc", "null", "1", "%20asc", CANARY],
        "format": NOT_FORMATS,
        "offset": ["1"],
        "page": ["1"],
        "archived": ["true"],
    },
    ("GET", HOME): {
        "limit": [*NOT_NATURAL, "0", "101", "1000"],
        "after": NOT_CURSORS,
        "archived": NOT_BOOLEANS,
        "pinned": NOT_BOOLEANS,
        "tag": ["", "%00", "a%00b", "x" * 65, "%F0%9F%98%80" * 65, "%ff", "%ed%a0%80", "%c0%80"],
        "before": ["x"],
        "order": ["asc"],
        "user_id": ["bob"],
    },
    ("GET", f"{MESSAGES}/first"): {"format": NOT_FORMATS, "limit": ["1"], "order": ["asc"]},
    ("DELETE", MESSAGES): {"from_seq": [*NOT_NATURAL, "0", "1099511627777"], "seq": ["1"]},
    ("DELETE", f"{HOME}/{CONVERSATION}"): {"purge": NOT_BOOLEANS},
    ("GET", ITEMS): {
        "limit": [*NOT_NATURAL, "0", "101"],
        "order": ["", "up", "ASC", "asc%00", "null", CANARY],
        "include": ["", "x", "null", "reasoning", "reasoning.encrypted_content%00", CANARY],
        "include[]": ["", "x", CANARY],
        "include[0]": ["", CANARY],
        "include[x]": ["reasoning.encrypted_content"],
        "include[": ["reasoning.encrypted_content"],
        "Include": ["reasoning.encrypted_content"],
        "before": ["first"],
        "after[]": ["first"],
    },
    ("GET", DOOR): {
        "limit": [*NOT_NATURAL, "0", "101"],
        "after": NOT_CURSORS,
        "order": ["asc"],
        "include": ["reasoning.encrypted_content"],
    },
}


def bad_parameters() -> Cases:
    for (method, path), parameters in BAD_PARAMETERS.items():
        for name, values in parameters.items():
            for place, value in enumerate(values):
                case = Case(problem="invalid-input", method=method, path=path, query=f"{name}={value}".encode())
                yield f"{method} {path} {name} {place}", case
    for query in (b"limit=1&limit=1", b"limit=1&limit=2", b"limit=1&%6cimit=1", b"limit=1&&limit=1"):
        for path in (HOME, MESSAGES, DOOR, ITEMS):
            yield f"{path} {query!r}", Case(problem="invalid-input", method="GET", path=path, query=query)
    yield "no from_seq", Case(problem="invalid-input", method="DELETE", path=MESSAGES)


DEEP = "[" * 70 + "]" * 70
TWIN = message(client_id='"twin"')
ENVELOPES = [
    *(("invalid-input", "POST", MESSAGES, member("messages", value)) for value in ("[]", "null", "{}", '"x"', "[[]]")),
    ("invalid-input", "POST", MESSAGES, batch("null")),
    ("invalid-input", "POST", MESSAGES, batch(message(), "{}")),
    ("invalid-input", "POST", MESSAGES, batch(message(), batch(message()).decode())),
    ("invalid-input", "POST", MESSAGES, batch(*[message()] * 1001)),
    ("invalid-input", "POST", MESSAGES, batch(TWIN, message(), TWIN)),
    ("invalid-input", "POST", MESSAGES, batch(TWIN, message(client_id=r'"tw\u0069n"'))),
    ("invalid-input", "POST", MESSAGES, batch(message())[:-1] + b',"role":"user"}'),
    ("invalid-input", "POST", MESSAGES, batch(message())[:-1] + b',"messages":[]}'),
    ("invalid-input", "POST", MESSAGES, b'{"\\u006dessages":[],' + batch(message())[1:]),
    ("invalid-input", "POST", MESSAGES, b'{"messages":[%b],' % DEEP.encode() + batch(message())[1:]),
    ("invalid-input", "POST", MESSAGES, b'{"content":%b,' % DEEP.encode() + message()[1:].encode()),
    ("invalid-input", "POST", MESSAGES, b'{"r\\u006fle":"user",' + message()[1:].encode()),
    ("invalid-input", "POST", MESSAGES, batch(message(), '{"role":"user",' + message()[1:])),
    *(("invalid-input", "POST", MESSAGES, text) for text in (b'{"role":"user"}', b'{"content":"x"}')),
    ("invalid-input", "POST", MESSAGES, message(content="null", tool_calls="null", function_calls="null").encode()),
    ("invalid-input", "POST", MESSAGES, message(content="null", audio_files="[]", usage="{}").encode()),
    ("reserved-id", "POST", MESSAGES, message(client_id=f'"{MESSAGE}"').encode()),
    ("reserved-id", "POST", MESSAGES, batch(message(), message(client_id=f'"{MESSAGE}"'))),
    ("client-id-reused", "POST", MESSAGES, message(client_id='"first"').encode()),
    ("client-id-reused", "POST", MESSAGES, batch(message(client_id='"first"'), TWIN)),
    ("not-found", "POST", f"{HOME}/{UNKNOWN}/messages", message().encode()),
    ("invalid-input", "PATCH", f"{MESSAGES}/first", member("content", "null")),
    ("invalid-input", "POST", f"{MESSAGES}/restore", b"{}"),
    *(("invalid-input", "POST", f"{MESSAGES}/restore", member("revision", value)) for value in ("null", "0")),
    ("not-found", "POST", f"{MESSAGES}/restore", member("revision", "1")),
    ("not-found", "POST", f"{MESSAGES}/restore", member("revision", str(2**62))),
    *(
        ("invalid-input", "POST", f"{HOME}/{CONVERSATION}/fork", member("through_seq", str(seq)))
        for seq in (2, 2**40 + 1)
    ),
    *(
        ("invalid-input", "POST", f"{HOME}/{CONVERSATION}/fork", member("title", title))
        for title in (NUL, LONG[:-1] * 2)
    ),
    ("conversation-exists", "POST", HOME, f'{{"id":"{CONVERSATION}","title":"{CANARY}"}}'.encode()),
    ("conversation-exists", "POST", HOME, f'{{"key":"taken","title":"{CANARY}"}}'.encode()),
    ("conversation-exists", "PUT", BY_KEY, member("id", f'"{CONVERSATION}"')),
    ("invalid-input", "PUT", BY_KEY, member("key", '"another"')),
    ("invalid-input", "POST", HOME, batch(TWIN, TWIN)),
    ("invalid-input", "POST", HOME, batch(*[message()] * 1001)),
]
BIG = f'"{"x" * 1023}"'
SPREAD = message(content=BIG[:500] + '"', tool_calls=f'[{BIG[:500]}"]', metadata=f'{{"x":{BIG[:50]}"}}')
TOO_LARGE = [
    ("POST", MESSAGES, message(content=BIG).encode()),
    ("POST", MESSAGES, SPREAD.encode()),
    ("POST", MESSAGES, batch(message(), message(content=BIG))),
    ("POST", HOME, batch(message(content=BIG))),
    ("PUT", BY_KEY, batch(message(content=BIG))),
    ("PATCH", f"{MESSAGES}/first", member("content", BIG)),
    ("PATCH", f"{MESSAGES}/first", member("tool_calls", f"[{BIG}]")),
]


def bad_envelopes() -> Cases:
    for place, case in enumerate(ENVELOPES):
        yield f"{place}", sent(*case)
    for place, case in enumerate(TOO_LARGE):
        yield f"too large {place}", sent("too-large", *case, app="small")
    keyed = sent("invalid-input", "POST", HOME, member("id", f'"{UNKNOWN}"'))
    keyed.headers.append(("idempotency-key", "k"))
    yield "an id and a key", keyed


UNKNOWN_PATHS = (
    *("/v1", "/v1/", "/v2/conversations", "/V1/conversations", "/v1/conversation", "/v1/Conversations", "/v1//x"),
    *("/%00", "/%ff", "/v1/%00", "/v1/conversations%00", "/v1/conversations%20", "/v1%2fx", "/.env", "/.git/config"),
    *("/x" * 5000, "/" + "x" * 100_000, "/etc/passwd", "/../../etc/passwd", "/admin", f"/{CANARY}", f"{HOME}/by-key"),
    *(f"{HOME}/by-key/a/b", f"{HOME}/{CONVERSATION}/nonsense", f"{HOME}/{CONVERSATION}/%2e%2e/%2e%2e"),
    f"{MESSAGES}/first/nonsense",
    *(PREFIX, f"{PREFIX}/", f"{PREFIX}/nonsense", f"{PREFIX}/conversation", f"{PREFIX}/{CANARY}", f"{PREFIX}%00"),
    *(f"{PREFIX}/conversations/%00/nonsense", f"{PREFIX}/model/{CANARY}", f"{PREFIX}/conversations/x/messages"),
)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "get", CANARY}


def bad_sessions() -> Cases:
    """Of the door's own members, and of sessions that are named where a path cannot."""
    said = f'"query":"{CANARY}"'
    for place, value in enumerate(["null", *NOT_TEXTS, LONE, "1e400"]):
        yield f"query {place}", sent("invalid-input", "POST", "/chat", member("query", value))
    for name in ("audio_files", "function_calls", "metadata"):
        for place, value in enumerate(BAD_MEMBERS[name]):
            yield f"{name} {place}", sent("invalid-input", "POST", "/chat", f'{{{said},"{name}":{value}}}'.encode())
    for place, value in enumerate(NOT_TEXTS):
        yield f"session {place}", sent("invalid-input", "POST", "/chat", f'{{{said},"session_id":{value}}}'.encode())
    for place, text in enumerate((*NOT_IDS, UNKNOWN, CANARY, r"a\u0000", MESSAGE)):
        yield f"no session {place}", sent("not-found", "POST", "/chat", f'{{{said},"session_id":"{text}"}}'.encode())
    quoted = rf'{{"a\"b":1,{said},"a\"b":2}}'.encode()
    yield "a repeated member with a quote", sent("invalid-input", "POST", "/chat", quoted)
    for path, method in (("status", "GET"), ("load-session", "POST"), ("reset", "POST")):
        yield f"{path} of none", Case(problem="invalid-input", method=method, path=f"/chat/{path}")
        for name, text in NOT_CONVERSATIONS.items():
            query = f"session_id={text}".encode()
            problem = "invalid-input" if name in {"invalid utf-8", "an overlong slash"} else "not-found"
            yield f"{path} {name}", Case(problem=problem, method=method, path=f"/chat/{path}", query=query)
    yield "too large", sent("too-large", "POST", "/chat", member("query", BIG), app="small")


BAD_ITEMS = [
    *("null", "1", '"x"', "[]", "{}", '{"type":null}', '{"type":1}', '{"type":""}', '{"type":"message"}'),
    *('{"type":"item_reference","id":"first"}', '{"type":"compaction_trigger"}', '{"role":"user"}', '{"content":"x"}'),
    *(message(role=role) for role in ("null", "1", '""', '"tool"', '"king"', '"User"', f'"{CANARY}"')),
    *(message(content=content) for content in ("null", "1", "true", "{}", '["x"]', "[null]", "[{}]", '[{"type":1}]')),
    *(message(content=f'[{{"type":"{kind}"}}]') for kind in ("input_text", "output_text", "refusal")),
    *(message(content=f'[{{"type":"input_text","text":{text}}}]') for text in ("null", "1", "[]", LONE)),
    *(message(status=status) for status in ("1", '""', '"done"', f'"{CANARY}"')),
    *(message(id=own) for own in ("1", "[]", '""', '"a b"', '"é"', NUL, '"/"', '"///"', r'"a\n"', f'"{"x" * 129}"')),
    *(
        message(phase='"x"'),
        message(content=LONE),
        message(role='"user","role":"user"'),
        message(content="[" * 65 + "]" * 65),
    ),
    *(f'{{"type":"function_call","call_id":"x","name":"x","arguments":{text}}}' for text in ("null", "{}", "1")),
    *(f'{{"type":"function_call_output","output":{output}}}' for output in ("null", "1", "{}")),
    '{"type":"function_call","call_id":1,"name":"x","arguments":"x"}',
    '{"type":"function_call","name":"x","arguments":"x"}',
    f'{{"type":"function_call_output","call_id":{NUL},"output":"x"}}',
    '{"type":"reasoning","id":"rs_x"}',
    f'{{"type":"x","x":{"[" * 64}{"]" * 64}}}',
    '{"type":"x","type":"x"}',
]
TWIN_ITEM = message(id='"twin"')
BAD_ITEM_LISTS = ["1", '"x"', "{}", "[[]]", f"[{TWIN_ITEM},{TWIN_ITEM}]", f"[{','.join([message()] * 21)}]"]
PAIRS = ",".join(f'"{number}":"x"' for number in range(17))
BAD_OPENAI_METADATA = [
    *(*NOT_OBJECT, '{"x":1}', '{"x":null}', '{"x":{}}', '{"x":[]}', '{"x":true}', f"{{{PAIRS}}}", '{"x":"y","x":"y"}'),
    *(f'{{"x":{NUL}}}', f'{{{NUL}:"x"}}', f'{{"x":{LONE}}}', f'{{"{"x" * 65}":"x"}}', f'{{"x":"{"x" * 513}"}}'),
]


def bad_items() -> Cases:
    """Items that the door of OpenAI's clients refuses, alone and behind a good one, in both of their places."""
    lists = [f"[{value}]" for value in BAD_ITEMS] + [f"[{message()},{value}]" for value in BAD_ITEMS] + BAD_ITEM_LISTS
    for name, path in (("add", ITEMS), ("create", DOOR)):
        for place, value in enumerate(lists):
            yield f"{name} {place}", sent("invalid-input", "POST", path, member("items", value))
        big = message(content=BIG)
        yield f"{name} too large", sent("too-large", "POST", path, member("items", f"[{big}]"), app="small")
    for value in ("null", "[]"):
        yield f"add {value}", sent("invalid-input", "POST", ITEMS, member("items", value))
    for own, problem in (("first", "client-id-reused"), (MESSAGE, "reserved-id")):
        again = message(id=f'"{own}"')
        yield f"again {own}", sent(problem, "POST", ITEMS, member("items", f"[{message()},{again}]"))
    for name, path in (("change", f"{DOOR}/{OPENAI_CONVERSATION}"), ("create", DOOR)):
        for place, value in enumerate(BAD_OPENAI_METADATA):
            yield f"{name} metadata {place}", sent("invalid-input", "POST", path, member("metadata", value))


def bad_places_of_items() -> Cases:
    """Of what the door's lists begin behind."""
    for text in ("msg_nope", "%00", CANARY, OTHER_ITEM, "x" * 1000):
        yield f"item {text}", Case(problem="not-found", method="GET", path=ITEMS, query=f"after={text}".encode())
    for text in (f"conv_{UUID(UNKNOWN).hex}", UNKNOWN):
        yield f"{text}", Case(problem="not-found", method="GET", path=DOOR, query=f"after={text}".encode())


def bad_routes() -> Cases:
    for path in UNKNOWN_PATHS:
        for method in ("GET", "POST", "OPTIONS"):
            yield f"{method} {path[:60]} {len(path)}", Case(problem="not-found", method=method, path=path)
    for template in {operation.template for operation in OPERATIONS}:
        known = {operation.method for operation in OPERATIONS if operation.template == template}
        for method in METHODS - known:
            path = template.format(**PARAMETERS)
            yield f"{method} {template}", Case(problem="method-not-allowed", method=method, path=path)
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        for method in METHODS - {"GET"}:
            yield f"{method} {path}", Case(problem="method-not-allowed", method=method, path=path, key="")


GROUPS = {
    f"{operation.name} {theme}": dict(attack(operation))
    for operation in OPERATIONS
    for theme, attack in (THEMES | BODY_THEMES if operation.body else THEMES).items()
} | {
    attack.__name__: dict(attack())
    for attack in (
        bad_members_of_messages,
        bad_members_of_conversations,
        bad_parameters,
        bad_envelopes,
        bad_sessions,
        bad_items,
        bad_places_of_items,
        bad_routes,
    )
}


@pytest.mark.parametrize("group", [group for group, cases in GROUPS.items() if cases])
async def test_bad_requests_are_refused(world: World, group: str) -> None:
    faults = {name: await world.faults(case) for name, case in GROUPS[group].items()}
    assert {name: found for name, found in faults.items() if found} == {}


def test_the_corpus_is_large() -> None:
    assert sum(map(len, GROUPS.values())) >= 3000


@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.name for operation in OPERATIONS])
async def test_who_uses_a_wrong_method_is_told_which_are_right(world: World, operation: Operation) -> None:
    path = operation.template.format(**PARAMETERS)
    answer = await world.ask(Case(problem="", method="TRACE", path=path))
    assert operation.method in answer.headers["allow"].split(", ")


@pytest.mark.parametrize(
    "value",
    ["application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON", "application/json ; x=y"],
)
async def test_json_may_say_more_of_itself(world: World, value: str) -> None:
    case = Case(problem="", body=b"{}", headers=[("content-type", value)])
    assert (await world.ask(case)).status == 201


@pytest.mark.parametrize("item_id", ["a/b", "a?b#c", "%2F", "...", "a/..b", "items/a/items", '"'])
async def test_an_item_is_found_and_deleted_by_any_id(world: World, item_id: str) -> None:
    item = {"id": item_id, "role": "user", "content": "x"}
    made = await world.ask(sent("", "POST", DOOR, json.encode({"items": [item]})))
    path = f"{DOOR}/{json.decode(made.body)['id']}/items/{quote(item_id, safe='')}"
    found = await world.ask(Case(problem="", method="GET", path=path))
    assert json.decode(found.body)["id"] == item_id
    assert [(await world.ask(Case(problem="", method="DELETE", path=path))).status for _ in range(2)] == [200, 404]


async def test_a_body_may_be_as_long_as_the_limit_in_any_chunks(world: World) -> None:
    body = b"{" + b" " * 2046 + b"}"
    for chunks in ([body], [body[:1000], b"", body[1000:]], [bytes([byte]) for byte in body]):
        assert (await world.ask(sent("", "POST", HOME, chunks, app="small"))).status == 201
