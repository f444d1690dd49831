"""Conversations on the wire, as OpenAI's Conversations API speaks of them."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct, field

ITEMS_LIMIT = 20
METADATA_PAIRS, METADATA_NAME_CHARACTERS, METADATA_VALUE_CHARACTERS = 16, 64, 512

Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
_TEXT = {"type": "string", "pattern": r"^[^\u0000]*$"}
OpenaiMetadata = Annotated[
    Raw,
    Meta(
        description="At most 16 pairs of strings: names of at most 64 characters, values of at most 512.",
        extra_json_schema={
            "type": ["object", "null"],
            "maxProperties": METADATA_PAIRS,
            "propertyNames": {**_TEXT, "maxLength": METADATA_NAME_CHARACTERS},
            "additionalProperties": {**_TEXT, "maxLength": METADATA_VALUE_CHARACTERS},
        },
    ),
]
KeptMetadata = Annotated[
    Raw,
    Meta(
        description="Pairs of strings; what the native API has written may be any object.",
        extra_json_schema={"type": "object"},
    ),
]
RawItem = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/NewItem"})]
"""A NewItem with all its members."""

OpenaiId = Annotated[
    str,
    Meta(
        pattern="^conv_[0-9a-f]{32}$",
        description="`conv_` and 32 hex digits: those of the id in the native API.",
        examples=["conv_0192a4c87c1e7d3a9f003f1c5a2b7e10"],
    ),
]


class NewItem(Struct, kw_only=True, frozen=True):
    """A message, or an object of any other type with what OpenAI's API wants of it. All its members come back."""

    id: (
        Annotated[
            str,
            Meta(
                max_length=128,
                pattern="^/*[!-.0-~][!-~]*$",
                description="Unique in its conversation. Default: one is made.",
                examples=["rs_68af4030baa48193b0b43b4c2a176a1a"],
            ),
        ]
        | None
    ) = None
    type: Annotated[str, Meta(min_length=1, description="Default: `message`.", examples=["message"])] | None = None
    role: Annotated[
        object,
        Meta(
            description="Of a message, which must have it: `user`, `assistant`, `system` or `developer`.",
            examples=["user"],
        ),
    ] = None
    content: Annotated[
        object,
        Meta(
            description="Of a message, which must have it: a string, or an array of objects with a string `type`.",
            examples=["What is a monad?"],
        ),
    ] = None


class NewOpenaiConversation(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A conversation to be made."""

    items: Annotated[list[RawItem], Meta(max_length=ITEMS_LIMIT)] | None = None
    metadata: OpenaiMetadata = field(default_factory=Raw)


class OpenaiConversationChange(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What to change of a conversation."""

    metadata: Annotated[OpenaiMetadata, Meta(description="In the place of all that was there; null clears.")]


class NewItems(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Items to be added, all or none."""

    items: Annotated[list[RawItem], Meta(min_length=1, max_length=ITEMS_LIMIT)]


class IncludeQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What to include: everything that is kept is, whatever is asked for."""

    include: (
        Annotated[
            list[Include],
            Meta(
                description="What OpenAI leaves out unless asked. Here everything that is kept comes anyway. May come "
                "many times, also as `include[]`."
            ),
        ]
        | None
    ) = None


class ItemQuery(IncludeQuery, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which items to list."""

    order: Annotated[Literal["asc", "desc"], Meta(description="`desc`: newest first. `asc`: oldest first.")] = "desc"
    limit: Annotated[int, Meta(ge=1, le=100, description="The most items in a page.")] = 20
    after: Annotated[str, Meta(description="The id of an item: only what follows it, in the order.")] | None = None


class OpenaiConversationQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which conversations to list."""

    limit: Annotated[int, Meta(ge=1, le=100, description="The most conversations in a page.")] = 20
    after: (
        Annotated[
            str,
            Meta(description="A `next_cursor`, or the id of a conversation: only what follows it where it stands now."),
        ]
        | None
    ) = None


class OpenaiConversation(Struct, kw_only=True, frozen=True, tag_field="object", tag="conversation"):
    """A conversation."""

    id: OpenaiId
    created_at: Annotated[int, Meta(description="Unix seconds.")]
    metadata: KeptMetadata


class DeletedOpenaiConversation(Struct, kw_only=True, frozen=True, tag_field="object", tag="conversation.deleted"):
    """A conversation that is gone."""

    id: OpenaiId
    deleted: Annotated[bool, Meta(description="`true`.")]


class KeptItem(Struct, kw_only=True, frozen=True):
    """An item: everything that came, and what its type must have."""

    id: str
    type: str


KeptRawItem = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/KeptItem"})]
"""A KeptItem with all its members."""


class ItemList(Struct, kw_only=True, frozen=True, tag_field="object", tag="list"):
    """A page of items."""

    data: list[KeptRawItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OpenaiConversationList(Struct, kw_only=True, frozen=True, tag_field="object", tag="list"):
    """A page of conversations."""

    data: list[OpenaiConversation]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_cursor: Annotated[str, Meta(description="Names the place behind this page, whatever moves.")] | None


class OpenaiModel(Struct, kw_only=True, frozen=True, tag_field="object", tag="model"):
    """A model that answers here."""

    id: str
    created: Annotated[int, Meta(description="Not known: 0.")]
    owned_by: str


class OpenaiModelList(Struct, kw_only=True, frozen=True, tag_field="object", tag="list"):
    """The models that answer here."""

    data: list[OpenaiModel]


class ErrorBody(Struct, kw_only=True, frozen=True):
    """What went wrong, as OpenAI's clients know it."""

    message: str
    type: str
    param: Annotated[str, Meta(description="Where: `items[0].content`.")] | None
    code: str | None


class ErrorEnvelope(Struct, kw_only=True, frozen=True):
    """An error."""

    error: ErrorBody
