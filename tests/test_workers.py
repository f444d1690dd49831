"""One service of several processes."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.database_url import DatabaseUrl
from tests.processes import Service, run_verbatim, serving, text_of


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def service(url: DatabaseUrl) -> Iterator[Service]:
    with serving(DATABASE_URL=text_of(url), VERBATIM_WORKERS=2) as service:
        yield service


def wait_for_workers(service: Service, others_than: set[int]) -> list[int]:
    deadline = time.monotonic() + 20
    while len(workers := [pid for pid in children_of(service.process.pid) if pid not in others_than]) < 2:
        assert time.monotonic() < deadline, service.errors
        time.sleep(0.02)
    return workers


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()


def listeners_of(port: int) -> list[str]:
    """What listens on a port, by its line in the kernel's table."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(is_there(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_one_worker_keeps_the_other_shows(service: Service, url: DatabaseUrl) -> None:
    created = run_verbatim("keys", "create", "--tenant", "acme", "--user", "alice", DATABASE_URL=text_of(url))
    headers = {"Authorization": f"Bearer {created.stdout.strip()}"}
    address = service.wait_for_address()
    conversation = httpx.post(f"{address}/v1/conversations", headers=headers).headers["Location"]
    for number in range(20):  # each on a connection of its own, which either worker may take
        said = {"role": "user", "content": f"{number}"}
        assert httpx.post(f"{address}{conversation}/messages", json=said, headers=headers).status_code == 201
        listed = httpx.get(f"{address}{conversation}/messages", headers=headers).json()["data"]
        assert [message["content"] for message in listed] == [f"{n}" for n in range(number + 1)]


def test_a_worker_that_is_lost_is_started_again(service: Service) -> None:
    address = service.wait_for_address()
    lost = wait_for_workers(service, set())[0]
    os.kill(lost, signal.SIGKILL)
    assert len(wait_for_workers(service, {lost})) == 2
    assert httpx.get(f"{address}/healthz").status_code == 200
    assert '"a worker was lost"' in service.errors


def test_a_worker_that_is_lost_just_before_the_end_is_not_started_again(service: Service) -> None:
    os.kill(wait_for_workers(service, set())[0], signal.SIGKILL)
    time.sleep(0.4)  # it is seen to be lost, and waits to be started again
    port = int(service.wait_for_address().rpartition(":")[2])
    service.stop()
    assert listeners_of(port) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_stop_together(service: Service, number: int) -> None:
    workers = wait_for_workers(service, set())
    assert service.stop(number) == 0
    assert not any(is_there(pid) for pid in workers)


def test_no_worker_outlives_a_parent_that_is_killed(service: Service) -> None:
    workers = wait_for_workers(service, set())
    service.process.kill()
    wait_until_gone(workers)
