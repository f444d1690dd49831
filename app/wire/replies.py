"""Replies on the wire."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct, field

from app.wire.messages import MESSAGES_LIMIT, AppendedMessage, Message, RawMessage, Revision

FinishReason = Literal[
    "stop",
    "tool_calls",
    "length",
    "filter",
    "timeout",
    "lost",
    "cancelled",
    "context-exceeded",
    "model-unavailable",
    "model-failed",
    "model-refused",
    "internal-error",
]

Tools = Annotated[
    Raw,
    Meta(
        description="Passed to the model as it came (Chat Completions `tools`).",
        extra_json_schema={"type": ["array", "null"], "items": {"type": "object"}},
    ),
]
ToolChoice = Annotated[
    Raw,
    Meta(
        description="Passed to the model as it came (Chat Completions `tool_choice`).",
        extra_json_schema={"type": ["string", "object", "null"]},
    ),
]


class NewReply(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the model is asked, beyond the conversation so far."""

    messages: (
        Annotated[
            list[RawMessage],
            Meta(
                max_length=MESSAGES_LIMIT - 1, description="Appended first: the user's words, or the results of tools."
            ),
        ]
        | None
    ) = None
    instructions: (
        Annotated[
            str, Meta(max_length=100_000, description="Said to the model before all else, in place of the configured.")
        ]
        | None
    ) = None
    tools: Tools = field(default_factory=Raw)
    tool_choice: ToolChoice = field(default_factory=Raw)
    max_output_tokens: (
        Annotated[int, Meta(ge=1, le=10_000_000, description="The most tokens that the model may say.")] | None
    ) = None


class ReplyProblem(Struct, kw_only=True, frozen=True):
    """Why a reply failed, as a problem has it."""

    type: str
    title: str
    status: int


class Reply(Struct, kw_only=True, frozen=True):
    """A reply, and what was appended with it.

    Null while it is being made, `finish_reason` says why it ended. `stop` and `tool_calls`: it is completed. `length`,
    `filter`, `timeout` and `lost` (its replica went away): it is incomplete. `cancelled`. Any other: it has failed, by
    the `problem` of that name.
    """

    messages: Annotated[list[AppendedMessage], Meta(description="What came with the request that asked for it.")]
    message: Annotated[Message, Meta(description="The reply, as it stands now.")]
    finish_reason: FinishReason | None
    problem: ReplyProblem | None
    last_seq: int
    revision: Revision
