"""The README is true: its commands run, its tables are what the code says."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import uvicorn
from msgspec.structs import replace
from playwright.async_api import Browser

from app.database import Database
from app.database_url import DatabaseUrl
from app.problems import PROBLEMS, title_of, type_of
from app.queries import Conn
from app.settings import Settings
from tests.browsers import visitor
from tests.node_clients import needs_npm_packages, run_node
from tests.processes import VERBATIM, Service, new_data_dir, serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return scripts(f"sh {kind}")


def scripts(language: str, part: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    _, after = README.split(f"\n## {title}\n")
    return after.split("\n## ")[0]


def test_every_command_is_of_a_kind_that_is_tried_here() -> None:
    kinds = re.findall(r"^```(\S.*)$", README, re.MULTILINE)
    assert set(kinds) == {"sh make", "sh tour", "sh keys", "sh docker", "sql", "python", "html", "js"}


def test_the_make_targets_exist() -> None:
    commands = "".join(blocks("make")).splitlines()
    assert {"make run", "make test"} <= set(commands)
    for command in commands:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def checkout() -> Iterator[tuple[Path, Service]]:
    """A directory in which the README's commands find what a checkout has, and a service that runs there."""
    with new_data_dir("verbatim-readme") as home:
        (home / ".venv" / "bin").mkdir(parents=True)
        (home / ".venv" / "bin" / "verbatim").symlink_to(VERBATIM)
        home.chmod(0o711)
        with serving("--local", VERBATIM_DATA_DIR=home / "var") as service:
            yield home, service
            service.stop()


@asynccontextmanager
async def gateway(verbatim: httpx.AsyncClient, page: bytes) -> AsyncIterator[tuple[str, asyncio.Future[Any]]]:
    """What stands before a browser: it serves the page, and passes on what is Verbatim's, with its own credentials."""
    seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def pass_on(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        if scope["type"] != "http":
            return
        while (part := await receive()).get("more_body"):
            body += part["body"]
        body += part.get("body", b"")
        if scope["path"] == "/seen":
            seen.set_result(json.loads(body))
        if not scope["path"].startswith("/v1/"):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": page if scope["path"] == "/" else b""})
            return
        passed = {b"content-type", b"accept", b"idempotency-key", b"last-event-id"}
        headers = [pair for pair in scope["headers"] if pair[0] in passed]
        target = f"{scope['path']}?{scope['query_string'].decode()}"
        async with verbatim.stream(scope["method"], target, content=body, headers=headers) as answer:
            kind = [(b"content-type", answer.headers.get("content-type", "").encode())]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kind})
            async for chunk in answer.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(pass_on, log_config=None, lifespan="off", timeout_graceful_shutdown=0))
        server.capture_signals = nullcontext
        task = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", seen
        server.should_exit = True
        await task


def run(script: str, home: Path, service: Service) -> str:
    script = script.replace("http://127.0.0.1:8000", service.wait_for_address())
    assert shutil.which("curl"), "the README's commands need curl"
    done = subprocess.run(
        ["bash", "-eu", "-c", script], cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tour_goes_as_told(checkout: tuple[Path, Service]) -> None:
    told = run("\n".join(blocks("tour")), *checkout)
    assert "urn:verbatim:problem" not in told, told
    assert "HTTP/1.1 200" in told
    assert "idempotent-replay: true" in told
    assert told.count('"seq":1,') >= 3
    assert '"key":"default"' in told
    assert '"conversation_length":2' in told
    assert '"history":[' in told
    assert '"forked_from":{' in told


def key_of(home: Path) -> str:
    return (home / "var" / "key").read_text().strip()


def test_three_calls_from_python_tell_the_history(checkout: tuple[Path, Service]) -> None:
    home, service = checkout
    (script,) = scripts("python", section("In an app"))
    environment = {"VERBATIM": service.wait_for_address(), "KEY": key_of(home)}
    for _ in range(2):  # the second time it is a replay
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.endswith(TALK), done.stderr
        assert done.stdout.count("monad") == 1


TALK = "user: What is a monad?\nassistant: A burrito.\n"


@pytest.mark.parametrize("number", [0, 1])
def test_an_openai_client_from_python_tells_the_history(checkout: tuple[Path, Service], number: int) -> None:
    home, service = checkout
    script = scripts("python", section("OpenAI clients"))[number]
    strict = script.replace("OpenAI(base_url", "OpenAI(_strict_response_validation=True, base_url")
    assert strict != script
    environment = {"VERBATIM": service.wait_for_address(), "KEY": key_of(home)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", strict], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == TALK, done.stderr


@needs_npm_packages
def test_an_openai_client_from_node_tells_the_history(checkout: tuple[Path, Service]) -> None:
    home, service = checkout
    (script,) = scripts("js")
    done = run_node("--input-type=module", "-e", script, VERBATIM=service.wait_for_address(), KEY=key_of(home))
    assert done.stdout == TALK, done.stderr


TYPE = r"""
<script type="module">
  const seen = () => [...document.querySelectorAll("#talk li")].map((item) => item.textContent);
  const until = async (is_so) => { while (!is_so()) await new Promise((done) => setTimeout(done, 20)); };
  await until(() => document.querySelector("#talk li"));
  ask.elements.text.value = "Hello \u{1f600}";
  ask.requestSubmit();
  const states = new Set();
  await until(() => { states.add(seen().at(-1)); return seen().length === 3 && seen().at(-1).endsWith("\u{1f600}"); });
  await fetch("/seen", { method: "POST", body: JSON.stringify([seen(), [...states]]) });
</script>
"""
"""What a person would do: wait for the talk, say something, look at the answer."""


async def test_the_page_chats_in_a_browser(checkout: tuple[Path, Service], browser: Browser) -> None:
    home, service = checkout
    (page,) = scripts("html")
    headers = {"Authorization": f"Bearer {key_of(home)}"}
    async with httpx.AsyncClient(base_url=service.wait_for_address(), headers=headers, timeout=30) as verbatim:
        made = (await verbatim.put("/v1/conversations/by-key/default")).json()
        await verbatim.delete(f"/v1/conversations/{made['id']}/messages?from_seq=1")
        await verbatim.post(f"/v1/conversations/{made['id']}/messages", json={"role": "user", "content": "Before."})
        async with gateway(verbatim, (page + TYPE).encode()) as (address, seen), visitor(browser, address) as person:
            await (await person.new_page()).goto(address)
            async with asyncio.timeout(30):
                talk, states = await seen
    answer = "assistant: No model is configured. You said: Hello \U0001f600"
    assert talk == ["user: Before.", "user: Hello \U0001f600", answer]
    assert any(answer.startswith(state) and state != answer for state in states)  # it was seen to grow


def test_the_key_commands_run(checkout: tuple[Path, Service]) -> None:
    create, bound, listing, revoke = "".join(blocks("keys")).splitlines()
    home, service = checkout
    prefix = run(f"export VERBATIM_DATA_DIR=$PWD/var\n{create}", home, service).split("_")[1]
    script = "\n".join(
        ["export VERBATIM_DATA_DIR=$PWD/var", bound, listing, revoke.replace("0123456789ab", prefix), listing]
    )
    told = run(script, home, service)
    assert "user=alice" in told
    assert f"revoked {prefix}" in told


def test_the_container_commands_name_what_there_is() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    for command in "".join(blocks("docker")).splitlines():
        assert command.startswith("docker compose ")
    assert re.search(r"^  verbatim:$", compose, re.MULTILINE)


async def test_a_role_behind_a_pooler_gets_the_limits_of_a_session(
    url: DatabaseUrl, settings: Settings, connection: Conn
) -> None:
    (script,) = scripts("sql")
    await connection.execute("CREATE ROLE reader LOGIN")
    try:
        await connection.execute(script.replace("ROLE verbatim", "ROLE reader"))
        plain = await asyncpg.connect(**replace(url, user="reader").for_asyncpg())
        limits = re.findall(r"SET (\w+) =", script)
        of_role = [await plain.fetchval(f"SHOW {limit}") for limit in limits]
        await plain.close()
    finally:
        await connection.execute("DROP ROLE reader")
    database = Database(url, settings)
    await database.open()
    async with database.connection() as own:
        assert [await own.fetchval(f"SHOW {limit}") for limit in limits] == of_role
    await database.close()


def test_every_problem_is_listed() -> None:
    rows = [f"| `{type_of(error)}` | {status} | {title_of(error)} |" for error, (status, _) in PROBLEMS.items()]
    table = "\n".join(["| `type` | status | `title` |", "| --- | --- | --- |", *rows])
    assert f"<!-- problems -->\n{table}\n<!-- /problems -->" in README, f"the README should have:\n{table}"
