"""The README is true: its commands run, its tables are what the code says."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from app.database import Database
from app.database_url import DatabaseUrl
from app.problems import PROBLEMS, title_of, type_of
from app.queries import Conn
from app.settings import Settings
from tests.processes import VERBATIM, Service, new_data_dir, serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```sh {kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_every_command_is_of_a_kind_that_is_tried_here() -> None:
    kinds = re.findall(r"^```(\S.*)$", README, re.MULTILINE)
    assert set(kinds) == {"sh make", "sh tour", "sh keys", "sh docker", "sql"}


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
    (script,) = re.findall(r"^```sql\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
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
