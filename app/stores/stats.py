"""Statistics: a conversation's own counters, and a tenant's sums by day."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from msgspec import Struct

from app.errors import Flaw, InvalidInput, NotFound
from app.queries import Conn, Query
from app.stores.rollups import KEPT_DAYS
from app.wire.stats import (
    DAYS_LIMIT,
    USERS_DAYS_LIMIT,
    ConversationStats,
    DayStats,
    RoleCounts,
    Stats,
    StatsRange,
    TotalStats,
)

_DEFAULT_DAYS = 30
_ROLES = RoleCounts.__struct_fields__


class _Conversation(Struct, frozen=True):
    id: UUID
    user_message_count: int
    assistant_message_count: int
    tool_message_count: int
    system_message_count: int
    developer_message_count: int
    input_tokens: int
    output_tokens: int
    last_seq: int
    revision: int
    archived_at: datetime | None
    created_at: datetime
    updated_at: datetime


class _TenantDay(Struct, frozen=True):
    day: date
    conversation_count: int
    new_conversation_count: int
    active_user_count: int
    user_message_count: int
    assistant_message_count: int
    tool_message_count: int
    system_message_count: int
    developer_message_count: int
    input_tokens: int
    output_tokens: int
    median_turns: float | None
    median_duration_seconds: float | None


class _ActiveUsers(Struct, frozen=True):
    active_user_count: int


class _RolledUp(Struct, frozen=True):
    rolled_up_at: datetime | None


_GET_CONVERSATION = Query("get_conversation_stats", _Conversation)
_LIST_DAYS = Query("list_tenant_days", _TenantDay)
_COUNT_USERS = Query("count_active_users", _ActiveUsers)
_GET_ROLLED_UP_AT = Query("get_rolled_up_at", _RolledUp)


async def get_conversation_stats(connection: Conn, owner_id: UUID, conversation_id: UUID) -> ConversationStats:
    """What is counted of a conversation, from its row alone. Raises NotFound."""
    row = await _GET_CONVERSATION.fetch_one(connection, owner_id=owner_id, id=conversation_id)
    if row is None:
        raise NotFound
    messages = _by_role(row)
    return ConversationStats(
        id=str(row.id),
        message_count=_sum_of(messages),
        messages=messages,
        turn_count=messages.user,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        last_seq=row.last_seq,
        revision=row.revision,
        is_archived=row.archived_at is not None,
        created_at=row.created_at,
        updated_at=row.updated_at,
        duration_seconds=(row.updated_at - row.created_at).total_seconds(),
    )


async def get_stats(connection: Conn, tenant_id: str, wanted: StatsRange) -> Stats:
    """A tenant's activity on the days of a range, by the last roll-up. Raises InvalidInput."""
    today = datetime.now(UTC).date()
    days = _days_of(wanted, today)
    rolled_up = await _GET_ROLLED_UP_AT.fetch_one(connection)
    rows = await _LIST_DAYS.fetch(connection, tenant_id=tenant_id, from_day=days[0], through_day=days[-1])
    by_day = {row.day: _day(row) for row in rows}
    active_users = None
    if len(days) <= USERS_DAYS_LIMIT and days[0] > today - timedelta(days=KEPT_DAYS):
        (users,) = await _COUNT_USERS.fetch(connection, tenant_id=tenant_id, days=days)
        active_users = users.active_user_count
    return Stats(
        from_day=days[0],
        to_day=days[-1],
        rolled_up_at=rolled_up.rolled_up_at if rolled_up is not None else None,
        totals=_totals(by_day.values(), active_users),
        days=[by_day.get(day) or _quiet(day) for day in days],
    )


def _days_of(wanted: StatsRange, today: date) -> list[date]:
    last = (wanted.to_day or today).toordinal()
    first = wanted.from_day.toordinal() if wanted.from_day else max(1, last - _DEFAULT_DAYS + 1)
    if first > last:
        raise InvalidInput(Flaw(parameter="from_day", message="is after to_day"))
    if last - first >= DAYS_LIMIT:
        raise InvalidInput(Flaw(parameter="from_day", message=f"is more than {DAYS_LIMIT} days before the end"))
    return [date.fromordinal(number) for number in range(first, last + 1)]


def _by_role(row: _Conversation | _TenantDay) -> RoleCounts:
    return RoleCounts(
        user=row.user_message_count,
        assistant=row.assistant_message_count,
        tool=row.tool_message_count,
        system=row.system_message_count,
        developer=row.developer_message_count,
    )


def _sum_of(messages: RoleCounts) -> int:
    return sum(getattr(messages, role) for role in _ROLES)


def _day(row: _TenantDay) -> DayStats:
    messages = _by_role(row)
    return DayStats(
        day=row.day,
        conversations=row.conversation_count,
        new_conversations=row.new_conversation_count,
        active_users=row.active_user_count,
        message_count=_sum_of(messages),
        messages=messages,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        median_turns=row.median_turns,
        median_duration_seconds=row.median_duration_seconds,
    )


def _quiet(day: date) -> DayStats:
    return _day(_TenantDay(day, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, None, None))


def _totals(days: Iterable[DayStats], active_users: int | None) -> TotalStats:
    days = list(days)
    return TotalStats(
        new_conversations=sum(day.new_conversations for day in days),
        active_users=active_users,
        message_count=sum(day.message_count for day in days),
        messages=RoleCounts(**{role: sum(getattr(day.messages, role) for day in days) for role in _ROLES}),
        input_tokens=sum(day.input_tokens for day in days),
        output_tokens=sum(day.output_tokens for day in days),
    )
