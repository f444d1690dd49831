"""A context on the wire: the part of a conversation that a model is shown."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from app.wire.messages import Calls, ClientId, Content, Metadata, Revision, Role, Seq, Status, Usage

Format = Literal["native", "openai", "anthropic"]
Limit = Literal["max_tokens", "max_messages", "size"]
Reason = Literal[
    "in_progress",
    "empty",
    "orphan_result",
    "duplicate_result",
    "before_first_user",
    "unsupported_part",
    "unsupported_call",
]


class ContextQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a context may hold, and for whom it is written."""

    max_tokens: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=10_000_000,
                description="The most tokens, as `token_count` counts them. Absent: no such limit; a context never "
                "holds more than 8 MB of payload.",
            ),
        ]
        | None
    ) = None
    max_messages: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=10_000,
                description="The most messages, as `message_count` counts them. Absent: no such limit; a context never "
                "holds more than 10,000 messages and tool calls.",
            ),
        ]
        | None
    ) = None
    format: Annotated[
        Format,
        Meta(
            description="`native`: messages as they are kept. `openai`: as Chat Completions takes them. `anthropic`: "
            "as the Messages API takes them, with `system` beside them."
        ),
    ] = "native"
    complete: Annotated[
        bool,
        Meta(
            description="Closes each tool call that has no result with a made one, which says so and is never kept. "
            "Else `native` shows such calls as they are, and the other formats leave them out."
        ),
    ] = False


class ContextMessage(Struct, kw_only=True, frozen=True):
    """A message of a context in the native format: as it is kept, or a made result of a tool call."""

    id: Annotated[str, Meta(description="Null: the message is synthetic.")] | None
    client_id: ClientId | None
    conversation_id: str
    seq: Annotated[int, Meta(description="Null: the message is synthetic.")] | None
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
    revision: int
    created_at: datetime
    updated_at: datetime
    is_synthetic: Annotated[
        bool, Meta(description="Whether it was made for this answer, in the place of a result that is missing.")
    ]


ProviderMessage = Annotated[
    Raw,
    Meta(
        description="A message as the provider takes it. Texts, arguments and parts that need no other form are the "
        "bytes that came.",
        extra_json_schema={
            "type": "object",
            "required": ["role"],
            "properties": {
                "role": {"type": "string"},
                "content": {"type": ["string", "array", "null"]},
                "tool_calls": {"type": "array", "items": {"type": "object"}},
                "tool_call_id": {"type": "string"},
                "name": {"type": "string"},
            },
            "additionalProperties": False,
        },
    ),
]
SystemBlock = Annotated[
    Raw,
    Meta(
        extra_json_schema={
            "type": "object",
            "required": ["type", "text"],
            "properties": {"type": {"type": "string", "const": "text"}, "text": {"type": "string"}},
        }
    ),
]


class Cut(Struct, kw_only=True, frozen=True):
    """What a context leaves off: the messages between two seqs, both exclusive."""

    limit: Annotated[
        Limit,
        Meta(
            description="What the next older turn would have exceeded; `size`: the 8 MB of payload or the 10,000 "
            "messages and tool calls that any context is held to."
        ),
    ]
    after_seq: Annotated[int, Meta(description="The last seq of the leading messages, 0 where there are none.")]
    before_seq: Annotated[int, Meta(description="The first seq of the turns; behind all messages where none fits.")]


class LeftOut(Struct, kw_only=True, frozen=True):
    """A message within the context's reach that is not in it, or not all of it."""

    message_id: str
    seq: Seq
    reason: Annotated[
        Reason,
        Meta(
            description="`in_progress`: not finished yet. `empty`: it says nothing, or nothing that the format can "
            "say. `orphan_result`: a tool's result without a call before it in its turn. `duplicate_result`: the call "
            "has a result already. `before_first_user`: Anthropic's messages must begin with a user's. "
            "`unsupported_part`, `unsupported_call`: the format does not know some of its parts or calls, and those "
            "are left out."
        ),
    ]


class OpenCall(Struct, kw_only=True, frozen=True):
    """A tool call without a result in its turn."""

    message_id: str
    seq: Seq
    call_id: Annotated[str, Meta(description="What the `tool_call_id` of its result must be.")]
    name: Annotated[str, Meta(description="The tool.")]


class Context(Struct, kw_only=True, frozen=True):
    """The leading messages and the newest whole turns of a conversation that fit, ready for a model."""

    format: Format
    system: (
        Annotated[
            list[SystemBlock],
            Meta(
                description="With `anthropic`, the texts of all system and developer messages, wherever they stood: "
                "goes into the request's `system`. Null when there are none, and with other formats."
            ),
        ]
        | None
    )
    messages: Annotated[
        list[ContextMessage | ProviderMessage],
        Meta(description="In order, each result right behind its call; may be passed to the provider as it is."),
    ]
    message_count: Annotated[
        int,
        Meta(
            description="How many messages of the conversation are in it, synthetic ones included; formats may join "
            "several in one of `messages`."
        ),
    ]
    token_count: Annotated[
        int,
        Meta(
            description="Their tokens: of an assistant's message the output tokens of its own `usage`, where it has "
            "one, else an estimate from the bytes of its payload."
        ),
    ]
    estimated_count: Annotated[int, Meta(description="Of how many messages the tokens are an estimate.")]
    is_over_budget: Annotated[
        bool,
        Meta(
            description="Whether the leading messages alone exceed a limit: they are kept all the same, but no turn "
            "with them."
        ),
    ]
    first_seq: Annotated[int, Meta(description="Where its turns begin; null: it has none.")] | None
    through_seq: Annotated[int, Meta(description="Where its turns end; null: it has none.")] | None
    last_seq: int
    revision: Revision
    cut: Annotated[Cut, Meta(description="Null: nothing is left off.")] | None
    left_out: list[LeftOut]
    open_calls: Annotated[
        list[OpenCall], Meta(description="The calls that wait for a result; listed also where `complete` closed them.")
    ]
