"""The rounds: every case once in each, side by side, so that a slow minute hits both sides of a ratio."""

import time
from collections.abc import Mapping
from statistics import median

from tests.bench.cases import Case, Stage
from tests.bench.cpu import cpu_seconds
from tests.bench.data import tally, vacuum
from tests.bench.outcomes import Outcome
from tests.bench.rows import Measure

_REAPING_SECONDS = 0.15  # a process that has ended counts once its parent has waited for it

Round = dict[str, Outcome]


class LostError(Exception):
    """What the service has stored is not what it has answered: the figures mean nothing."""


def run_rounds(stage: Stage, count: int) -> list[Round]:
    """The outcomes of so many rounds. Raises LostError."""
    stored_count = tally(stage.url).message_count
    done = []
    for number in range(1, count + 1):
        print(f"round {number} of {count}", end="", flush=True)
        vacuum(stage.url)
        outcomes = _run_round(stage.cases, stage.postgres.pid)
        done.append(outcomes)
        stored_count = _check_stored(stage, stored_count + sum(outcome.stored_count for outcome in outcomes.values()))
    return done


def _run_round(cases: Mapping[str, Case], postgres_pid: int) -> Round:
    outcomes: Round = {}
    for case in cases.values():
        before = _used(case, postgres_pid)
        ran = case.run()
        time.sleep(_REAPING_SECONDS)
        count = sum(outcome.count for outcome in ran.values())
        if not count:
            raise RuntimeError(f"not one answer came in time: {', '.join(ran)}")
        service_ms, postgres_ms = (
            1000 * (now - then) / count for then, now in zip(before, _used(case, postgres_pid), strict=True)
        )
        for outcome in ran.values():
            outcome.service_ms = service_ms if case.pid else None
            outcome.postgres_ms = postgres_ms
        outcomes |= ran
        print(".", end="", flush=True)
    return outcomes


def _used(case: Case, postgres_pid: int) -> tuple[float, float]:
    return cpu_seconds(case.pid) if case.pid else 0, cpu_seconds(postgres_pid)


def _check_stored(stage: Stage, least_count: int) -> int:
    """The number of messages now; says, once for all appends of the round, that none is lost and none out of order."""
    tallied = tally(stage.url)
    if tallied.wrong_count or tallied.message_count < least_count:
        raise LostError(
            f"{tallied.wrong_count} conversations without count = max(seq) = last_seq; "
            f"{tallied.message_count} messages, at least {least_count} must be there"
        )
    print(f" count = max(seq) = last_seq in every conversation; {tallied.message_count:,} messages", flush=True)
    return tallied.message_count


def count_failed(done: list[Round]) -> dict[str, int]:
    """How many requests of each case were not answered as they should be, where there are any."""
    counts = {name: sum(each[name].failed_count for each in done) for name in done[0]}
    return {name: count for name, count in counts.items() if count}


def ratio(done: list[Round], measure: Measure, case: str, over: str) -> float:
    """The median of the rounds' own ratios."""
    return median(value(each[case], measure) / value(each[over], measure) for each in done)


def value(outcome: Outcome, measure: Measure) -> float:
    """What was measured."""
    match measure:
        case "per_second":
            return outcome.per_second
        case "p99_ms":
            return outcome.p99_ms or 0
        case "cpu_ms":
            return (outcome.service_ms or 0) + (outcome.postgres_ms or 0)
