"""Sessions on the wire: conversations, as session-style chat backends speak of them."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Raw, Struct, field

from app.wire.messages import Calls, Metadata, Revision, Role
from app.wire.stats import MessageCount

SessionId = Annotated[
    str,
    Meta(
        description="The session: a conversation by its id.",
        examples=["0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10"],
    ),
]
Text = Annotated[Raw, Meta(extra_json_schema={"type": "string"})]
"""A JSON string as the bytes that came."""

AudioFiles = Annotated[
    Raw,
    Meta(description="As they came; `[]` without any.", extra_json_schema={"type": ["object", "array"]}),
]


class NewTurn(Struct, kw_only=True, frozen=True):
    """What the user says. Members that are not named here are ignored."""

    query: Annotated[Text, Meta(description="Kept as the bytes that came.", examples=["What is a monad?"])]
    session_id: Annotated[str, Meta(description="The session to go on with. Without one, a session begins.")] | None = (
        None
    )
    audio_files: Calls = field(default_factory=Raw)
    function_calls: Calls = field(default_factory=Raw)
    metadata: Metadata = field(default_factory=Raw)


class Turn(Struct, kw_only=True, frozen=True):
    """What the user said, and what was replied."""

    response: Annotated[Text, Meta(description="The text of the reply; empty when it only calls tools.")]
    query: Annotated[Text, Meta(description="The bytes that came.")]
    audio_files: AudioFiles
    audio_provided: Annotated[bool, Meta(description="Whether any audio files came.")]
    conversation_length: Annotated[int, Meta(description="The session's messages, with this turn.")]
    session_id: SessionId


class SessionMessage(Struct, kw_only=True, frozen=True):
    """A message of a session."""

    message_id: Annotated[str, Meta(description="Its `id` as a message of the conversation.")]
    role: Role
    content: Annotated[Text, Meta(description="The text; of an array of parts, that of the text parts, joined.")]
    timestamp: Annotated[datetime, Meta(description="When it was kept.")]
    audio_files: AudioFiles
    function_calls: Annotated[
        Raw,
        Meta(
            description="The message's `function_calls`, else its `tool_calls`, else `[]`.",
            extra_json_schema={"type": ["object", "array"]},
        ),
    ]
    metadata: Annotated[Raw, Meta(description="As it came; `{}` without any.", extra_json_schema={"type": "object"})]


class SessionHistory(Struct, kw_only=True, frozen=True):
    """All messages of a session, in order, but for a reply that is being made."""

    session_id: SessionId
    history: list[SessionMessage]


class SessionQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which session."""

    session_id: SessionId


class SessionStatus(Struct, kw_only=True, frozen=True):
    """What is counted of a session."""

    session_id: SessionId
    is_active: Annotated[bool, Meta(description="Whether it is not archived.")]
    created_at: datetime
    updated_at: datetime
    message_count: MessageCount
    user_messages: int
    assistant_messages: int
    tool_messages: int
    duration_seconds: Annotated[float, Meta(description="From created_at to updated_at.")]
    last_seq: Annotated[int, Meta(description="The seq of its newest message, deleted or not; 0 without any.")]
    revision: Revision


class LoadedSession(SessionStatus, kw_only=True, frozen=True):
    """A session that is gone on with: what is counted of it, and its newest messages."""

    history: Annotated[list[SessionMessage], Meta(description="The newest 50 messages, in order.")]
    has_more: Annotated[bool, Meta(description="Whether there are older ones.")]


class ResetSession(Struct, kw_only=True, frozen=True):
    """A session that begins anew."""

    session_id: SessionId
    is_active: bool
    message_count: MessageCount
    last_seq: int
    revision: Annotated[Revision, Meta(description="Brings the messages back by restoreMessages.")]
