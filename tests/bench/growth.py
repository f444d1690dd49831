"""`make bench-growth`: what ten times as many messages cost, statement by statement."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
import psycopg
from msgspec import Struct

from app.database_url import DatabaseUrl
from tests.bench.cpu import cpu_seconds
from tests.bench.data import TEXT, USED_AT, Kind, vacuum
from tests.bench.outcomes import Outcome
from tests.bench.pgbench import APPEND, LAST_50, LIST_20, pgbench_script, run_pgbench
from tests.bench.report import describe_machine, print_machine, print_table
from tests.bench.stage import Postgres, migrated, running_postgres

CLIENTS = 8
MEGABYTE = 2**20
BUMPS = 100_000
_PREFIX = "00000000-0000-7000-81"
_BUMPED = Kind("bumped", f"{_PREFIX}00-", 5000, 0, 250)
_POSITION = f"('{USED_AT}'::timestamptz + :deep * interval '1 second')"
_DEEP_PAGE = {"before_seq": "(:deep::bigint)"}
_DEEP_LIST = {"before_active_at": f"date_trunc('minute', {_POSITION})", "before_updated_at": _POSITION}
DEEP = "\\set deep random(40000, 60000)"


class Case(Struct, frozen=True):
    """A statement over conversations of a kind, and the ratio that there must be, and could be."""

    what: str
    kind: str
    query: str
    values: Mapping[str, str]
    must: float | None = None
    moonshot: float | None = None
    expressions: Mapping[str, str] = {}


CASES = (
    Case("append to conversations of 100", "short", "append_message", APPEND, 0.85, 0.95),
    Case("last 50 of 100", "short", "list_messages_descending", LAST_50, 0.5, 0.9),
    Case("last 50 of 10,000", "long", "list_messages_descending", LAST_50),
    Case("last 50 of 100,000", "huge", "list_messages_descending", LAST_50, 0.95, 1),
    Case(
        "50 in the midst of 100,000",
        "huge",
        "list_messages_descending",
        LAST_50,
        0.8,
        0.95,
        _DEEP_PAGE,
    ),
    Case("list 20 of 10 conversations", "few", "list_conversations", LIST_20, 0.95, 1),
    Case("list 20 of 1,000", "some", "list_conversations", LIST_20, 0.95, 1),
    Case("list 20 of 100,000", "many", "list_conversations", LIST_20, 0.95, 1),
    Case("list 20 in the midst of 100,000", "many", "list_conversations", LIST_20, 0.8, 0.95, _DEEP_LIST),
)


def kinds_of(millions: float) -> dict[str, Kind]:
    """Conversations that hold so many messages together, and the same lists of empty ones at every size."""
    shapes = {
        "tiny": (10_000, 10),
        "short": (3000, 100),
        "medium": (300, 1000),
        "long": (20, 10_000),
        "huge": (1, 100_000),
    }
    kinds = {}
    for number, (name, (count_of_million, length)) in enumerate(shapes.items(), 1):
        count = max(1, round(count_of_million * millions))
        kinds[name] = Kind(name, f"{_PREFIX}{number:02}-", count, length, min(count, 250))
    for number, (name, count, user_count) in enumerate(
        (("few", 1000, 100), ("some", 10_000, 10), ("many", 100_000, 1)), 11
    ):
        kinds[name] = Kind(name, f"{_PREFIX}{number}-", count, 0, user_count)
    return kinds


class Size(Struct, frozen=True):
    """A database, and what is in it."""

    url: DatabaseUrl
    kinds: dict[str, Kind]
    message_count: int
    heap_bytes: int
    index_bytes: int


def main() -> int:
    """Fills two databases, runs the rounds over both, prints the tables, writes the file; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is run (5)")
    parser.add_argument("--seconds", type=int, default=2, help="how long each case takes (2)")
    parser.add_argument("--millions", type=float, nargs=2, default=[1, 10], help="of messages, before and after (1 10)")
    parser.add_argument("--output", type=Path, default=Path("bench-growth.json"), help="where all rounds go")
    options = parser.parse_args()
    machine = describe_machine()
    with running_postgres(autovacuum="on") as postgres:
        bumped_bytes = _measure_bumps(postgres)
        sizes = [_filled(postgres, millions) for millions in options.millions]
        done = [_run_round(postgres, sizes, options.seconds) for _ in _counted(options.rounds)]
    print_machine(machine)
    _print(done, sizes, bumped_bytes)
    kept = {"machine": machine, "rounds": done, "conversations_bytes": bumped_bytes}
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
    return 0


def _counted(count: int) -> Iterator[int]:
    for number in range(1, count + 1):
        print(f"round {number} of {count}", flush=True)
        yield number


def _measure_bumps(postgres: Postgres) -> tuple[int, int]:
    """How large 5,000 conversations are with their indexes, and how large after a hundred thousand appends."""
    url = migrated(postgres, "bumped", _BUMPED)
    script = pgbench_script(url, "append_message", APPEND, _BUMPED)
    before = _number(url, "pg_total_relation_size('conversations')")
    run_pgbench(postgres.pgbench, url, script, CLIENTS, f"-t{BUMPS // CLIENTS}")
    return before, _number(url, "pg_total_relation_size('conversations')")


def _filled(postgres: Postgres, millions: float) -> Size:
    kinds = kinds_of(millions)
    begun_at = time.monotonic()
    name = f"messages_{round(millions * 1000)}_thousand"
    with _careless(postgres):
        url = migrated(postgres, name, *kinds.values(), text=TEXT[:190], key=None, sessions=2)
    count = _number(url, "(SELECT count(*) FROM messages)")
    print(f"{count:,} messages made in {time.monotonic() - begun_at:.0f} s", flush=True)
    heap, index = _number(url, "pg_table_size('messages')"), _number(url, "pg_indexes_size('messages')")
    return Size(url, kinds, count, heap, index)


@contextmanager
def _careless(postgres: Postgres) -> Iterator[None]:
    """A server that may lose what it is given, while it is filled."""
    with psycopg.connect(**postgres.url.for_libpq(), autocommit=True) as connection:
        for action in ("SET {} = off", "RESET {}"):
            for setting in ("fsync", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM {action.format(setting)}")
            connection.execute("SELECT pg_reload_conf()")
            if action.startswith("SET"):
                yield


def _number(url: DatabaseUrl, expression: str) -> int:
    with psycopg.connect(**url.for_libpq()) as connection:
        (number,) = connection.execute(f"SELECT {expression}").fetchone() or (0,)
    return int(number)


def _run_round(postgres: Postgres, sizes: Sequence[Size], seconds: int) -> dict[str, list[Outcome]]:
    """Each case's outcomes at the two sizes, one right after the other."""
    for size in sizes:
        vacuum(size.url)
    return {case.what: [_run(postgres, case, size, seconds) for size in sizes] for case in CASES}


def _run(postgres: Postgres, case: Case, size: Size, seconds: int) -> Outcome:
    script = pgbench_script(size.url, case.query, case.values, size.kinds[case.kind], case.expressions, DEEP)
    before = cpu_seconds(postgres.pid)
    outcome = run_pgbench(postgres.pgbench, size.url, script, CLIENTS, f"-T{seconds}")
    time.sleep(0.15)  # a backend that has ended counts once it has been waited for
    outcome.postgres_ms = 1000 * (cpu_seconds(postgres.pid) - before) / outcome.count
    return outcome


def _print(done: list[dict[str, list[Outcome]]], sizes: Sequence[Size], bumped_bytes: tuple[int, int]) -> None:
    names = [f"{size.message_count / 1e6:g} M" for size in sizes]
    titles = ["what", f"{names[1]} / {names[0]}", "must", "moonshot", *(f"{name}, /s" for name in names)]
    print_table(*titles, *(f"{name}, PostgreSQL CPU ms" for name in names), lines=[_line(done, case) for case in CASES])
    print_table(
        "messages",
        "heap bytes each",
        "index bytes each",
        lines=[
            [
                f"{size.message_count:,}",
                *(f"{part / size.message_count:.0f}" for part in (size.heap_bytes, size.index_bytes)),
            ]
            for size in sizes
        ],
    )
    before, after = (size / MEGABYTE for size in bumped_bytes)
    print(
        f"5,000 conversations with their indexes: {before:.1f} MB; after {BUMPS:,} appends {after:.1f} MB (must ≤ 10)"
    )


def _line(done: list[dict[str, list[Outcome]]], case: Case) -> list[str]:
    pairs = [each[case.what] for each in done]
    ratio = median(large.per_second / small.per_second for small, large in pairs)
    limits = ["" if limit is None else f"{limit:g}" for limit in (case.must, case.moonshot)]
    rates = [f"{median(pair[size].per_second for pair in pairs):,.0f}" for size in (0, 1)]
    return [case.what, f"{ratio:.2f}", *limits, *rates, *_cpu(pairs)]


def _cpu(pairs: list[list[Outcome]]) -> list[str]:
    return [f"{median(pair[size].postgres_ms or 0 for pair in pairs):.3f}" for size in (0, 1)]


if __name__ == "__main__":
    sys.exit(main())
