"""Responses on the wire: replies, as OpenAI's Responses API speaks of them."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct, field

from app.wire.openai import OpenaiId, OpenaiMetadata, RawItem

ITEMS_LIMIT = 999  # a reply is kept with what asked for it, which is one append of 1,000

ResponseStatus = Literal["completed", "failed", "in_progress", "cancelled", "incomplete"]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]

_Object = Annotated[Raw, Meta(extra_json_schema={"type": ["object", "null"]})]
_Number = Annotated[Raw, Meta(extra_json_schema={"type": ["number", "null"]})]
_Null = Annotated[Raw, Meta(description="Not supported.", extra_json_schema={"type": "null"})]
_ResponseId = Annotated[str, Meta(examples=["resp_0192a4c87c1e7d3a9f003f1c5a2b7e100000000002"])]
_Hint = Annotated[str, Meta(max_length=512, description="Means nothing here, and comes back.")]
_Tools = Annotated[Raw, Meta(description="As they came.", extra_json_schema={"type": "array"})]
_ToolChoice = Annotated[Raw, Meta(description="As it came.", extra_json_schema={"type": ["string", "object"]})]


class FunctionTool(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call: its calls are the client's to make."""

    type: Literal["function"]
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: Annotated[_Object, Meta(description="A JSON schema, told to the model as it came.")] = field(
        default_factory=Raw
    )
    strict: bool | None = None


class FunctionChoice(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The function that the model must call."""

    type: Literal["function"]
    name: str


class ConversationChoice(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The conversation to go on with."""

    id: str


class TextFormat(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text."""


class ObjectFormat(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON of a schema."""

    name: str
    schema: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How the model writes."""

    format: TextFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How the model thinks: only its effort is told to it."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How the events are sent: obfuscated they never are."""

    include_obfuscation: bool | None = None


class NewResponse(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the model is asked."""

    model: Annotated[str, Meta(description="Whatever it says, the configured model answers.")] | None = None
    input: (
        str
        | Annotated[list[RawItem], Meta(max_length=ITEMS_LIMIT, description="Items, as a conversation takes them.")]
        | None
    ) = None
    conversation: str | ConversationChoice | None = None
    previous_response_id: Annotated[_ResponseId, Meta(description="The response to go on from.")] | None = None
    instructions: (
        Annotated[str, Meta(max_length=100_000, description="Said to the model before all else, this once; not kept.")]
        | None
    ) = None
    store: Annotated[bool, Meta(description="False: neither the input nor the response is kept.")] | None = None
    stream: Annotated[bool, Meta(description="Answers with events as they happen.")] | None = None
    stream_options: StreamOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    metadata: OpenaiMetadata = field(default_factory=Raw)
    user: _Hint | None = None
    safety_identifier: _Hint | None = None
    prompt_cache_key: _Hint | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    service_tier: ServiceTier | None = None
    truncation: (
        Annotated[
            Literal["auto", "disabled"],
            Meta(description="Either way the oldest turns are left out where not all fit."),
        ]
        | None
    ) = None
    top_logprobs: Annotated[int, Meta(ge=0, le=0, description="Not supported.")] | None = None
    background: Annotated[bool, Meta(description="Not supported: false.")] | None = None
    include: Annotated[list[str], Meta(max_length=0, description="Not supported.")] | None = None
    prompt: _Null = field(default_factory=Raw)
    max_tool_calls: _Null = field(default_factory=Raw)
    context_management: _Null = field(default_factory=Raw)
    moderation: _Null = field(default_factory=Raw)


class ResponseError(Struct, kw_only=True, frozen=True):
    """Why a response failed."""

    code: Literal["server_error", "invalid_prompt"]
    message: str


class IncompleteDetails(Struct, kw_only=True, frozen=True):
    """Why a response is not whole."""

    reason: Literal["max_output_tokens", "content_filter"]


class ResponseConversation(Struct, kw_only=True, frozen=True):
    """The conversation that a response belongs to."""

    id: OpenaiId


class InputTokensDetails(Struct, kw_only=True, frozen=True):
    """What of the input the model server had in its cache."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Struct, kw_only=True, frozen=True):
    """What of the output nobody reads."""

    reasoning_tokens: int


class ResponseUsage(Struct, kw_only=True, frozen=True):
    """The tokens that the model server has counted."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ModelResponse(Struct, kw_only=True, frozen=True, tag_field="object", tag="response"):
    """A response of the model."""

    id: _ResponseId
    created_at: Annotated[int, Meta(description="Unix seconds.")]
    status: ResponseStatus
    background: bool
    completed_at: Annotated[int, Meta(description="Unix seconds.")] | None
    conversation: ResponseConversation | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: OpenaiMetadata
    model: Annotated[str, Meta(description="The model that answered.")]
    output: Annotated[list[RawItem], Meta(description="As the conversation lists them.")]
    parallel_tool_calls: bool
    previous_response_id: _ResponseId | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    reasoning: _Object
    safety_identifier: str | None
    service_tier: ServiceTier | None
    store: bool
    temperature: _Number
    text: _Object
    tool_choice: _ToolChoice
    tools: _Tools
    top_logprobs: int
    top_p: _Number
    truncation: str
    usage: ResponseUsage | None
    user: str | None


class ResponseEvent(Struct, kw_only=True, frozen=True):
    """The response as it stands."""

    type: str
    sequence_number: int
    response: ModelResponse


class OutputItemEvent(Struct, kw_only=True, frozen=True):
    """An item begins, or is whole."""

    type: str
    sequence_number: int
    output_index: int
    item: RawItem


class ContentPartEvent(Struct, kw_only=True, frozen=True):
    """A part of a message begins, or is whole."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: _Object


class OutputTextDelta(Struct, kw_only=True, frozen=True):
    """More of a text."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[str]


class OutputTextDone(Struct, kw_only=True, frozen=True):
    """A text is whole."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: Annotated[Raw, Meta(extra_json_schema={"type": "string"})]
    logprobs: list[str]


class ArgumentsDelta(Struct, kw_only=True, frozen=True):
    """The arguments of a call."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: Annotated[Raw, Meta(extra_json_schema={"type": "string"})]


class ArgumentsDone(Struct, kw_only=True, frozen=True):
    """The arguments of a call are whole."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    arguments: Annotated[Raw, Meta(extra_json_schema={"type": "string"})]


class ResponseErrorEvent(Struct, kw_only=True, frozen=True):
    """The stream ends before the response."""

    type: str
    sequence_number: int
    code: str
    message: str
    param: str | None
