"""The roll-up: what conversations have gained since they were last counted goes into the sums of their days.

Each batch is one transaction under the lock of the roll-up's row: the sums, and the tallies that say what is in them,
move together, so that looking at a conversation again adds nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from uuid import UUID

from msgspec import Struct

from app.queries import BULK_SECONDS, Conn, NoRow, Query

BATCH_SIZE = 1000
"""The most conversations of one transaction."""

KEPT_DAYS = 400
"""How long it is kept which conversations and users were active on a day; the day's sums stay."""

_REREAD = timedelta(minutes=2)  # longer than any transaction of ours: what it wrote is dated from its beginning
_MEASURED_AT_ONCE = 100
_PURGED_AT_ONCE = 5000
_MESSAGE_COUNTS = (
    "user_message_count",
    "assistant_message_count",
    "tool_message_count",
    "system_message_count",
    "developer_message_count",
)
_COUNTED = ("last_seq", "revision", *_MESSAGE_COUNTS, "input_tokens", "output_tokens")
_SUMS = (
    "conversation_count",
    "new_conversation_count",
    "active_user_count",
    *_MESSAGE_COUNTS,
    "input_tokens",
    "output_tokens",
)

TenantDay = tuple[str, date]
Gains = dict[TenantDay, Counter[str]]


class Place(Struct, frozen=True, order=True):
    """A place in the order of activity: behind this conversation, in its minute."""

    active_at: datetime
    owner: UUID
    conversation: UUID


class Counting(Struct, frozen=True):
    """How far one run has come, and up to where all was committed before it began."""

    claimed_at: datetime
    place: Place
    horizon: Place
    is_done: bool = False


class _Claim(Struct, frozen=True):
    after_active_at: datetime
    after_owner: UUID
    after_conversation: UUID
    claimed_at: datetime


class Activity(Struct, frozen=True):
    """A conversation as it is, and as it was when it was counted last."""

    owner_id: UUID
    id: UUID
    active_at: datetime
    tenant_id: str
    created_at: datetime
    updated_at: datetime
    last_seq: int
    revision: int
    user_message_count: int
    assistant_message_count: int
    tool_message_count: int
    system_message_count: int
    developer_message_count: int
    input_tokens: int
    output_tokens: int
    counted_last_seq: int
    counted_revision: int
    counted_user_message_count: int
    counted_assistant_message_count: int
    counted_tool_message_count: int
    counted_system_message_count: int
    counted_developer_message_count: int
    counted_input_tokens: int
    counted_output_tokens: int
    is_new: bool
    active_day: date | None

    @property
    def day(self) -> date:
        """The day of what it gained: in UTC, that of its last activity."""
        return self.updated_at.astimezone(UTC).date()

    @property
    def said_count(self) -> int:
        """How many messages were appended since it was counted."""
        return self.last_seq - self.counted_last_seq

    @property
    def is_counted(self) -> bool:
        """Whether nothing is to be counted: no append, and no change of any other kind."""
        return not self.is_new and (self.last_seq, self.revision) == (self.counted_last_seq, self.counted_revision)


class _TenantDay(Struct, frozen=True):
    tenant_id: str
    day: date


class _Measured(Struct, frozen=True):
    tenant_id: str
    day: date
    turns: float | None
    duration_seconds: float | None


class _ConversationDay(Struct, frozen=True):
    owner_id: UUID
    conversation_id: UUID
    day: date


class _OwnerDay(Struct, frozen=True):
    owner_id: UUID
    day: date


_CLAIM = Query("claim_rollup", _Claim)
_ADVANCE = Query("advance_rollup", NoRow)
_FINISH = Query("finish_rollup", NoRow)
_LIST_ACTIVE = Query("list_active_conversations", Activity)
_UPDATE_TALLIES = Query("update_tallies", NoRow)
_UPDATE_CONVERSATION_DAYS = Query("update_conversation_days", NoRow)
_CREATE_OWNER_DAYS = Query("create_owner_days", _TenantDay)
_UPDATE_TENANT_DAYS = Query("update_tenant_days", NoRow)
_LIST_STALE = Query("list_stale_days", _TenantDay)
_MEASURE = Query("measure_tenant_days", _Measured, BULK_SECONDS)
_UPDATE_MEDIANS = Query("update_medians", NoRow)
_LIST_EXPIRED_CONVERSATION_DAYS = Query("list_expired_conversation_days", _ConversationDay)
_PURGE_CONVERSATION_DAYS = Query("purge_conversation_days", NoRow)
_LIST_EXPIRED_OWNER_DAYS = Query("list_expired_owner_days", _OwnerDay)
_PURGE_OWNER_DAYS = Query("purge_owner_days", NoRow)


async def begin_counting(connection: Conn, fresh_seconds: float = 0) -> Counting | None:
    """A run from where the last one can be trusted; None while another counts or has counted just now."""
    claim = await _CLAIM.fetch_one(connection, fresh_seconds=fresh_seconds)
    if claim is None:
        return None
    horizon = claim.claimed_at.replace(second=0, microsecond=0) - _REREAD
    place = Place(claim.after_active_at, claim.after_owner, claim.after_conversation)
    return Counting(claim.claimed_at, place, Place(horizon, UUID(int=0), UUID(int=0)))


async def count_batch(connection: Conn, counting: Counting, batch_size: int = BATCH_SIZE) -> Counting | None:
    """Counts the next conversations of a run; None: another is at it.

    Raises asyncpg.ForeignKeyViolationError, and counts nothing, when one of them is purged meanwhile.
    """
    async with connection.transaction():
        if await _CLAIM.fetch_one(connection, fresh_seconds=0) is None:
            return None
        place = counting.place
        rows = await _LIST_ACTIVE.fetch(
            connection,
            active_at=place.active_at,
            owner=place.owner,
            conversation=place.conversation,
            batch_size=batch_size,
        )
        await _count(connection, [row for row in rows if not row.is_counted])
        is_done = len(rows) < batch_size
        if rows:
            place = Place(rows[-1].active_at, rows[-1].owner_id, rows[-1].id)
        # What was not committed when the run began may still come to stand before the place.
        trusted = counting.horizon if is_done else min(place, counting.horizon)
        await _ADVANCE.execute(
            connection, active_at=trusted.active_at, owner=trusted.owner, conversation=trusted.conversation
        )
    return Counting(counting.claimed_at, place, counting.horizon, is_done)


async def measure_batch(connection: Conn) -> bool:
    """Measures the medians of days that have changed; whether there may be more of them."""
    async with connection.transaction():
        if await _CLAIM.fetch_one(connection, fresh_seconds=0) is None:
            return False
        stale = await _LIST_STALE.fetch(connection, batch_size=_MEASURED_AT_ONCE)
        measured = await _MEASURE.fetch(
            connection, tenant_ids=[row.tenant_id for row in stale], days=[row.day for row in stale]
        )
        await _UPDATE_MEDIANS.execute(
            connection,
            tenant_ids=[row.tenant_id for row in measured],
            days=[row.day for row in measured],
            median_turns=[row.turns for row in measured],
            median_duration_seconds=[row.duration_seconds for row in measured],
        )
    return len(stale) == _MEASURED_AT_ONCE


async def finish_counting(connection: Conn, counting: Counting) -> None:
    """Says that all that was committed before the run began is counted."""
    await _FINISH.execute(connection, rolled_up_at=counting.claimed_at)


async def _count(connection: Conn, rows: list[Activity]) -> None:
    if not rows:
        return
    active = [row for row in rows if row.said_count]
    gains = _sum_up(rows)
    await _UPDATE_TALLIES.execute(
        connection,
        owner_ids=[row.owner_id for row in rows],
        conversation_ids=[row.id for row in rows],
        active_days=[row.day if row.said_count else row.active_day for row in rows],
        **{name if name.endswith("s") else f"{name}s": [getattr(row, name) for row in rows] for name in _COUNTED},
    )
    await _UPDATE_CONVERSATION_DAYS.execute(
        connection,
        owner_ids=[row.owner_id for row in active],
        conversation_ids=[row.id for row in active],
        days=[row.day for row in active],
        tenant_ids=[row.tenant_id for row in active],
        turn_counts=[row.user_message_count for row in active],
        duration_seconds=[(row.updated_at - row.created_at).total_seconds() for row in active],
    )
    owner_days = sorted({(row.owner_id, row.day, row.tenant_id) for row in active})
    for user in await _CREATE_OWNER_DAYS.fetch(
        connection,
        owner_ids=[owner_id for owner_id, _, _ in owner_days],
        days=[day for _, day, _ in owner_days],
        tenant_ids=[tenant_id for _, _, tenant_id in owner_days],
    ):
        gains[user.tenant_id, user.day]["active_user_count"] += 1
    await _update_tenant_days(connection, gains)


def _sum_up(rows: list[Activity]) -> Gains:
    gains: Gains = defaultdict(Counter)
    for row in rows:
        if row.is_new:
            gains[row.tenant_id, row.created_at.astimezone(UTC).date()]["new_conversation_count"] += 1
        gained = gains_of(row)
        if row.said_count and row.active_day != row.day:
            gained["conversation_count"] += 1
        if gained or row.said_count:
            gains[row.tenant_id, row.day] += gained
    return gains


async def _update_tenant_days(connection: Conn, gains: Gains) -> None:
    days = sorted(gains)
    await _UPDATE_TENANT_DAYS.execute(
        connection,
        tenant_ids=[tenant_id for tenant_id, _ in days],
        days=[day for _, day in days],
        **{name if name.endswith("s") else f"{name}s": [gains[day][name] for day in days] for name in _SUMS},
    )


def gains_of(row: Activity) -> Counter[str]:
    """What a conversation gained since it was counted: never less than nothing, and as many messages as were said.

    The counters tell of each role unless messages were deleted or brought back meanwhile; then what was said is
    divided by what the counters show, in proportion.
    """
    now = [getattr(row, name) for name in _MESSAGE_COUNTS]
    before = [getattr(row, f"counted_{name}") for name in _MESSAGE_COUNTS]
    shown = [max(0, new - old) for new, old in zip(now, before, strict=True)]
    if sum(shown) > row.said_count:
        shown = _divide(row.said_count, shown)
    elif rest := row.said_count - sum(shown):
        weights = [new + old for new, old in zip(now, before, strict=True)]
        shown = [count + more for count, more in zip(shown, _divide(rest, weights), strict=True)]
    gained = Counter(dict(zip(_MESSAGE_COUNTS, shown, strict=True)))
    for name in ("input_tokens", "output_tokens"):
        gained[name] = max(0, getattr(row, name) - getattr(row, f"counted_{name}"))
    return +gained


def _divide(count: int, weights: Sequence[int]) -> list[int]:
    """Whole parts in proportion to the weights, whose sum is the count; all to the first where none has a weight."""
    total = sum(weights) or 1
    weights = weights if any(weights) else [1, *weights[1:]]
    marks = [0, *(count * sum(weights[: place + 1]) // total for place in range(len(weights)))]
    return [upper - lower for lower, upper in pairwise(marks)]


async def purge_days(connection: Conn) -> None:
    """Erases in bounded batches who and what was active on days longer ago than KEPT_DAYS."""
    before_day = datetime.now(UTC).date() - timedelta(days=KEPT_DAYS)
    while days := await _LIST_EXPIRED_CONVERSATION_DAYS.fetch(
        connection, before_day=before_day, batch_size=_PURGED_AT_ONCE
    ):
        await _PURGE_CONVERSATION_DAYS.execute(
            connection,
            owner_ids=[day.owner_id for day in days],
            conversation_ids=[day.conversation_id for day in days],
            days=[day.day for day in days],
        )
    while users := await _LIST_EXPIRED_OWNER_DAYS.fetch(connection, before_day=before_day, batch_size=_PURGED_AT_ONCE):
        await _PURGE_OWNER_DAYS.execute(
            connection, owner_ids=[user.owner_id for user in users], days=[user.day for user in users]
        )
