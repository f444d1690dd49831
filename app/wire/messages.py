"""Messages on the wire. Fields typed `Raw` are the client's own JSON and cross as the bytes that came."""

from datetime import datetime
from itertools import repeat
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

MESSAGES_LIMIT = 1000
PARTS_LIMIT = 1000
METADATA_LIMIT_BYTES = 16 * 1024
DEPTH_LIMIT = 64
HTML_LIMIT_BYTES = 64 * 1024
HTML_PAGE_LIMIT_BYTES = 256 * 1024

Role = Literal["user", "assistant", "tool", "system", "developer"]
Status = Literal["completed", "in_progress", "incomplete", "failed", "cancelled"]
Format = Annotated[
    Literal["native", "html"],
    Meta(description="`native`: messages as they are kept. `html`: the same with `html` beside it."),
]
DEFAULT_STATUS: Status = "completed"

ClientId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9._:~@-]+$(?!\n)",
        description="The client's own id of the message: unique in its conversation, and good in paths.",
        examples=["web-7f3a-1"],
    ),
]
Label = Annotated[str, Meta(max_length=128, pattern=r"^[^\u0000]*$")]
ToolCallId = Annotated[
    str, Meta(max_length=255, pattern=r"^[^\u0000]*$", description="The tool call that this message answers.")
]
Seq = Annotated[int, Meta(ge=1, lt=2**40, description="The message's place in its conversation, from 1.")]
Revision = Annotated[int, Meta(ge=0, description="Counts the conversation's changes that are not appends.")]

ABSENT = Raw()
"""A payload that did not come."""

_absent = repeat(ABSENT).__next__  # a factory, and a fast one: a default that is no JSON has no place in the document

_PART = {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}}

Content = Annotated[
    Raw,
    Meta(
        description="A string, an array of at most 1,000 parts (objects with a string `type`), or null beside "
        "`tool_calls` or `function_calls`. Kept and returned as the bytes that came.",
        extra_json_schema={
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": _PART, "maxItems": PARTS_LIMIT},
                {"type": "null"},
            ],
            "examples": ["What is a monad?"],
        },
    ),
]
Calls = Annotated[
    Raw,
    Meta(
        description="Any JSON object or array, kept and returned as the bytes that came.",
        extra_json_schema={"type": ["object", "array", "null"]},
    ),
]
Usage = Annotated[
    Raw,
    Meta(
        description="The token usage that the model's provider reported: any JSON object, kept as it came.",
        extra_json_schema={"type": ["object", "null"]},
    ),
]
Metadata = Annotated[
    Raw,
    Meta(
        description="The client's own JSON object of at most 16 KB, kept as it came.",
        extra_json_schema={"type": ["object", "null"]},
    ),
]


class Nothing(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class NewMessage(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A message to be kept. Either `content` or calls must be there."""

    role: Role
    content: Content = field(default_factory=_absent)
    tool_calls: Calls = field(default_factory=_absent)
    tool_call_id: ToolCallId | None = None
    name: Label | None = None
    audio_files: Calls = field(default_factory=_absent)
    function_calls: Calls = field(default_factory=_absent)
    model: Label | None = None
    usage: Usage = field(default_factory=_absent)
    status: Status | None = None
    metadata: Metadata = field(default_factory=_absent)
    client_id: ClientId | None = None


RawMessage = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/NewMessage"})]
"""A NewMessage as the bytes that came, by which a repeated request is known."""


class NewMessages(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A batch of messages, kept together or not at all."""

    messages: Annotated[list[RawMessage], Meta(min_length=1, max_length=MESSAGES_LIMIT)]


class MessageChange(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What to change of a message: an absent member stays, null clears."""

    content: Content = field(default_factory=Raw)
    tool_calls: Calls = field(default_factory=Raw)
    tool_call_id: ToolCallId | None | UnsetType = UNSET
    function_calls: Calls = field(default_factory=Raw)
    metadata: Metadata = field(default_factory=Raw)
    usage: Usage = field(default_factory=Raw)
    status: Status | None | UnsetType = UNSET


class MessagesRestoration(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which messages to bring back."""

    revision: Annotated[int, Meta(ge=1, le=2**62, description="The revision that the call answered which hid them.")]


class MessageListing(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which messages to list."""

    order: Annotated[Literal["asc", "desc"], Meta(description="`asc`: oldest first. `desc`: newest first.")] = "asc"
    limit: Annotated[int, Meta(ge=1, le=1000, description="The most messages in a page.")] = 50
    after: Annotated[int, Meta(ge=0, le=2**40, description="Only messages with a greater seq.")] | None = None
    before: Annotated[int, Meta(ge=0, le=2**40, description="Only messages with a smaller seq.")] | None = None
    format: Format = "native"


class MessageQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How to show a message."""

    format: Format = "native"


class Truncation(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where to cut."""

    from_seq: Annotated[int, Meta(ge=1, le=2**40, description="The first seq to delete.")]


class Message(Struct, kw_only=True, frozen=True):
    """A message as it is kept: every member but `html` is present, null when there is nothing."""

    id: Annotated[str, Meta(description="Computed from conversation and seq: stable, and never reused.")]
    client_id: ClientId | None
    conversation_id: str
    seq: Seq
    role: Role
    content: Content | None
    tool_calls: Calls | None
    tool_call_id: str | None
    name: str | None
    audio_files: Calls | None
    function_calls: Calls | None
    model: str | None
    usage: Usage | None
    status: Status
    metadata: Metadata | None
    revision: Annotated[int, Meta(description="0 as appended, else the conversation's revision that changed it last.")]
    created_at: Annotated[datetime, Meta(description="Never earlier than that of a message with a smaller seq.")]
    updated_at: datetime
    html: (
        Annotated[
            str,
            Meta(
                description="Only with `format=html`: the content as safe HTML, made from its Markdown for this answer "
                "and kept nowhere. Null when there is nothing to show, or it is too much: over 64 KB of text in a "
                "message or 256 KB in a page, or Markdown that takes long to read. Show the content then."
            ),
        ]
        | None
        | UnsetType
    ) = UNSET


class AppendedMessage(Struct, kw_only=True, frozen=True):
    """Where a message stands now."""

    id: str
    client_id: str | None
    seq: Seq
    created_at: datetime


class Appended(Struct, kw_only=True, frozen=True):
    """What an append made, in the order of the request, and the conversation's version now."""

    messages: list[AppendedMessage]
    last_seq: int
    revision: Revision


class Version(Struct, frozen=True):
    """The conversation's version now; its ETag is `"<last_seq>.<revision>"`."""

    last_seq: int
    revision: Revision
