"""Conversations on the wire."""

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from app.wire.messages import MESSAGES_LIMIT, Metadata, RawMessage, Revision

ConversationId = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)",
        description="A UUID in canonical form: version 7 when made here, or the client's own.",
        examples=["0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10"],
    ),
]
Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9._:~@-]+$(?!\n)",
        description="The client's name for the conversation, unique among its owner's live ones.",
        examples=["default"],
    ),
]
Title = Annotated[str, Meta(max_length=500, pattern=r"^[^\u0000]*$", examples=["Monads over breakfast"])]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\u0000]*$")]
Tags = Annotated[list[Tag], Meta(max_length=32)]


class NewConversation(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A conversation to be made, with its first messages if there are any."""

    id: ConversationId | None = None
    key: Key | None = None
    title: Title | None = None
    metadata: Metadata = field(default_factory=Raw)
    tags: Tags | None = None
    messages: Annotated[list[RawMessage], Meta(max_length=MESSAGES_LIMIT)] | None = None


class ConversationChange(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What to change: an absent member stays, null clears; `metadata` and `tags` are replaced whole."""

    title: Title | None | UnsetType = UNSET
    metadata: Metadata = field(default_factory=Raw)
    tags: Tags | None | UnsetType = UNSET
    archived: bool | None | UnsetType = UNSET
    pinned: bool | None | UnsetType = UNSET


class ConversationFork(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How far to copy, and what to call the copy."""

    through_seq: Annotated[int, Meta(ge=0, le=2**40, description="The last seq to copy. Default: the head.")] | None = (
        None
    )
    title: Annotated[Title, Meta(description="Default: the title of the source.")] | None = None


class ConversationListing(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which conversations to list."""

    limit: Annotated[int, Meta(ge=1, le=100, description="The most conversations in a page.")] = 20
    after: Annotated[str, Meta(max_length=64, description="The `next_cursor` of the page before.")] | None = None
    archived: Annotated[bool, Meta(description="false: without archived ones. true: only them.")] = False
    pinned: Annotated[bool, Meta(description="true: only pinned ones. false: only others.")] | None = None
    tag: Annotated[Tag, Meta(description="Only those with this tag.")] | None = None


class ConversationDeletion(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How to delete."""

    purge: Annotated[bool, Meta(description="true: erase now and for good, also what is deleted already.")] = False


class ForkedFrom(Struct, kw_only=True, frozen=True):
    """Where a fork comes from."""

    conversation_id: str
    seq: Annotated[int, Meta(description="The last seq of the source that was copied.")]


class Conversation(Struct, kw_only=True, frozen=True):
    """A conversation: every member is present, null when there is nothing."""

    id: ConversationId
    user_id: Annotated[str, Meta(description="The person it belongs to.")]
    key: Key | None
    title: str | None
    metadata: Metadata
    tags: list[str]
    pinned_at: datetime | None
    archived_at: datetime | None
    forked_from: ForkedFrom | None
    last_seq: Annotated[int, Meta(description="The seq of its newest message, deleted or not; 0 without any.")]
    revision: Revision
    message_count: Annotated[int, Meta(description="Its visible messages.")]
    created_at: datetime
    updated_at: Annotated[
        datetime,
        Meta(description="Moves on append, edit, delete and restore; not on title, metadata, tags, pin, archive."),
    ]
