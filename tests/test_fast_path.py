"""The short way to a handler, against the framework's: no request can tell them apart."""

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from litestar import Litestar

from app.fast_path import FastPath
from tests.conftest import append, new_conversation

ABSENT = "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10"
MESSAGE = b'{"role":"user","content":"x"}'
JSON = {"Content-Type": "application/json"}

REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a page": ("GET", "{path}/messages", {}),
    "a page from a place on": ("GET", "{path}/messages?order=desc&limit=1&before=2", {}),
    "an unknown parameter": ("GET", "{path}/messages?colour=red", {}),
    "a parameter twice": ("GET", "{path}/messages?limit=1&limit=2", {}),
    "a parameter that is not UTF-8": ("GET", "{path}/messages?after=%ff", {}),
    "a page as HTML": ("GET", "{path}/messages?format=html", {}),
    "a conversation": ("GET", "{path}", {}),
    "a conversation as it is known": ("GET", "{path}", {"headers": {"If-None-Match": "*"}}),
    "a list": ("GET", "/v1/conversations?limit=1", {}),
    "a list from a bad cursor on": ("GET", "/v1/conversations?after=x", {}),
    "a conversation by its key": ("PUT", "/v1/conversations/by-key/a-key", {}),
    "a key that is a word of another path": ("PUT", "/v1/conversations/by-key/messages", {}),
    "a key of characters no key has": ("PUT", "/v1/conversations/by-key/%C3%A4", {}),
    "an encoded slash": ("GET", "/v1/conversations/by-key%2Fa-key", {}),
    "an id in capitals": ("GET", "/v1/conversations/" + ABSENT.upper(), {}),
    "no id": ("GET", "/v1/conversations/by-key", {}),
    "an absent conversation": ("GET", f"/v1/conversations/{ABSENT}/messages", {}),
    "a path that goes on": ("GET", "{path}/messages/x/y/z", {}),
    "a path with a slash more": ("GET", "{path}/messages/", {}),
    "a path with a slash twice": ("GET", "/v1//conversations", {}),
    "another method": ("PUT", "{path}/messages", {}),
    "a replay": (
        "POST",
        "{path}/messages",
        {"content": MESSAGE, "headers": {**JSON, "Idempotency-Key": "a-key"}},
    ),
    "another version": ("POST", "{path}/messages", {"content": MESSAGE, "headers": {**JSON, "If-Match": '"9"'}}),
    "no version": ("POST", "{path}/messages", {"content": MESSAGE, "headers": {**JSON, "If-Match": "nine"}}),
    "no content type": ("POST", "{path}/messages", {"content": MESSAGE}),
    "a content type twice": (
        "POST",
        "{path}/messages",
        {"content": MESSAGE, "headers": [*JSON.items(), ("Content-Type", "text/plain")]},
    ),
    "no JSON": ("POST", "{path}/messages", {"content": b"{", "headers": JSON}),
    "no message": ("POST", "{path}/messages", {"content": b'{"role":"nobody","content":"x"}', "headers": JSON}),
    "no UTF-8": ("POST", "{path}/messages", {"content": b'{"role":"\xff"}', "headers": JSON}),
    "no body": ("POST", "{path}/messages", {}),
    "no key": ("GET", "{path}/messages", {"headers": {"Authorization": ""}}),
    "another's key": ("GET", "{path}/messages", {"headers": {"Authorization": "Bearer vb_0123456789ab_x"}}),
    "another user": ("GET", "{path}/messages", {"headers": {"X-User-Id": "somebody-else"}}),
    "a user with a control character": ("GET", "{path}/messages", {"headers": {"X-User-Id": b"a\x85"}}),
    "a host that is none": ("GET", "{path}/messages", {"headers": {"Host": "a b"}}),
    "a host in another script": ("GET", "{path}/messages", {"headers": {"Host": "ä".encode()}}),
}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each request took the short way; where the first of it is False, none does."""
    found: list[bool] = []
    find = FastPath.find

    def watched(self: FastPath, scope: Any) -> Any:
        way = find(self, scope) if found[:1] != [False] else None
        found.append(way is not None)
        return way

    monkeypatch.setattr(FastPath, "find", watched)
    return found


def seen(answer: httpx.Response) -> tuple[object, ...]:
    """All of an answer that is not of its moment."""
    body: object = answer.content
    if "json" in answer.headers.get("Content-Type", ""):
        body = {**answer.json(), "request_id": None}
    return answer.status_code, sorted({**answer.headers, "x-request-id": "", "content-length": ""}.items()), body


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_ways_give_the_same_answer(alice: httpx.AsyncClient, taken: list[bool], name: str) -> None:
    method, path, given = REQUESTS[name]
    own = await new_conversation(alice, ["one", "two"])
    await append(alice, own, "x", **{"Idempotency-Key": "a-key"})
    await alice.put("/v1/conversations/by-key/a-key")
    await alice.put("/v1/conversations/by-key/messages")
    if name == "a replay":
        assert (await alice.request(method, path.format(path=own), **given)).status_code == 200
    request = alice.build_request(method, path.format(path=own), **given)
    taken.clear()
    short = await alice.send(request)
    taken[:] = [False]
    assert seen(await alice.send(request)) == seen(short)


async def test_what_is_hot_takes_the_short_way(alice: httpx.AsyncClient, taken: list[bool]) -> None:
    path = await new_conversation(alice)
    for method, hot in [
        ("POST", f"{path}/messages"),
        ("GET", f"{path}/messages"),
        ("GET", path),
        ("GET", "/v1/conversations"),
        ("POST", "/v1/conversations"),
        ("PUT", "/v1/conversations/by-key/a-key"),
    ]:
        taken.clear()
        await alice.request(method, hot, content=MESSAGE if hot.endswith("messages") else b"", headers=JSON)
        assert taken == [True]


class Probe:
    """Something of a request that can be watched as it goes."""


@pytest.mark.parametrize("query", [b"", b"colour=red"])
async def test_a_request_leaves_nothing_for_the_garbage_collector(
    app: Litestar, alice: httpx.AsyncClient, query: bytes
) -> None:
    probe = Probe()
    watched = weakref.ref(probe)
    sent: list[object] = []

    async def serve(probe: Probe) -> None:
        headers = [(b"authorization", alice.headers["Authorization"].encode())]
        state = {"probe": probe, "respond": lambda *answer: sent.append((probe, answer)) or True}
        scope = {"type": "http", "method": "GET", "path": "/v1/conversations", "raw_path": b"/v1/conversations"}
        scope |= {"query_string": query, "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": ""}
        scope["state"] = state

        async def send(message: object) -> None:
            sent.append((probe, scope, message))

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False, "of": scope}

        await app(scope, receive, send)

    gc.disable()
    try:
        await serve(probe)
        assert sent
        sent.clear()
        del probe
        assert watched() is None
    finally:
        gc.enable()


def test_a_line_of_the_log_is_the_same_from_both_writers() -> None:
    """Written in a process of its own, since a process has one log."""
    code = """if True:
        import asyncio, logging
        from uuid import UUID
        from app.logs import LineLogger, REQUEST_ID, configure_logs
        configure_logs("info")
        REQUEST_ID.set("an-id")
        fields = {"method": "GET", "route": None, "status": 200, "duration_ms": 1.25, "owner": UUID(int=7)}
        async def write():
            LineLogger("verbatim.requests").info("request", fields)
            logging.getLogger("verbatim.requests").info("request", extra={"fields": fields})
        asyncio.run(write())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)  # our own code
    one, other = map(json.loads, done.stderr.splitlines())
    assert {**one, "time": None} == {**other, "time": None}
    assert [*one] == [*other]
