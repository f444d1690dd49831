"""What one run of a load has come to."""

from msgspec import Struct


class Outcome(Struct, kw_only=True):
    """Counts and times of one case in one round."""

    count: int
    """Of requests, or of messages in a bulk."""
    per_second: float
    failed_count: int = 0
    """Of answers other than 2xx, and of connections that broke."""
    stored_count: int = 0
    """Of messages that must be there now: their answers came."""
    service_ms: float | None = None
    """CPU for one request of the process that serves, with all it has started."""
    postgres_ms: float | None = None
    """CPU for one request of all PostgreSQL."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    latencies_ms: list[float] | None = None
    """Of an open loop: each, from the time it was due."""


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of them lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
