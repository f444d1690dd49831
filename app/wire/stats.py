"""Statistics on the wire."""

from datetime import date, datetime
from typing import Annotated

from msgspec import Meta, Struct

from app.wire.conversations import ConversationId
from app.wire.messages import Revision

DAYS_LIMIT = 366
"""The most days of one answer."""

USERS_DAYS_LIMIT = 31
"""The most days over which users are counted once each."""

Median = Annotated[
    float | None, Meta(description="Of the conversations active that day, as it left them; null when there was none.")
]
MessageCount = Annotated[int, Meta(description="Visible messages.")]
SaidCount = Annotated[int, Meta(description="Messages that were said, also those deleted since; not copies in forks.")]


class RoleCounts(Struct, kw_only=True, frozen=True):
    """Messages by role."""

    user: int
    assistant: int
    tool: int
    system: int
    developer: int


class ConversationStats(Struct, kw_only=True, frozen=True):
    """What is counted of a conversation."""

    id: ConversationId
    message_count: MessageCount
    messages: RoleCounts
    turn_count: Annotated[int, Meta(description="Visible messages of the user.")]
    input_tokens: Annotated[int, Meta(description="Sum of the usage reported, also of messages deleted since.")]
    output_tokens: Annotated[int, Meta(description="Sum of the usage reported, also of messages deleted since.")]
    last_seq: Annotated[int, Meta(description="The seq of its newest message, deleted or not; 0 without any.")]
    revision: Revision
    is_archived: bool
    created_at: datetime
    updated_at: datetime
    duration_seconds: Annotated[float, Meta(description="From created_at to updated_at.")]


class StatsRange(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which days, in UTC, both inclusive."""

    from_day: (
        Annotated[
            date, Meta(description="The first day, in UTC. Default: 29 days before to_day.", examples=["2026-01-01"])
        ]
        | None
    ) = None
    to_day: (
        Annotated[
            date,
            Meta(
                description="The last day, in UTC: at most 365 days after from_day. Default: today.",
                examples=["2026-01-30"],
            ),
        ]
        | None
    ) = None


class DayStats(Struct, kw_only=True, frozen=True):
    """What happened in a tenant on one day, in UTC."""

    day: date
    conversations: Annotated[int, Meta(description="Those in which something was said.")]
    new_conversations: Annotated[int, Meta(description="Those created, forks among them.")]
    active_users: Annotated[int, Meta(description="Users in whose conversations something was said.")]
    message_count: SaidCount
    messages: RoleCounts
    input_tokens: int
    output_tokens: int
    median_turns: Median
    median_duration_seconds: Median


class TotalStats(Struct, kw_only=True, frozen=True):
    """What happened in a tenant in all days of the range."""

    new_conversations: int
    active_users: Annotated[
        int | None,
        Meta(description="Each counted once; null over more than 31 days, or where the range begins 400 days ago."),
    ]
    message_count: SaidCount
    messages: RoleCounts
    input_tokens: int
    output_tokens: int


class Stats(Struct, kw_only=True, frozen=True):
    """A tenant's activity by day, every day of the range in order."""

    from_day: date
    to_day: date
    rolled_up_at: Annotated[
        datetime | None, Meta(description="What was done before is in the sums; null before the first roll-up.")
    ]
    totals: TotalStats
    days: list[DayStats]
