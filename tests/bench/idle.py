"""What open event streams cost while nothing happens: `python -m tests.bench.idle`."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median

import psycopg

from app import sse
from app.database_url import DatabaseUrl
from app.settings import Settings
from app.stores.service_keys import digest_of, new_key, prefix_of
from tests.bench.cpu import cpu_seconds
from tests.bench.data import TENANT, Kind
from tests.bench.report import describe_machine, print_machine, print_table
from tests.bench.requests import Call, requests_of
from tests.bench.stage import Postgres, Server, migrated, running_postgres, running_service

EVENTS = Call(path="/v1/conversations/{id}/events")
OWNER_EVENTS = Call(path="/v1/events")
BEAT_SECONDS = Settings().heartbeat_seconds
_BEAT = b"3\r\n" + sse.HEARTBEAT + b"\r\n"


def main() -> int:
    """Opens the streams, leaves them alone, prints what that took, round by round; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.idle", description=__doc__)
    parser.add_argument("--streams", type=int, default=500, help="how many are open (500)")
    parser.add_argument("--seconds", type=int, default=60, help="how long each round takes (60)")
    parser.add_argument("--keys", action="store_true", help="each stream has a service key of its own")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured (3)")
    options = parser.parse_args()
    machine = describe_machine()
    kind = Kind("idle", "00000000-0000-7000-8200-", max(1, options.streams), 2, max(1, options.streams))
    half = options.streams // 2
    cases = {
        "no stream": {},
        f"{options.streams} of a conversation": {EVENTS: options.streams},
        f"{half} of a conversation, {half} of an owner": {EVENTS: half, OWNER_EVENTS: half},
    }
    with running_postgres() as postgres:
        url = migrated(postgres, "idle", kind)
        keys = _create_keys(url, options.streams) if options.keys else []
        lines = []
        for name, streams in cases.items():
            with running_service(url, TENANT) as service, _opened(service, kind, streams, keys) as opened:
                print(f"{name}: process {service.pid}", flush=True)
                time.sleep(5)
                lines.append([name, *_measure(postgres, service, options.rounds, options.seconds)])
                _check(opened, options.rounds * options.seconds)
    print_machine(machine)
    print_table("what is open", "service, % of a core", "PostgreSQL", "rounds", "load average", lines=lines)
    return 0


def _create_keys(url: DatabaseUrl, count: int) -> list[str]:
    keys = [new_key() for _ in range(count)]
    statement = (
        "INSERT INTO service_keys (prefix, sha256, tenant_id, is_admin, created_at) VALUES (%s, %s, %s, false, now())"
    )
    with psycopg.connect(**url.for_libpq()) as connection:
        connection.cursor().executemany(statement, [(prefix_of(key), digest_of(key), TENANT) for key in keys])
    return keys


@contextmanager
def _opened(service: Server, kind: Kind, streams: Mapping[Call, int], keys: list[str]) -> Iterator[list[socket.socket]]:
    """The streams, with these keys in turn, else all with the service's own."""
    own = service.address.key
    with ExitStack() as stack:
        opened: list[socket.socket] = []
        for call, count in streams.items():
            for request in requests_of(call, service.address, kind, count):
                key = keys[len(opened)] if keys else own
                address = (service.address.host, service.address.port)
                opened.append(stack.enter_context(socket.create_connection(address, 10)))
                opened[-1].sendall(request.replace(own.encode(), key.encode()))
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += opened[-1].recv(4096)
                assert answer.startswith(b"HTTP/1.1 200 "), answer
        yield opened


def _measure(postgres: Postgres, service: Server, rounds: int, seconds: int) -> list[str]:
    shares = []
    for _ in range(rounds):
        before, begun_at = [cpu_seconds(pid) for pid in (service.pid, postgres.pid)], time.monotonic()
        time.sleep(seconds)
        after, took = [cpu_seconds(pid) for pid in (service.pid, postgres.pid)], time.monotonic() - begun_at
        shares.append([100 * (late - early) / took for early, late in zip(before, after, strict=True)])
    ours, theirs = zip(*shares, strict=True)
    return [
        f"{median(ours):.2f}",
        f"{median(theirs):.2f}",
        ", ".join(f"{share:.2f}" for share in ours),
        f"{os.getloadavg()[0]:.1f}",
    ]


def _check(opened: list[socket.socket], seconds: float) -> None:
    """Whether each stream has said all the time that it is there."""
    least = int(seconds / BEAT_SECONDS)
    for stream in opened:
        stream.settimeout(0)
        said = stream.recv(2**20)
        assert said.count(_BEAT) >= least, said


if __name__ == "__main__":
    sys.exit(main())
