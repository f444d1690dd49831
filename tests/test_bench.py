"""The benchmark measures what it says: the service's own statements, every failure, every loss."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import embedded
from app.database_url import DatabaseUrl
from app.queries import Conn
from tests.bench import growth, pgbench
from tests.bench.cpu import cpu_seconds
from tests.bench.data import Kind, Tally, fill, tally
from tests.bench.load import Orders, run_closed, run_driver
from tests.bench.outcomes import Outcome
from tests.bench.requests import EMPTY, Address, Call, requests_of
from tests.bench.stage import ROOT, Server, running_floor

KIND = Kind("user", "00000000-0000-7000-8000-", 4, 5, 2)
SHAPES = [
    ("append_message", pgbench.APPEND),
    ("list_messages_descending", pgbench.LAST_50),
    ("list_conversations", pgbench.LIST_20),
    ("get_conversation_by_key", pgbench.BY_KEY),
]


@pytest.fixture(scope="module")
def floor() -> Iterator[Server]:
    with running_floor("framework") as server:
        yield server


def run_each(url: DatabaseUrl, script: pgbench.Script) -> Outcome:
    binary = embedded._find_wheel() / "pginstall" / "bin" / "pgbench"
    return pgbench.run_pgbench(binary, url, script, 2, "-t10")


def orders_of(server: Server, call: Call, rate: float | None = None) -> Orders:
    return Orders(
        address=server.address, requests=requests_of(call, server.address, KIND), connections=4, seconds=1, rate=rate
    )


async def test_what_is_lost_or_out_of_order_is_seen(url: DatabaseUrl, connection: Conn) -> None:
    fill(url, KIND)
    assert tally(url) == Tally(message_count=20, wrong_count=0)
    await connection.execute("DELETE FROM messages WHERE seq = 3 AND conversation_id::text LIKE '%1'")
    await connection.execute("UPDATE conversations SET last_seq = 6 WHERE id::text LIKE '%2'")
    assert tally(url) == Tally(message_count=19, wrong_count=2)


def test_pgbench_runs_the_statements_of_the_service(url: DatabaseUrl) -> None:
    fill(url, KIND)
    for query, values in SHAPES:
        assert run_each(url, pgbench.pgbench_script(url, query, values, KIND)).count == 20
    assert tally(url) == Tally(message_count=40, wrong_count=0)


def test_pgbench_runs_the_statements_from_a_place_in_the_midst(url: DatabaseUrl) -> None:
    fill(url, KIND)
    for case in growth.CASES:
        script = pgbench.pgbench_script(url, case.query, case.values, KIND, case.expressions, growth.DEEP)
        assert run_each(url, script).failed_count == 0


def test_a_statement_with_other_parameters_is_refused(url: DatabaseUrl) -> None:
    with pytest.raises(ValueError, match="append_message has no parameter colour"):
        pgbench.pgbench_script(url, "append_message", {"colour": "red"}, KIND)


@pytest.mark.parametrize("rate", [None, 100.0])
def test_every_answer_other_than_2xx_counts_as_failed(floor: Server, rate: float | None) -> None:
    good = run_driver(orders_of(floor, EMPTY, rate))
    assert good.count >= 90
    assert good.failed_count == 0
    bad = run_driver(orders_of(floor, Call(path="/nothing"), rate))
    assert bad.failed_count == bad.count > 0


def test_a_closed_loop_counts_what_fails_whoever_drives_it(floor: Server) -> None:
    bad = run_closed(orders_of(floor, Call(path="/nothing")))
    assert bad.failed_count == bad.count > 0


def test_a_service_that_is_gone_fails(floor: Server) -> None:
    gone = Server(Address("127.0.0.1", 1), floor.pid)
    with pytest.raises(RuntimeError, match="ConnectionRefusedError"):
        run_driver(orders_of(gone, EMPTY))


def test_the_time_of_a_process_counts_its_children(floor: Server) -> None:
    before = cpu_seconds(floor.pid)
    run_driver(orders_of(floor, EMPTY))
    assert 0.05 < cpu_seconds(floor.pid) - before < 3


@pytest.mark.faults
def test_the_benchmark_runs_and_loses_nothing(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--only", "list20,bulk", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "count = max(seq) = last_seq in every conversation" in done.stdout
    assert "| list 20 / pgbench list 20, 16 clients | " in done.stdout
    assert "| bulk append, messages / COPY in process, messages | " in done.stdout
    (outcomes,) = json.loads(output.read_text())["rounds"]
    assert all(outcome["per_second"] > 0 and outcome["postgres_ms"] >= 0 for outcome in outcomes.values())
