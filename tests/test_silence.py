"""What people say, and what lets them in, is in no log, no error, no process's arguments, whatever breaks."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.database_url import DatabaseUrl
from app.migrations import migrate
from tests.conftest import run_sql
from tests.postmasters import Postmaster, started_postmaster
from tests.processes import Service, run_verbatim, server_pids, serving, text_of

HOME = "/v1/conversations"
CANARY = f"canary{uuid4().hex}"
PASSWORD = f"canary{uuid4().hex}"
# The log of a nervous operator; what keeps parameters out of it is what compose.yaml ships.
NERVOUS = {"log_min_duration_statement": "0", "log_statement": "all", "log_min_error_statement": "debug5"}


@pytest.fixture(scope="module")
def postmaster() -> Iterator[Postmaster]:
    with started_postmaster(**NERVOUS) as postmaster:
        migrate(postmaster.url())
        yield postmaster


@pytest.fixture(scope="module")
def service(postmaster: Postmaster) -> Iterator[Service]:
    url = f"{text_of(postmaster.url())}&password={PASSWORD}"
    with serving(DATABASE_URL=url, VERBATIM_LOG_LEVEL="debug") as service:
        yield service


def requests() -> list[tuple[str, str, object]]:
    """With the marker wherever a client may say something, right and wrong."""
    part = {"type": "text", "text": CANARY, "member": CANARY}
    message: dict[str, object] = {
        "role": "assistant",
        "content": [part],
        "tool_calls": [{"id": CANARY, "function": {"name": CANARY, "arguments": CANARY}}],
        "tool_call_id": CANARY,
        "name": CANARY,
        "model": CANARY,
        "usage": {"note": CANARY},
        "metadata": {"note": CANARY},
        "audio_files": [CANARY],
        "function_calls": [CANARY],
    }
    whole = {"title": CANARY, "tags": [CANARY], "metadata": {"note": CANARY}, "messages": [message]}
    flaws = {
        "role": CANARY,
        "content": 1,
        "status": CANARY,
        "client_id": f"{CANARY} with a space",
        "name": f"{CANARY}{'x' * 200}",
        "tool_call_id": f"{CANARY}\0",
        "metadata": [CANARY],
    }
    home, messages, replies = f"{HOME}/{{id}}", f"{HOME}/{{id}}/messages", f"{HOME}/{{id}}/replies"
    asked = {"messages": [message], "instructions": CANARY, "tools": [{"note": CANARY}], "tool_choice": CANARY}
    return [
        ("POST", HOME, whole),
        ("POST", HOME, whole | {"key": CANARY}),
        ("POST", HOME, whole | {"key": CANARY}),
        ("POST", HOME, whole | {"id": CANARY}),
        ("PUT", f"{HOME}/by-key/{CANARY}", whole),
        ("PUT", f"{HOME}/by-key/{CANARY}%20", whole),
        ("GET", f"{HOME}?tag={CANARY}", None),
        ("GET", f"{HOME}?after={CANARY}", None),
        ("GET", f"{HOME}?{CANARY}=1", None),
        ("GET", f"{HOME}?limit={CANARY}", None),
        ("GET", f"{HOME}/{CANARY}", None),
        ("GET", f"/{CANARY}", None),
        ("PATCH", home, {"title": CANARY, "metadata": {"note": CANARY}, "tags": [CANARY]}),
        ("PATCH", home, {"title": [CANARY]}),
        ("POST", messages, message | {"client_id": CANARY}),
        ("POST", messages, message | {"client_id": CANARY, "content": "other"}),
        ("POST", messages, {"messages": [message] * 2}),
        *(("POST", messages, message | {name: value}) for name, value in flaws.items()),
        ("POST", messages, f'{{"role": "user", "content": "{CANARY}'),
        ("POST", messages, f'{{"role": "user", "content": "{CANARY}", "content": "{CANARY}"}}'),
        ("GET", f"{messages}/{CANARY}", None),
        ("PATCH", f"{messages}/{CANARY}", {"content": CANARY, "metadata": {"note": CANARY}}),
        ("PATCH", f"{messages}/{CANARY}", {"content": {"note": CANARY}}),
        ("GET", messages, None),
        ("POST", f"{home}/fork", {"title": CANARY}),
        ("DELETE", f"{messages}/{CANARY}", None),
        ("DELETE", f"{messages}?from_seq={CANARY}", None),
        ("POST", f"{messages}/restore", {"revision": CANARY}),
        ("POST", replies, asked),
        ("POST", replies, asked | {"tools": CANARY}),
        ("POST", replies, asked | {"instructions": [CANARY]}),
        ("GET", f"{replies}/{CANARY}/events", None),
        ("POST", f"{replies}/{CANARY}/cancel", None),
        ("GET", f"{home}/context?format={CANARY}", None),
        ("GET", f"{home}/context?format=anthropic", None),
        ("POST", "/chat", {"query": CANARY, "metadata": {"note": CANARY}, "audio_files": [CANARY], "other": CANARY}),
        ("POST", "/chat", {"query": [CANARY], "session_id": CANARY}),
        ("GET", f"/chat/history/{CANARY}", None),
        ("GET", f"/chat/status?session_id={CANARY}", None),
    ]


def ask_all(client: httpx.Client) -> dict[int, int]:
    """How often each status came; an error that repeats what was said fails."""
    made = client.post(HOME)
    path = made.json().get("id", "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10")
    statuses: dict[int, int] = {}
    for number, (method, target, body) in enumerate(requests()):
        content = body if isinstance(body, str) else None if body is None else json.dumps(body)
        headers = {"Idempotency-Key": f"{CANARY}-{number % 5}"} if number % 3 else {}
        headers |= {"If-Match": f'"{CANARY}"'} if number % 7 == 6 else {}
        answer = client.request(method, target.replace("{id}", path), content=content, headers=headers)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        if answer.status_code >= 400:
            said = json.dumps(
                answer.json() | {"errors": [error["message"] for error in answer.json().get("errors", [])]}
            )
            assert CANARY not in said, (method, target, said)
    return statuses


def client_of(service: Service, authorization: str) -> httpx.Client:
    headers = {
        "Authorization": authorization,
        "Content-Type": "application/json",
        "X-User-Id": CANARY,
        "User-Agent": CANARY,
        "Referer": CANARY,
        "X-Forwarded-For": CANARY,
        "Cookie": CANARY,
    }
    return httpx.Client(base_url=service.wait_for_address(), headers=headers, timeout=30)


def arguments_of(pids: list[int]) -> str:
    texts = []
    for pid in pids:
        with suppress(OSError):
            texts.append(Path(f"/proc/{pid}/cmdline").read_text())
    return " ".join(texts)


def break_up(url: DatabaseUrl) -> None:
    """So that what is right for the service fails in the server, with the row in its words."""
    run_sql(url, "ALTER TABLE messages ADD CONSTRAINT never CHECK (role = 'user') NOT VALID")
    run_sql(url, "ALTER TABLE conversations ADD CONSTRAINT never CHECK (title IS NULL) NOT VALID")


def test_nothing_that_was_said_is_logged_or_told(postmaster: Postmaster, service: Service) -> None:
    url = postmaster.url()
    key = run_verbatim("keys", "create", "--tenant", "acme", DATABASE_URL=text_of(url)).stdout.strip()
    with client_of(service, f"Bearer {key}") as client:
        statuses = ask_all(client)
        assert {200, 201, 400, 404, 409, 422} <= statuses.keys()
        assert 500 not in statuses
        break_up(url)
        assert ask_all(client)[500] >= 5
        run_sql(url, "ALTER TABLE messages RENAME content TO said")
        assert ask_all(client)[500] >= 5
        postmaster.kill()
        assert ask_all(client).keys() <= {400, 401, 404, 503}
        postmaster.start()
    for authorization in (
        f"Bearer {CANARY}",
        f"Bearer vb_{CANARY}_{CANARY}",
        f"Basic {CANARY}",
        f"Bearer {CANARY}.{CANARY}.{CANARY}",
    ):
        with client_of(service, authorization) as client:
            assert client.get(HOME).status_code == 401
    words = {
        "the service's log": service.output + service.errors,
        "PostgreSQL's log": postmaster.log,
        "arguments": arguments_of([service.process.pid, *server_pids(postmaster.data_dir)]),
    }
    for where, text in words.items():
        for secret in (CANARY, PASSWORD, key.rpartition("_")[2]):
            assert secret not in text, (where, [line for line in text.splitlines() if secret in line][:3])
    assert "INSERT INTO messages" in words["PostgreSQL's log"]  # it does log what it does
    assert '"sqlstate":"23514"' in service.errors


def test_no_address_that_is_said_is_visited(service: Service, postmaster: Postmaster) -> None:
    """Wherever a client may say one, in any guise."""
    key = run_verbatim("keys", "create", "--tenant", "acme", "--user", "u", DATABASE_URL=text_of(postmaster.url()))
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        client_of(service, f"Bearer {key.stdout.strip()}") as client,
    ):
        del client.headers["X-User-Id"]
        port = listener.getsockname()[1]
        hosts = ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001")
        schemes = ("http", "https", "//", "ftp", "ws", "gopher")
        for address in [f"{scheme}://{host}:{port}/x".replace("//://", "//") for scheme in schemes for host in hosts]:
            part = {"type": "image_url", "image_url": {"url": address}}
            text = {"type": "text", "text": f"![x]({address}) <img src={address}>"}
            message = {"role": "user", "content": [part, text], "metadata": {"callback": address}}
            made = client.post(HOME, json={"title": address, "metadata": {"webhook": address}, "messages": [message]})
            assert made.status_code in {201, 500}  # the schema may have been broken before
        for header in ("X-Forwarded-Host", "Host", "Origin", "Referer"):
            client.get(HOME, headers={header: f"http://127.0.0.1:{port}/"})
        listener.settimeout(0.5)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_request_is_one_line_that_tells_what_happened(service: Service, postmaster: Postmaster) -> None:
    key = run_verbatim("keys", "create", "--tenant", "acme", "--user", "u", DATABASE_URL=text_of(postmaster.url()))
    headers = {"Authorization": f"Bearer {key.stdout.strip()}", "x-request-id": "the-gateways-own"}
    with httpx.Client(base_url=service.wait_for_address(), headers=headers) as client:
        unknown = f"{HOME}/0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10?x=1"
        assert client.get(unknown.partition("?")[0]).status_code == 404
    lines = [json.loads(line) for line in service.errors.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "the-gateways-own"]
    assert line.keys() == {
        *("time", "level", "logger", "message", "request_id"),
        *("method", "route", "status", "bytes", "duration_ms", "owner"),
    }
    assert (line["method"], line["route"], line["status"]) == ("GET", f"{HOME}/{{conversation_id}}", 404)
    assert len(line["owner"]) == 36
