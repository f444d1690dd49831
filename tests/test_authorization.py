"""Every operation of the OpenAPI document, asked for what is Alice's by everyone who is not Alice."""

import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from time import time
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from httpx import AsyncClient
from litestar import Litestar
from litestar.routes import HTTPRoute
from msgspec import Struct, field
from msgspec.structs import replace

from app import model
from app.database import connect
from app.database_url import DatabaseUrl, parse_database_url
from app.embedded import EmbeddedServer
from app.identifiers import MessageIds, owner_id_of, response_id
from app.main import create_app
from app.openai_bodies import openai_id, parse_openai_id
from app.openai_errors import PREFIX, example_of, is_openai, status_at
from app.openapi import build_document
from app.pages import Position, decode_cursor, encode_cursor
from app.problems import error_named
from app.queries import Conn
from app.settings import Settings
from app.stores import service_keys
from tests.conftest import TEMPLATE, client_of, run_sql, running
from tests.processes import serving, text_of
from tests.test_stats import roll_up
from tests.test_tokens import EC, jwk, token

HOME = "/v1/conversations"
UUID_FORM = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
SECRET = "what-alice-said-and-nobody-else-may-read"
OTHER_EC = ec.generate_private_key(ec.SECP256R1())
JWT_SETTINGS = {"jwt_issuer": "https://gate", "jwt_audience": "verbatim", "jwt_tenant_claim": "org"}

ROUTES = create_app(Settings(), parse_database_url("postgresql://localhost/none")).routes
DOCUMENT: dict[str, Any] = json.loads(json.dumps(build_document(ROUTES, "0"), default=str))
OPERATIONS = {
    operation["operationId"]: (method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if operation.get("security") != []
}
FOR_ADMINS = {
    operation["operationId"]
    for methods in DOCUMENT["paths"].values()
    for operation in methods.values()
    if "admin-required" in str(operation["responses"].get("403"))
}
"""The operations on a tenant as a whole, which belong to nobody in it."""
FOR_USERS = [name for name in OPERATIONS if name not in FOR_ADMINS]
EVERY_OTHER = [
    pytest.param(name, marks=pytest.mark.faults) if place % 2 else name for place, name in enumerate(FOR_USERS)
]
"""All of them, each second one only among the long tests: what takes a second for each."""


class Things(Struct, frozen=True, kw_only=True):
    """What a request may name of somebody's; each as long as anybody's, so that answers can be compared by bytes."""

    conversation: str
    message: str
    item: str
    """The second message of the conversation, as the door of OpenAI's clients calls it."""
    deleted: str
    outlived: str
    """A deleted conversation whose key another has taken."""
    asked: str
    """A conversation in which a model has replied."""
    reply: str
    said: str
    key: str
    client_id: str
    tag: str
    request_key: str
    append_key: str
    version: str = '"4.2"'
    revision: int = 2
    cursor: str = ""

    def masked(self, text: str) -> str:
        """A text without what makes it of one owner, one second or one random id."""
        for name in self.__struct_fields__:
            value = str(getattr(self, name)) if name != "revision" else ""
            text = text.replace(value or "\0", f"<{name}>")
            if re.fullmatch(UUID_FORM, value):
                text = text.replace(UUID(value).hex, f"<{name}>")
        text = re.sub(r"bob-\d{6}", "<user>", text)
        text = re.sub(r'(?<="duration_seconds":)[\de.-]+', "<seconds>", text)
        text = re.sub(r'(?<="created_at":)\d{10}\b', "<time>", text)
        text = re.sub(rf"{UUID_FORM}|(?<=[_:])[0-9a-f]{{32}}(?=([0-9a-f]{{4}})?\b)", "<id>", text)
        text = re.sub(r"(?m)^id: \d{16}$", "id: <time>", text)
        text = re.sub(r"\b([a-z]+)_[0-9a-f]{32,42}\b", r"<\1 id>", text)
        text = re.sub(r'(?<=ed_at":)\d+(\.\d+)?', "<time>", text)
        return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>", text)


def item_of(conversation: str) -> str:
    return f"msg_{UUID(MessageIds(UUID(conversation)).of(2)).hex}0000"


def things_of(whose: str, number: int) -> Things:
    """The ids end in the number; what a client may choose as a text begins with six letters that say whose it is."""
    places = (f"0192a4c8-7c1e-7d3a-9f0{place}-{number:012x}" for place in range(4))
    conversation, deleted, outlived, asked = places
    return Things(
        conversation=conversation,
        message=MessageIds(UUID(conversation)).of(1),
        item=item_of(conversation),
        deleted=deleted,
        outlived=outlived,
        asked=asked,
        reply=MessageIds(UUID(asked)).of(2),
        said=f"{whose:_<6}-words",
        key=f"{whose:_<6}-main",
        client_id=f"{whose:_<6}-first-message",
        tag=f"{whose:_<6}-tag",
        request_key=f"{whose:_<6}-request-to-create",
        append_key=f"{whose:_<6}-request-to-append",
    )


HERS = things_of("alice", 1)
NOBODYS = replace(things_of("nobody", 2), version='"7.8"', revision=9)


def nobodys(things: Things) -> Things:
    """What is nobody's; its cursor names a place just before that of the given one, where nothing stands."""
    place = decode_cursor(things.cursor)
    return replace(NOBODYS, cursor=encode_cursor(Position(place.updated_at, UUID(int=2**128 - 1))))


class Ask(Struct, kw_only=True, frozen=True):
    """A request of an operation, that names somebody's things."""

    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: object = None
    is_gone: bool = False
    """What it names is deleted: it finds nothing, even of one's own."""


def in_conversation(its: Things, **path: str) -> dict[str, str]:
    return {"conversation_id": its.conversation, **path}


def of_reply(its: Things) -> dict[str, str]:
    return {"conversation_id": its.asked, "message_id": its.reply}


def of_session(its: Things) -> dict[str, str]:
    return {"session_id": its.conversation}


def openai_conversation(conversation: str, **path: str) -> dict[str, str]:
    return {"openai_conversation_id": openai_id(UUID(conversation)), **path}


def items(content: str, **members: str) -> dict[str, object]:
    return {"items": [{"role": "user", "content": content, **members}]}


def version(its: Things) -> dict[str, str]:
    return {"If-Match": its.version}


def message(**members: object) -> dict[str, object]:
    return {"role": "user", "content": "What is a monad?", **members}


def first_message(its: Things) -> dict[str, object]:
    return message(content=its.said, client_id=its.client_id)


def two(its: Things) -> dict[str, object]:
    return {"messages": [first_message(its), message(content=its.said)]}


ROWS: dict[str, Callable[[Things], list[Ask]]] = {
    "createConversation": lambda its: [
        Ask(body={"id": its.conversation, "title": "x"}),
        Ask(body={"id": its.deleted}),
        Ask(body={"key": its.key, "messages": [first_message(its)]}),
        Ask(body={"title": its.said}, headers={"Idempotency-Key": its.request_key}),
    ],
    "getOrCreateConversation": lambda its: [
        Ask(path={"key": its.key}),
        Ask(path={"key": f"{its.key}-2"}, body={"id": its.conversation, "title": "x"}),
        Ask(path={"key": f"{its.key}-3"}, body={"id": its.deleted}),
    ],
    "listConversations": lambda its: [
        Ask(),
        Ask(query={"after": its.cursor}),
        Ask(query={"tag": its.tag}),
        Ask(query={"archived": "true"}),
        Ask(query={"pinned": "true"}),
    ],
    "getConversation": lambda its: [
        Ask(path=in_conversation(its)),
        Ask(path=in_conversation(its), headers={"If-None-Match": its.version}),
        Ask(path=in_conversation(its), headers={"If-None-Match": "*"}),
        Ask(path={"conversation_id": its.deleted}, is_gone=True),
    ],
    "updateConversation": lambda its: [
        Ask(path=in_conversation(its), body={}),
        Ask(path=in_conversation(its), body={"title": None, "metadata": None, "tags": None, "archived": True}),
        Ask(path=in_conversation(its), body={"title": "x"}, headers=version(its)),
    ],
    "deleteConversation": lambda its: [
        Ask(path=in_conversation(its)),
        Ask(path=in_conversation(its), headers=version(its)),
        Ask(path=in_conversation(its), query={"purge": "true"}),
        Ask(path={"conversation_id": its.deleted}, query={"purge": "true"}),
    ],
    "restoreConversation": lambda its: [
        Ask(path={"conversation_id": its.deleted}),
        Ask(path={"conversation_id": its.outlived}),
        Ask(path=in_conversation(its)),
    ],
    "forkConversation": lambda its: [
        Ask(path=in_conversation(its)),
        Ask(path=in_conversation(its), body={"through_seq": 1, "title": "x"}),
    ],
    "appendMessages": lambda its: [
        Ask(path=in_conversation(its), body=message()),
        Ask(path=in_conversation(its), body={"messages": [message(), message()]}),
        Ask(path=in_conversation(its), body=first_message(its)),
        Ask(path=in_conversation(its), body=two(its)),
        Ask(path=in_conversation(its), body={"messages": [first_message(its), message(content="x")]}),
        Ask(path=in_conversation(its), body=message(content=its.said), headers={"Idempotency-Key": its.append_key}),
        Ask(path=in_conversation(its), body=message(content="x"), headers={"Idempotency-Key": its.append_key}),
        Ask(path=in_conversation(its), body=message(), headers={"Idempotency-Key": f"{its.append_key}-2"}),
        Ask(
            path=in_conversation(its),
            body={"messages": [message(), message()]},
            headers={"Idempotency-Key": f"{its.append_key}-2"},
        ),
        Ask(path=in_conversation(its), body=message(), headers=version(its)),
        Ask(path={"conversation_id": its.deleted}, body=message(), is_gone=True),
    ],
    "listMessages": lambda its: [
        Ask(path=in_conversation(its)),
        Ask(path=in_conversation(its), query={"order": "desc"}),
        Ask(path=in_conversation(its), query={"order": "desc", "limit": "1"}),
        Ask(path=in_conversation(its), query={"after": "1", "before": "3"}),
        Ask(path=in_conversation(its), query={"after": "1000"}),
        Ask(path=in_conversation(its), query={"format": "html"}),
        Ask(path={"conversation_id": its.deleted}, is_gone=True),
        Ask(path={"conversation_id": its.deleted}, query={"order": "desc"}, is_gone=True),
    ],
    "getContext": lambda its: [
        Ask(path=in_conversation(its)),
        Ask(path=in_conversation(its), query={"format": "openai", "max_messages": "1"}),
        Ask(path=in_conversation(its), query={"format": "anthropic", "complete": "true", "max_tokens": "1000"}),
        Ask(path={"conversation_id": its.deleted}, is_gone=True),
    ],
    "createReply": lambda its: [
        Ask(path=in_conversation(its)),
        Ask(path=in_conversation(its), body={"messages": [message()]}),
        Ask(path=in_conversation(its), body={"messages": [first_message(its)]}),
        Ask(path=in_conversation(its), body={"messages": [message()]}, headers={"Idempotency-Key": its.append_key}),
        Ask(path=in_conversation(its), body={"messages": [message()]}, headers=version(its)),
        Ask(path={"conversation_id": its.deleted}, is_gone=True),
    ],
    "streamReply": lambda its: [
        Ask(path=of_reply(its)),
        Ask(path=of_reply(its), headers={"Last-Event-ID": "3"}),
        Ask(path=of_reply(its), headers={"Last-Event-ID": "end"}),
        Ask(path={"conversation_id": its.deleted, "message_id": its.client_id}, is_gone=True),
    ],
    "cancelReply": lambda its: [
        Ask(path=of_reply(its)),
        Ask(path={"conversation_id": its.deleted, "message_id": its.client_id}, is_gone=True),
    ],
    "streamEvents": lambda its: [
        Ask(path=in_conversation(its)),
        Ask(path=in_conversation(its), headers={"Last-Event-ID": "0.0"}),
        Ask(path={"conversation_id": its.deleted}, headers={"Last-Event-ID": "0.0"}, is_gone=True),
    ],
    "streamOwnerEvents": lambda _: [
        Ask(is_gone=True),  # it names nothing
        Ask(headers={"Last-Event-ID": "0"}, is_gone=True),
    ],
    "truncateMessages": lambda its: [
        Ask(path=in_conversation(its), query={"from_seq": "1"}),
        Ask(path=in_conversation(its), query={"from_seq": "1000"}),
        Ask(path=in_conversation(its), query={"from_seq": "2"}, headers=version(its)),
    ],
    "restoreMessages": lambda its: [Ask(path=in_conversation(its), body={"revision": its.revision})],
    "getMessage": lambda its: [
        Ask(path=in_conversation(its, message_id=its.message)),
        Ask(path=in_conversation(its, message_id=its.client_id)),
        Ask(path=in_conversation(its, message_id=its.client_id), query={"format": "html"}),
        Ask(path={"conversation_id": its.deleted, "message_id": its.client_id}, is_gone=True),
    ],
    "updateMessage": lambda its: [
        Ask(path=in_conversation(its, message_id=its.message), body={}),
        Ask(path=in_conversation(its, message_id=its.message), body={"content": "x"}),
        Ask(path=in_conversation(its, message_id=its.client_id), body={"metadata": {}}, headers=version(its)),
    ],
    "deleteMessage": lambda its: [
        Ask(path=in_conversation(its, message_id=its.message)),
        Ask(path=in_conversation(its, message_id=its.client_id), headers=version(its)),
    ],
    "getConversationStats": lambda its: [
        Ask(path=in_conversation(its)),
        Ask(path={"conversation_id": its.deleted}, is_gone=True),
    ],
    "getStats": lambda _: [Ask()],
    "chat": lambda its: [
        Ask(body={"query": "x", **of_session(its)}),
        Ask(body={"query": "x", **of_session(its)}, headers={"Idempotency-Key": its.append_key}),
        Ask(body={"query": "x"}, headers={"Idempotency-Key": its.request_key}),
        Ask(body={"query": "x", "session_id": its.deleted}, is_gone=True),
    ],
    "getChatHistory": lambda its: [
        Ask(path=of_session(its)),
        Ask(path={"session_id": its.deleted}, is_gone=True),
    ],
    "loadChatSession": lambda its: [
        Ask(query=of_session(its)),
        Ask(query={"session_id": its.deleted}, is_gone=True),
    ],
    "getChatStatus": lambda its: [
        Ask(query=of_session(its)),
        Ask(query={"session_id": its.deleted}, is_gone=True),
    ],
    "resetChat": lambda its: [
        Ask(query=of_session(its)),
        Ask(query={"session_id": its.deleted}, is_gone=True),
    ],
    "createResponse": lambda its: [
        Ask(body={"input": "x", "conversation": openai_id(UUID(its.conversation))}),
        Ask(body={"input": "x", "conversation": openai_id(UUID(its.conversation)), "store": False}),
        Ask(body={"input": [message(id=its.client_id)], "conversation": openai_id(UUID(its.conversation))}),
        Ask(
            body={"input": "x", "conversation": openai_id(UUID(its.conversation))},
            headers={"Idempotency-Key": its.append_key},
        ),
        Ask(body={"input": "x", "previous_response_id": response_id(UUID(its.asked), 2)}),
        Ask(body={"input": "x", "previous_response_id": response_id(UUID(its.asked), 2), "store": False}),
        Ask(body={"input": "x"}, headers={"Idempotency-Key": its.request_key}),
        Ask(body={"input": "x", "conversation": openai_id(UUID(its.deleted))}, is_gone=True),
    ],
    "createOpenaiConversation": lambda its: [
        Ask(body={"metadata": {"said": its.said}}, headers={"Idempotency-Key": its.request_key}),
        Ask(body=items(its.said, id=its.client_id), is_gone=True),  # an id names an item of one conversation
        Ask(body=items(its.said, id=its.item), is_gone=True),
    ],
    "listOpenaiConversations": lambda its: [
        Ask(),
        Ask(query={"after": its.cursor}),
        Ask(query={"after": openai_id(UUID(its.conversation))}),
        Ask(query={"after": its.conversation}),
        Ask(query={"after": openai_id(UUID(its.deleted))}, is_gone=True),
    ],
    "getOpenaiConversation": lambda its: [
        Ask(path=openai_conversation(its.conversation)),
        Ask(path={"openai_conversation_id": its.conversation}),
        Ask(path=openai_conversation(its.deleted), is_gone=True),
    ],
    "updateOpenaiConversation": lambda its: [
        Ask(path=openai_conversation(its.conversation), body={"metadata": None}),
        Ask(path=openai_conversation(its.deleted), body={"metadata": {"said": "x"}}, is_gone=True),
    ],
    "deleteOpenaiConversation": lambda its: [
        Ask(path=openai_conversation(its.conversation)),
        Ask(path=openai_conversation(its.deleted), is_gone=True),
    ],
    "createItems": lambda its: [
        Ask(path=openai_conversation(its.conversation), body=items("x")),
        Ask(path=openai_conversation(its.conversation), body=items(its.said, id=its.client_id)),
        Ask(path=openai_conversation(its.conversation), body=items(its.said, id=its.item)),
        Ask(path=openai_conversation(its.asked), body=items(its.said), headers={"Idempotency-Key": its.append_key}),
        Ask(path=openai_conversation(its.asked), body=items("x"), headers={"Idempotency-Key": its.append_key}),
        Ask(path=openai_conversation(its.deleted), body=items(its.said, id=its.client_id), is_gone=True),
    ],
    "listItems": lambda its: [
        Ask(path=openai_conversation(its.conversation)),
        Ask(path=openai_conversation(its.conversation), query={"order": "asc", "limit": "1"}),
        Ask(path=openai_conversation(its.conversation), query={"after": its.client_id}),
        Ask(path=openai_conversation(its.conversation), query={"after": its.item, "order": "asc"}),
        Ask(path=openai_conversation(its.deleted), is_gone=True),
        Ask(path=openai_conversation(its.deleted), query={"after": its.client_id}, is_gone=True),
    ],
    "getItem": lambda its: [
        Ask(path=openai_conversation(its.conversation, item_id=its.client_id)),
        Ask(path=openai_conversation(its.conversation, item_id=its.item)),
        Ask(path=openai_conversation(its.deleted, item_id=its.client_id), is_gone=True),
    ],
    "deleteItem": lambda its: [
        Ask(path=openai_conversation(its.conversation, item_id=its.client_id)),
        Ask(path=openai_conversation(its.conversation, item_id=its.item)),
        Ask(path=openai_conversation(its.deleted, item_id=its.client_id), is_gone=True),
    ],
    "listModels": lambda _: [Ask(is_gone=True)],  # it names nothing
    "getModel": lambda _: [Ask(path={"model_name": "echo"}, is_gone=True)],
}
"""How each operation is asked for somebody's things. A new operation needs a row, with a request for each way in which
it can be told what to work on: in its path, query, headers, body."""


def names_one(operation: str, what: Ask) -> bool:
    """Whether a request names a conversation that must be there."""
    body = what.body if isinstance(what.body, dict) else {}
    is_behind_one = operation == "listOpenaiConversations" and parse_openai_id(what.query.get("after", "")) is not None
    is_within_one = "conversation_id}" in OPERATIONS[operation][1]
    named = {**what.path, **what.query, **body}
    return is_within_one or is_behind_one or not named.keys().isdisjoint({"session_id", "conversation"})


def previous_of(what: Ask) -> object:
    """The response that a request goes on from: one that is not there is a 400."""
    return what.body.get("previous_response_id") if isinstance(what.body, dict) else None


WITHIN_ONE = [name for name in FOR_USERS if all(names_one(name, what) for what in ROWS[name](HERS))]
"""The operations on what is in a conversation."""


async def settle(client: AsyncClient, its: Things, secret: str) -> Things:
    """Makes the things, by a client that has nothing yet; they say the secret wherever text is kept."""

    async def send(method: str, path: str, body: object = None, home: str = HOME, **headers: str) -> Any:
        answer = await client.request(method, f"{home}{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    said: dict[str, object] = {"title": secret, "metadata": {"said": secret}, "tags": [its.tag, secret]}
    await send("POST", "", {"id": its.outlived, "key": its.key, **said})
    await send("DELETE", f"/{its.outlived}")
    await send("POST", "", {"id": its.conversation, "key": its.key, **said, **two(its)})
    keyed = {"Idempotency-Key": its.append_key}
    await send("POST", f"/{its.conversation}/messages", message(content=its.said), **keyed)
    await send("PATCH", f"/{its.conversation}", {"pinned": True})
    await send("DELETE", f"/{its.conversation}/messages?from_seq=3")
    await send("POST", f"/{its.conversation}/messages", message(content=secret, metadata={"said": secret}))
    later = [message(content=secret), message(content=secret, client_id=its.client_id)]
    await send("POST", "", {"id": its.deleted, **said, "messages": later})
    keyed = {"Idempotency-Key": f"{its.append_key}-2"}
    await send("POST", f"/{its.deleted}/messages", message(content=its.said), **keyed)
    await send("DELETE", f"/{its.deleted}")
    await send("POST", "", {"title": its.said}, **{"Idempotency-Key": its.request_key})
    await send("POST", "", {"id": its.asked})
    await send("POST", f"/{its.asked}/replies", {"messages": [message(content=secret)]})
    keyed = {"Idempotency-Key": its.request_key}
    await send("POST", "/chat", {"query": secret}, home="", **keyed)
    await send("POST", "/responses", {"input": secret}, home=PREFIX, **keyed)
    await send("POST", "/conversations", {"metadata": {"said": its.said}}, home=PREFIX, **keyed)
    keyed = {"Idempotency-Key": its.append_key}
    await send("POST", f"/conversations/{its.asked}/items", items(its.said), home=PREFIX, **keyed)
    archived = await send("POST", "", said)
    await send("PATCH", f"/{archived['id']}", {"archived": True})
    page = await send("GET", "?limit=1")
    return replace(its, cursor=page["next_cursor"])


Answer = tuple[int, list[tuple[bytes, bytes]], str]


async def ask(client: AsyncClient, operation: str, what: Ask) -> Answer:
    """The whole answer; each request has the same id, so that two answers can be the same."""
    method, path = OPERATIONS[operation]
    answer = await client.request(
        method,
        path.format(**what.path),
        params=what.query,
        json=what.body,
        headers={**what.headers, "x-request-id": "the-same-for-all"},
    )
    return answer.status_code, [pair for pair in answer.headers.raw if pair[0] != b"date"], answer.text


def masked(answer: Answer, its: Things) -> tuple[int, list[tuple[str, str]], str]:
    status, headers, text = answer
    told = its.masked(text)
    is_timed = "<seconds>" in told  # of which not even the length is the same
    kept = [(name.decode(), value.decode()) for name, value in headers if not (is_timed and name == b"content-length")]
    return status, [(name, its.masked(value)) for name, value in kept], told


class World(Struct):
    """A service, and Alice's things in it."""

    app: Litestar
    url: DatabaseUrl
    connection: Conn
    keys: dict[str, str]
    hers: Things
    owner_columns: dict[str, str | None]
    """Each table, with the column that says whose a row is."""

    async def new_key(self, tenant: str, user: str | None, *, is_admin: bool = False) -> str:
        key = service_keys.new_key()
        await service_keys.create_service_key(self.connection, key, tenant, user, is_admin=is_admin)
        # The use of a key is noted once an hour: this one is not noted any more.
        await self.connection.execute("UPDATE service_keys SET last_used_at = now()")
        return key

    async def contents(self, *owners: tuple[str, str]) -> dict[str, str]:
        """A digest of each table, without the rows of these owners."""
        owner_ids = [owner_id_of(*owner) for owner in owners]
        digests = []
        for table, column in self.owner_columns.items():
            others = f"WHERE {column} <> ALL($1)" if column else "WHERE $1::uuid[] IS NOT NULL"
            digest = "md5(string_agg(entry::text, '|' ORDER BY entry::text))"
            digests.append(f"SELECT '{table}', {digest} FROM {table} AS entry {others}")
        return dict(await self.connection.fetch(" UNION ALL ".join(digests), owner_ids))


# Without what the roll-up writes of its own accord.
FIND_OWNER_COLUMNS = """
SELECT pg_class.oid::regclass::text AS table, min(attname) AS column
FROM pg_class
LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND (attname = 'owner_id' OR (relname, attname) = ('owners', 'id'))
WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
    AND relname NOT IN ('conversation_tallies', 'conversation_days', 'owner_days', 'tenant_days', 'rollups')
GROUP BY pg_class.oid"""


@pytest.fixture(scope="module")
async def world(template: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    run_sql(template.url(), "CREATE DATABASE authorization_matrix TEMPLATE {} STRATEGY FILE_COPY", TEMPLATE)
    url = template.url("authorization_matrix")
    key_set = tmp_path_factory.mktemp("issuer") / "jwks.json"
    key_set.write_text(json.dumps({"keys": [jwk(EC, "ec")]}))
    async with AsyncExitStack() as stack:
        connection = await connect(url, 5)
        stack.push_async_callback(connection.close)
        settings = Settings(
            pool_size=4, jwt_jwks_file=key_set, stream_seconds=0.05, allow_unsafe_database=True, **JWT_SETTINGS
        )
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(model, "ECHO_PAUSE_SECONDS", 0)
        app = await stack.enter_async_context(running(settings, url))
        columns = {row["table"]: row["column"] for row in await connection.fetch(FIND_OWNER_COLUMNS)}
        assert {"owners", "conversations", "messages", "service_keys"} <= columns.keys()
        world = World(app, url, connection, {}, HERS, columns)
        for name, user in (("alice", "alice"), ("bob", "bob"), ("revoked", "alice"), ("tenant", None), ("admin", None)):
            world.keys[name] = await world.new_key("acme", user, is_admin=name == "admin")
        await service_keys.revoke_service_key(connection, service_keys.prefix_of(world.keys["revoked"]) or "")
        async with client_of(app, world.keys["alice"]) as alice:
            world.hers = await settle(alice, HERS, SECRET)
        yield world
    run_sql(template.url(), "DROP DATABASE authorization_matrix WITH (FORCE)")


# What there is


def test_every_operation_has_a_row() -> None:
    assert ROWS.keys() == OPERATIONS.keys()


CONSOLE = {("GET", path) for path in ("/", "/c/{conversation_id}", "/activity", "/assets/{name}")}
UNDOCUMENTED = {("GET", "/openapi.json"), ("GET", "/docs"), *CONSOLE}
OPEN = {("GET", "/healthz"), ("GET", "/readyz"), *UNDOCUMENTED}


def test_exactly_the_open_routes_do_without_credentials() -> None:
    handlers = [(route.path_format, handler) for route in ROUTES for handler in route.route_handlers]
    is_open = {
        (method, path) for path, handler in handlers if handler.opt.get("is_open") for method in handler.http_methods
    }
    documented = {
        (method.upper(), path)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if operation.get("security") == []
    }
    assert is_open == OPEN
    assert documented == OPEN - UNDOCUMENTED


def test_every_route_is_in_the_document() -> None:
    assert [route for route in ROUTES if not isinstance(route, HTTPRoute)] == []
    known = {
        (method, route.path_format) for route in ROUTES for method in route.methods if method != "OPTIONS"
    }  # OPTIONS is answered by Litestar itself
    assert known == set(OPERATIONS.values()) | OPEN


# Who is not let in


def bearer(credentials: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credentials}", **headers}


def token_of(user: str, tenant: str = "acme", key: Any = EC, **claims: object) -> str:
    return token(key, "ec", sub=user, org=tenant, **claims)


NAMES_ALICE = {"X-User-Id": "alice"}
INVALID = (401, "invalid-credentials")
REFUSED: dict[str, tuple[tuple[int, str], Callable[[dict[str, str]], dict[str, str]]]] = {
    "nobody": (INVALID, lambda _: {}),
    "nobody who says to be Alice": (INVALID, lambda _: NAMES_ALICE),
    "garbage": (INVALID, lambda _: bearer("garbage")),
    "Alice's key cut short": (INVALID, lambda keys: bearer(keys["alice"][:-1])),
    "Alice's key under another scheme": (INVALID, lambda keys: {"Authorization": f"Basic {keys['alice']}"}),
    "Alice's revoked key": (INVALID, lambda keys: bearer(keys["revoked"])),
    "Alice's expired token": (INVALID, lambda _: bearer(token_of("alice", exp=time() - 60))),
    "Alice's token for another service": (INVALID, lambda _: bearer(token_of("alice", aud="other"))),
    "Alice's token by another issuer": (INVALID, lambda _: bearer(token_of("alice", iss="https://other"))),
    "Alice's token signed by another": (INVALID, lambda _: bearer(token_of("alice", key=OTHER_EC))),
    "a key of the tenant that names no user": ((400, "user-required"), lambda keys: bearer(keys["tenant"])),
    "an admin key that names no user": ((400, "user-required"), lambda keys: bearer(keys["admin"])),
    "Bob's key that names Alice": ((403, "user-mismatch"), lambda keys: bearer(keys["bob"], **NAMES_ALICE)),
    "Bob's token that names Alice": ((403, "user-mismatch"), lambda _: bearer(token_of("bob"), **NAMES_ALICE)),
}


@pytest.mark.parametrize("who", REFUSED)
@pytest.mark.parametrize("operation", FOR_USERS)
async def test_who_is_not_let_in_learns_and_changes_nothing(world: World, operation: str, who: str) -> None:
    expected, headers_of = REFUSED[who]
    await refuses(world, operation, expected, headers_of(world.keys))


def named(answer: Answer) -> tuple[int, str]:
    """The status of a refusal, and what it is called there."""
    body = json.loads(answer[2])
    return answer[0], body["error"]["code"] if "error" in body else body["type"].rpartition(":")[2]


def as_answered_by(operation: str, status: int, problem: str) -> tuple[int, str | None]:
    """A problem's status and name, in the words of the door to which the operation belongs."""
    path, error = OPERATIONS[operation][1], error_named(problem)
    assert error is not None
    return (status_at(path, error), example_of(error).error.code) if is_openai(path) else (status, problem)


async def refuses(world: World, operation: str, expected: tuple[int, str], headers: dict[str, str]) -> None:
    """Asks in each way for what is hers, and once for what is nobody's: all are refused alike, and change nothing."""
    before, rows = await world.contents(), ROWS[operation]
    async with client_of(world.app, **headers) as client:
        asked = [*rows(world.hers), rows(nobodys(world.hers))[0]]
        answers = [await ask(client, operation, what) for what in asked]
    assert {named(answer) for answer in answers} == {as_answered_by(operation, *expected)}
    assert len({str(answer) for answer in answers}) == 1
    assert await world.contents() == before


NO_ADMIN = (403, "admin-required")
REFUSED_TO_ADMINISTER: dict[str, tuple[tuple[int, str], Callable[[dict[str, str]], dict[str, str]]]] = {
    **{who: (expected, headers_of) for who, (expected, headers_of) in REFUSED.items() if expected == INVALID},
    "Alice's key": (NO_ADMIN, lambda keys: bearer(keys["alice"])),
    "Alice's token": (NO_ADMIN, lambda _: bearer(token_of("alice"))),
    "Alice's token that says to be an admin's": (NO_ADMIN, lambda _: bearer(token_of("alice", is_admin=True))),
    "Bob's key that names Alice": (NO_ADMIN, lambda keys: bearer(keys["bob"], **NAMES_ALICE)),
    "a key of the tenant that names no user": (NO_ADMIN, lambda keys: bearer(keys["tenant"])),
    "a key of the tenant that names Alice": (NO_ADMIN, lambda keys: bearer(keys["tenant"], **NAMES_ALICE)),
}


@pytest.mark.parametrize("who", REFUSED_TO_ADMINISTER)
@pytest.mark.parametrize("operation", FOR_ADMINS)
async def test_who_is_no_admin_learns_nothing_of_the_tenant(world: World, operation: str, who: str) -> None:
    expected, headers_of = REFUSED_TO_ADMINISTER[who]
    await refuses(world, operation, expected, headers_of(world.keys))


@pytest.mark.parametrize("operation", FOR_ADMINS)
async def test_an_admin_key_acts_for_its_own_tenant_alone(world: World, operation: str) -> None:
    """The tenant of an admin who has nothing is as quiet as one that is not there, whomever the key names."""
    await roll_up(world.url)
    before = await world.contents()
    (what,) = ROWS[operation](world.hers)
    answers = []
    for key, headers in [
        (await world.new_key("other", None, is_admin=True), {}),
        (await world.new_key("another", None, is_admin=True), {}),
        (await world.new_key("another", None, is_admin=True), NAMES_ALICE),
        (world.keys["admin"], {}),
        (world.keys["admin"], {"X-User-Id": "nobody"}),
    ]:
        async with client_of(world.app, key, **headers) as client:
            answers.append(await ask(client, operation, what))
    assert {answer[0] for answer in answers} == {200}
    assert answers[0] == answers[1] == answers[2]
    assert answers[3] == answers[4] != answers[0]
    assert SECRET not in str(answers)
    before.pop("service_keys")
    assert before.items() <= (await world.contents()).items()


# Who is let in, but not to what is Alice's

STRANGERS = {
    "another user": ("acme", "bob-{:06}", "key"),
    "another user whom a key of the tenant names": ("acme", "bob-{:06}", "tenant"),
    "another user whom an admin key names": ("acme", "bob-{:06}", "admin"),
    "another user by a token": ("acme", "bob-{:06}", "token"),
    "the user of her name in another tenant": ("other-{}", "alice", "key"),
    "the user of her name in another tenant by a token": ("other-{}", "alice", "token"),
}
_numbers = count(1000)


async def let_in(world: World, who: str) -> tuple[tuple[str, str], dict[str, str]]:
    """A stranger whom no test has seen: the tenant and the user, and the credentials."""
    tenant, user, by = (part.format(next(_numbers)) for part in STRANGERS[who])
    if by == "token":
        return (tenant, user), bearer(token_of(user, tenant))
    if by == "key":
        return (tenant, user), bearer(await world.new_key(tenant, user))
    return (tenant, user), bearer(world.keys[by], **{"X-User-Id": user})


@pytest.mark.parametrize("who", STRANGERS)
@pytest.mark.parametrize("operation", FOR_USERS)
async def test_what_is_anothers_is_to_a_stranger_what_is_not_there(world: World, operation: str, who: str) -> None:
    owner, headers = await let_in(world, who)
    rows, hers, nothing = ROWS[operation], world.hers, nobodys(world.hers)
    before = await world.contents(owner)
    async with client_of(world.app, **headers) as client:
        for what, same in zip(rows(hers), rows(nothing), strict=True):
            answer = await ask(client, operation, what)
            assert masked(answer, hers) == masked(await ask(client, operation, same), nothing)
            assert answer[0] in ({404} if names_one(operation, what) else {200, 201, previous_of(what) and 400})
            assert SECRET not in str(answer)
    assert await world.contents(owner) == before


@pytest.mark.parametrize("operation", [*WITHIN_ONE, "chat"])
async def test_what_is_anothers_is_not_in_a_conversation_of_ones_own(world: World, operation: str) -> None:
    """Hers are named in the stranger's own conversation: message ids, client ids, versions, revisions, keys."""
    owner, headers = await let_in(world, "another user")
    rows, hers, nothing = ROWS[operation], world.hers, nobodys(world.hers)
    before = await world.contents(owner)
    async with client_of(world.app, **headers) as client:
        for place in range(len(rows(hers))):
            answers = []
            for whose in (hers, nothing):
                made = await client.post(HOME, json={"messages": [message()]})
                its = replace(whose, conversation=made.json()["id"])
                answers.append(masked(await ask(client, operation, rows(its)[place]), its))
            assert answers[0] == answers[1]
            assert SECRET not in str(answers)
    assert await world.contents(owner) == before


ALIKE = replace(HERS, said="twins--words")
REVERSED = replace(
    ALIKE,
    conversation=HERS.deleted,
    deleted=HERS.conversation,
    message=MessageIds(UUID(HERS.deleted)).of(1),
    item=item_of(HERS.deleted),
)


@pytest.mark.parametrize("operation", EVERY_OTHER)
async def test_whoever_has_things_of_the_same_names_is_as_if_alone(world: World, operation: str) -> None:
    """A statement that forgets its owner meets her rows where everything that a client chooses is as hers.

    That each request is answered otherwise than for nobody's things shows that it finds what it names.
    """
    row, owners, answers, before = ROWS[operation], [], [], await world.contents()
    for twin in (None, ALIKE, REVERSED):
        for place in range(len(row(HERS))):
            if place == 0 or OPERATIONS[operation][0] != "GET":
                owner, headers = await let_in(world, "another user whom a key of the tenant names")
                owners.append(owner)
                client = client_of(world.app, **headers)
                own = await settle(client, twin or things_of("lonely", next(_numbers)), "what-the-twin-said")
                nothing = nobodys(own)
            answers.append(masked(await ask(client, operation, row(own)[place]), own))
            same = masked(await ask(client, operation, row(nothing)[place]), nothing)
            is_found = "what-the-twin-said" in str(answers[-1]) or answers[-1] != same
            assert is_found != row(own)[place].is_gone or operation == "streamOwnerEvents"  # it names times
    if operation == "streamOwnerEvents":  # how often a new stream tells of the last seconds is a matter of milliseconds
        answers = [
            sorted({line for line in answer[2].split("\n") if line.startswith("data")}) for answer in answers[1::2]
        ]
    alone, alike, reverse = zip(*[iter(answers)] * (len(answers) // 3), strict=True)
    assert alike == alone
    assert reverse == alone
    assert await world.contents(*owners) == before


# Paths and headers that a front door could be fooled by

MANGLED: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "title case": str.title,
    "an escaped letter": lambda path: path.replace("v", "%76", 1),
    "letters escaped": lambda path: "/" + "".join(f"%{ord(letter):02x}" for letter in path[1:]),
    "letters escaped twice": lambda path: path.replace("v", "%2576", 1),
    "slashes escaped": lambda path: "/" + path[1:].replace("/", "%2f"),
    "slashes escaped twice": lambda path: "/" + path[1:].replace("/", "%252F"),
    "the last slash escaped": lambda path: "%2F".join(path.rsplit("/", 1)),
    "slashes doubled": lambda path: path.replace("/", "//"),
    "backslashes": lambda path: "/" + path[1:].replace("/", "\\"),
    "backslashes escaped": lambda path: "/" + path[1:].replace("/", "%5c"),
    "dots between": lambda path: path.replace("/", "/./"),
    "up and down": lambda path: path.replace("/v1/", "/v1/../v1/"),
    "parameters between": lambda path: path.replace("/v1/", "/v1;x=1/"),
    "full-width slashes": lambda path: path.replace("/v1/", "/v1%EF%BC%8F"),
    "overlong slashes": lambda path: path.replace("/v1/", "/v1%c0%af"),
}
AROUND = ("/healthz", "/readyz", "/docs", "/openapi.json")
BEFORE = [
    "/", "//", "/.", "/..", "/%2e%2e", "/%2f", "/%00", "/;", "/*", "/%20", "\\", "/\\", "/c/x", "/assets", "/assets/..",
]  # fmt: skip
BEFORE_WITH = ["", "/", "//", ";", "/..", "/%2e%2e", "%2f..", "/.", "%00", "%3f"]
BEHIND = [
    "/", "//", "/.", "/..", "/../", "/../..", "/%2e", "/%2e%2e", "/%2E%2E/", ".", "..", "%2e", ";", ";x=1", "~", "*",
    "%00", "%00.json", "%20", "%09", "%0a", "%0d%0aX-User-Id:%20alice", "\\", "%5c", "/\\..", "%ff", "%", "%2", ".json",
    "?", "?/healthz", "?path=/healthz", "%3f", "%23", "#", "#/healthz", "?access_token={key}", "?authorization={key}",
]  # fmt: skip
BEHIND_WITH = [
    "", "/", ";", ";x=", "/..", "/../..", "/../../..", "/%2e%2e", "/..;", "%00", "%0a", "\\", "%5c", "/./",
    "%2F", "%2f", "%252f", "/%2F", "..%2f", "%2e%2e%2f", ";/..%2f",
]  # fmt: skip
HEADERS = {
    **dict.fromkeys(("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "X-Forwarded-Path"), "/healthz"),
    **dict.fromkeys(("X-Forwarded-Prefix", "X-Envoy-Original-Path", "X-Script-Name", "Referer"), "/healthz"),
    **dict.fromkeys(("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"), "GET"),
    **dict.fromkeys(("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "X-Custom-IP-Authorization"), "127.0.0.1"),
    **dict.fromkeys(("X-User-Id", "X-Remote-User", "X-Forwarded-User", "X-WEBAUTH-USER"), "alice"),
    **dict.fromkeys(("X-Api-Key", "Api-Key", "X-Auth-Token", "X-Authorization", "Sec-WebSocket-Protocol"), "{key}"),
    **dict.fromkeys(("Proxy-Authorization", "X-Forwarded-Authorization", "WWW-Authenticate"), "Bearer {key}"),
    "Cookie": "Authorization=Bearer {key}; token={key}",
    "Host": "localhost",
    "X-Forwarded-Host": "localhost",
    "X-Forwarded-Proto": "https",
    "Forwarded": "for=127.0.0.1;host=localhost",
    "Origin": "null",
    "Connection": "authorization",
    "Upgrade": "websocket",
    "Content-Type": "application/json",
    "Expect": "100-continue",
}
METHODS = "GET HEAD OPTIONS POST PUT PATCH DELETE TRACE QUERY PROPFIND get Get GET\t"


async def knock(app: Litestar, method: str, target: str, **headers: str) -> tuple[int, bytes]:
    """The status and the body that a request gets which no client has mended."""
    path, _, query = target.partition("?")
    sent: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.lower().encode(), value.encode()) for name, value in (headers | {"x-request-id": "the-same"}).items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(part: Any) -> None:
        sent.append(part)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(part.get("body", b"") for part in sent[1:])


def tricks(operation: str, key: str) -> Iterator[str]:
    """Targets that mean the operation's path, an open one, or both."""
    names = {"session_id": HERS.conversation, "message_id": HERS.message, "key": HERS.key}
    names |= openai_conversation(HERS.conversation, item_id=HERS.client_id, model_name="echo")
    path = OPERATIONS[operation][1].format(conversation_id=HERS.conversation, **names)
    yield path
    yield from (mangle(path) for mangle in MANGLED.values())
    yield from (before + path for before in BEFORE)
    yield from (around + joint + path for around in AROUND for joint in BEFORE_WITH)
    yield from (path + behind.replace("{key}", key) for behind in BEHIND)
    yield from (path + joint + around.removeprefix("/" * ("%2" in joint)) for around in AROUND for joint in BEHIND_WITH)


async def open_answers(app: Litestar) -> set[tuple[int, bytes]]:
    return {await knock(app, method, path) for method, path in OPEN}


def is_kept_out(answer: tuple[int, bytes], open_answers: set[tuple[int, bytes]]) -> bool:
    """Refused, or at most shown what an open path shows."""
    return 400 <= answer[0] < 500 or answer in open_answers


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_path_lets_in(world: World, operation: str) -> None:
    before, known = await world.contents(), await open_answers(world.app)
    method, _ = OPERATIONS[operation]
    assert (await knock(world.app, method, next(tricks(operation, ""))))[0] == 401
    for target in tricks(operation, world.keys["alice"]):
        for way in {method, "GET"}:
            assert is_kept_out(await knock(world.app, way, target), known), (way, target)
    assert await world.contents() == before


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_header_lets_in(world: World, operation: str) -> None:
    before = await world.contents()
    method, _ = OPERATIONS[operation]
    for name, text in HEADERS.items():
        value = text.format(key=world.keys["alice"])
        assert (await knock(world.app, method, next(tricks(operation, "")), **{name: value}))[0] == 401, name
    assert await world.contents() == before


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_method_lets_in(world: World, operation: str) -> None:
    before = await world.contents()
    for method in METHODS.split(" "):
        assert (await knock(world.app, method, next(tricks(operation, ""))))[0] in {401, 405}, method
    assert await world.contents() == before


@pytest.mark.parametrize(("method", "path"), sorted(OPEN))
async def test_no_header_turns_an_open_path_into_another(world: World, method: str, path: str) -> None:
    known = await knock(world.app, method, path)
    for name in HEADERS.keys() - {"Host"}:  # such a host is no host, and is refused
        for value in (f"{HOME}/{HERS.conversation}", HOME, "DELETE", f"Bearer {world.keys['alice']}"):
            assert await knock(world.app, method, path, **{name: value}) == known, (name, value)


RAW_LINES = [
    "GET http://verbatim{path} HTTP/1.1", "GET https://verbatim{path} HTTP/1.1", "GET HTTP://verbatim{path} HTTP/1.1",
    "GET http:{path} HTTP/1.1", "GET http://{path} HTTP/1.1", "GET file://{path} HTTP/1.1",
    "GET http://verbatim/healthz/..{path} HTTP/1.1", "GET http://verbatim/healthz{path} HTTP/1.1",
    "GET http://healthz@verbatim{path} HTTP/1.1", "GET http://verbatim{path}/healthz HTTP/1.1",
    "GET http://verbatim{path}?/healthz HTTP/1.1", "GET http://verbatim{path}#/healthz HTTP/1.1",
    "GET //verbatim{path} HTTP/1.1", "GET *{path} HTTP/1.1", "GET .{path} HTTP/1.1", "GET ?{path} HTTP/1.1",
    "GET {path}\x00/healthz HTTP/1.1", "GET {path}\xff/healthz HTTP/1.1", "GET {path}\t/healthz HTTP/1.1",
    "GET {path}\x7f HTTP/1.1", "GET {path} /healthz HTTP/1.1", "GET /healthz {path} HTTP/1.1", "GET\t{path} HTTP/1.1",
    "GET {path} HTTP/1.0", "GET {path} HTTP/0.9", "GET {path} HTTP/2.0", "GET {path}", "GET {path} http/1.1",
    "GET * HTTP/1.1", "OPTIONS * HTTP/1.1", "HEAD {path} HTTP/1.1", "\r\nGET {path} HTTP/1.1",
    "GET {path} HTTP/1.1\r\nHost: verbatim/healthz?", "GET {path} HTTP/1.1\r\n /healthz",
]  # fmt: skip


@pytest.fixture(scope="module")
def address(world: World) -> Iterator[tuple[str, int]]:
    """Of the service as a process of its own, which reads requests from a socket."""
    with serving(DATABASE_URL=text_of(world.url), VERBATIM_ALLOW_UNSAFE_DATABASE=1) as service:
        place = re.match(r"http://([\d.]+):(\d+)", service.wait_for_address())
        assert place is not None
        yield place[1], int(place[2])


def say(address: tuple[str, int], *heads: str) -> Iterator[tuple[int, bytes]]:
    """The answers on one connection to requests without bodies; none where the service hangs up."""
    with socket.create_connection(address, 10) as connection, connection.makefile("rb") as answers:
        connection.sendall("".join(f"{head}\r\nHost: verbatim\r\n\r\n" for head in heads).encode("latin-1"))
        for asked in heads:
            if not (line := answers.readline()):
                return
            head = dict(iter(lambda: answers.readline().strip().lower().partition(b": ")[::2], (b"", b"")))
            size = 0 if asked.startswith("HEAD") else int(head.get(b"content-length", b"0"))
            yield int(line.split()[1]), answers.read(size)


async def test_no_line_on_the_socket_lets_in(world: World, address: tuple[str, int]) -> None:
    before, known = await world.contents(), await open_answers(world.app)
    lines = [line.format(path=path) for line in RAW_LINES for path in (HOME, f"{HOME}/{HERS.conversation}")]
    for operation, (method, _) in OPERATIONS.items():
        lines += [f"{method} {target} HTTP/1.1" for target in tricks(operation, world.keys["alice"])]
    for line in lines:
        assert all(is_kept_out(answer, known) for answer in say(address, line)), line
    assert await world.contents() == before


def test_credentials_are_of_one_request_not_of_its_connection(world: World, address: tuple[str, int]) -> None:
    bare = f"GET {HOME}/{HERS.conversation} HTTP/1.1"
    with_key = f"{bare}\r\nAuthorization: Bearer {world.keys['alice']}"
    assert [status for status, _ in say(address, with_key, bare, with_key, bare)] == [200, 401, 200, 401]
