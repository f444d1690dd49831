"""The door of OpenAI's clients: its Conversations API, on the conversations and messages that all doors share."""

from functools import partial
from urllib.parse import unquote
from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Raw

from app import errors
from app.auth import Caller
from app.database import Database
from app.errors import NotFound
from app.exchanges import ApiRequest, answer, read_body, read_idempotency_key, read_optional_body
from app.identifiers import Owner, keyed_conversation_id, new_conversation_id
from app.items import Item, entry_of
from app.openai_bodies import (
    openai_id,
    parse_new_items,
    parse_new_openai_conversation,
    parse_openai_conversation_change,
    parse_openai_id,
    parse_openai_query,
)
from app.openai_errors import PREFIX, Refusal
from app.openapi import Operation
from app.pages import Position, encode_cursor
from app.payloads import fingerprint_of
from app.queries import Conn
from app.settings import Settings
from app.stores import conversations
from app.stores.appends import Append
from app.stores.conversations import ConversationPlan
from app.stores.items import ItemListing, append_items, delete_item, find_item, find_place, items_in, list_items
from app.wire.conversations import Conversation, ConversationChange, ConversationListing
from app.wire.messages import Nothing
from app.wire.openai import (
    DeletedOpenaiConversation,
    IncludeQuery,
    ItemList,
    ItemQuery,
    KeptItem,
    NewItems,
    NewOpenaiConversation,
    OpenaiConversation,
    OpenaiConversationChange,
    OpenaiConversationList,
    OpenaiConversationQuery,
    OpenaiModel,
    OpenaiModelList,
)
from app.writers import Writers

_PRINT_PREFIX = b"items\0"  # a request elsewhere with the same bytes is another


def _read_id(text: str) -> UUID:
    conversation_id = parse_openai_id(text)
    if conversation_id is None:
        raise NotFound
    return conversation_id


def _made(conversation: Conversation) -> OpenaiConversation:
    return OpenaiConversation(
        id=openai_id(UUID(conversation.id)),
        created_at=int(conversation.created_at.timestamp()),
        metadata=conversation.metadata,
    )


def _list_of(items: list[Item], *, has_more: bool) -> ItemList:
    return ItemList(
        data=[item.body for item in items],
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
        has_more=has_more,
    )


class OpenaiController(Controller):
    """OpenAI's Conversations API for the caller."""

    path = PREFIX
    tags = ["openai"]

    @post(
        "/conversations",
        status_code=200,
        operation_id="createOpenaiConversation",
        opt={
            "operation": Operation(
                body=(NewOpenaiConversation,),
                body_is_optional=True,
                example={"items": [{"role": "user", "content": "What is a monad?"}], "metadata": {"topic": "haskell"}},
                headers=("Idempotency-Key",),
                answers={200: OpenaiConversation},
                answer_headers=("Idempotent-Replay",),
                errors=(errors.ConversationDeleted, errors.IdempotencyKeyReused),
            )
        },
    )
    async def create_openai_conversation(
        self,
        request: ApiRequest,
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Create a conversation, with its first items if there are any."""
        parse_openai_query(request.scope["query_string"], Nothing)
        key = read_idempotency_key(request)
        parse = partial(parse_new_openai_conversation, limit_bytes=settings.message_limit_bytes)
        metadata, messages = await read_optional_body(request, parse)
        # No key holds a NUL: createConversation makes other ids of the same keys.
        new_id = new_conversation_id() if key is None else keyed_conversation_id(caller.owner.id, f"openai\0{key}")
        plan = ConversationPlan(
            id=new_id,
            key=None,
            title=None,
            metadata=metadata,
            tags=[],
            messages=messages,
            fingerprint=None if key is None else fingerprint_of(_PRINT_PREFIX + await request.body()),
        )
        async with database.connection(lane=(caller.owner.id, new_id)) as connection:
            made, is_replay = await conversations.create_conversation(connection, caller.owner, plan)
        return answer(_made(made), headers=_replay_headers(is_replay=is_replay))

    @get(
        "/conversations",
        operation_id="listOpenaiConversations",
        opt={
            "operation": Operation(
                query=OpenaiConversationQuery, answers={200: OpenaiConversationList}, errors=(errors.NotFound,)
            )
        },
    )
    async def list_openai_conversations(
        self, request: ApiRequest, caller: NamedDependency[Caller], database: NamedDependency[Database]
    ) -> Response[bytes]:
        """List the conversations, last used first.

        OpenAI has no such call. A conversation that is used meanwhile moves to the front: `next_cursor` passes over
        none of the others for it.
        """
        query = parse_openai_query(request.scope["query_string"], OpenaiConversationQuery)
        async with database.connection() as connection:
            cursor = query.after and await _read_cursor(connection, caller.owner, query.after)
            listing = ConversationListing(limit=query.limit, after=cursor)
            page = await conversations.list_conversations(connection, caller.owner, listing)
        data = [_made(conversation) for conversation in page.data]
        found = OpenaiConversationList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=page.has_more,
            next_cursor=page.next_cursor,
        )
        return answer(found)

    @get(
        "/conversations/{openai_conversation_id:str}",
        operation_id="getOpenaiConversation",
        opt={"operation": Operation(answers={200: OpenaiConversation}, errors=(errors.NotFound,))},
    )
    async def get_openai_conversation(
        self,
        request: ApiRequest,
        openai_conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Get a conversation."""
        parse_openai_query(request.scope["query_string"], Nothing)
        conversation_id = _read_id(openai_conversation_id)
        async with database.connection() as connection:
            found = await conversations.get_conversation(connection, caller.owner, conversation_id)
        return answer(_made(found))

    @post(
        "/conversations/{openai_conversation_id:str}",
        status_code=200,
        operation_id="updateOpenaiConversation",
        opt={
            "operation": Operation(
                body=(OpenaiConversationChange,),
                example={"metadata": {"topic": "haskell"}},
                answers={200: OpenaiConversation},
                errors=(errors.NotFound,),
            )
        },
    )
    async def update_openai_conversation(
        self,
        request: ApiRequest,
        openai_conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Replace the metadata of a conversation as a whole."""
        parse_openai_query(request.scope["query_string"], Nothing)
        conversation_id = _read_id(openai_conversation_id)
        metadata = await read_body(request, parse_openai_conversation_change)
        change = ConversationChange(metadata=Raw(metadata))
        async with database.connection(lane=(caller.owner.id, conversation_id)) as connection:
            changed = await conversations.update_conversation(connection, caller.owner, conversation_id, change, None)
        return answer(_made(changed))

    @delete(
        "/conversations/{openai_conversation_id:str}",
        status_code=200,
        operation_id="deleteOpenaiConversation",
        opt={"operation": Operation(answers={200: DeletedOpenaiConversation}, errors=(errors.NotFound,))},
    )
    async def delete_openai_conversation(
        self,
        request: ApiRequest,
        openai_conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Delete a conversation with its items. A second time it is a 404."""
        parse_openai_query(request.scope["query_string"], Nothing)
        conversation_id = _read_id(openai_conversation_id)
        async with database.connection(lane=(caller.owner.id, conversation_id)) as connection:
            await conversations.delete_conversation(connection, caller.owner.id, conversation_id, None)
        return answer(DeletedOpenaiConversation(id=openai_id(conversation_id), deleted=True))

    @post(
        "/conversations/{openai_conversation_id:str}/items",
        status_code=200,
        operation_id="createItems",
        opt={
            "operation": Operation(
                body=(NewItems,),
                example={"items": [{"role": "user", "content": "What is a monad?"}]},
                query=IncludeQuery,
                headers=("Idempotency-Key",),
                answers={200: ItemList},
                answer_headers=("Idempotent-Replay",),
                errors=(errors.NotFound, errors.ReservedId, errors.ClientIdReused, errors.IdempotencyKeyReused),
            )
        },
    )
    async def create_items(
        self,
        request: ApiRequest,
        openai_conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Add items to a conversation, all or none; the answer holds the new ones alone, in their order.

        An item keeps the id that it brings. One that the conversation has already is refused, and nothing is kept.
        While a reply is made in the conversation, they are listed behind it, when it is finished.
        """
        parse_openai_query(request.scope["query_string"], IncludeQuery)
        conversation_id = _read_id(openai_conversation_id)
        key = read_idempotency_key(request)
        messages = await read_body(request, partial(parse_new_items, limit_bytes=settings.message_limit_bytes))
        fingerprint = fingerprint_of(_PRINT_PREFIX + await request.body()) if key is not None else b""
        append = Append(messages=messages, key=key, fingerprint=fingerprint, expected=None)
        async with database.connection(lane=(caller.owner.id, conversation_id)) as connection:
            appended, is_replay = await append_items(connection, caller.owner.id, conversation_id, append)
        entries = list(map(partial(entry_of, conversation_id), messages, appended.messages))
        items = await items_in(entries)
        return answer(_list_of(items, has_more=False), headers=_replay_headers(is_replay=is_replay))

    @get(
        "/conversations/{openai_conversation_id:str}/items",
        operation_id="listItems",
        opt={"operation": Operation(query=ItemQuery, answers={200: ItemList}, errors=(errors.NotFound,))},
    )
    async def list_items(
        self,
        request: ApiRequest,
        openai_conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """List the items of a conversation, newest first unless asked otherwise.

        What was said together with a reply that is being made appears when the reply does. A page of large items may
        be short with `has_more: true`.
        """
        query = parse_openai_query(request.scope["query_string"], ItemQuery)
        conversation_id = _read_id(openai_conversation_id)
        owner_id = caller.owner.id
        async with database.connection() as connection:
            after = query.after and await find_place(connection, owner_id, conversation_id, query.after)
            if query.after is not None and not after:
                await conversations.get_conversation(connection, caller.owner, conversation_id)
                raise Refusal(f"No item found with id '{query.after}'", param="after", status=404)
            listing = ItemListing(order=query.order, limit=query.limit, after=after or None)
            items, has_more = await list_items(connection, owner_id, conversation_id, listing)
        return answer(_list_of(items, has_more=has_more))

    @get(
        "/conversations/{openai_conversation_id:str}/items/{item_id:path}",
        operation_id="getItem",
        opt={"operation": Operation(query=IncludeQuery, answers={200: KeptItem}, errors=(errors.NotFound,))},
    )
    async def get_item(
        self,
        request: ApiRequest,
        openai_conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Get an item."""
        parse_openai_query(request.scope["query_string"], IncludeQuery)
        conversation_id, own_id = _read_id(openai_conversation_id), _read_last(request, "/items/")
        async with database.connection() as connection:
            found = await find_item(connection, caller.owner.id, conversation_id, own_id)
        if found is None:
            raise _no_item(own_id)
        _, item = found
        return Response(bytes(item.body), media_type="application/json")

    @delete(
        "/conversations/{openai_conversation_id:str}/items/{item_id:path}",
        status_code=200,
        operation_id="deleteItem",
        opt={"operation": Operation(answers={200: OpenaiConversation}, errors=(errors.NotFound,))},
    )
    async def delete_item(
        self,
        request: ApiRequest,
        openai_conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Delete an item; the answer is the conversation that it was in."""
        parse_openai_query(request.scope["query_string"], Nothing)
        conversation_id, own_id = _read_id(openai_conversation_id), _read_last(request, "/items/")
        async with database.connection(lane=(caller.owner.id, conversation_id)) as connection:
            if not await delete_item(connection, caller.owner.id, conversation_id, own_id):
                raise _no_item(own_id)
            conversation = await conversations.get_conversation(connection, caller.owner, conversation_id)
        return answer(_made(conversation))

    @get(
        "/models",
        operation_id="listModels",
        opt={"operation": Operation(answers={200: OpenaiModelList})},
    )
    async def list_models(self, request: ApiRequest, writers: NamedDependency[Writers]) -> Response[bytes]:
        """List the models: the configured one, or the built-in responder."""
        parse_openai_query(request.scope["query_string"], Nothing)
        return answer(OpenaiModelList(data=[OpenaiModel(id=writers.model_name, created=0, owned_by="verbatim")]))

    @get(
        "/models/{model_name:path}",
        operation_id="getModel",
        opt={"operation": Operation(answers={200: OpenaiModel}, errors=(errors.NotFound,))},
    )
    async def get_model(self, request: ApiRequest, writers: NamedDependency[Writers]) -> Response[bytes]:
        """Get a model: the configured one, or the built-in responder."""
        parse_openai_query(request.scope["query_string"], Nothing)
        if _read_last(request, "/models/") != writers.model_name:
            raise NotFound("There is no such model here.")
        return answer(OpenaiModel(id=writers.model_name, created=0, owned_by="verbatim"))


def _replay_headers(*, is_replay: bool) -> dict[str, str] | None:
    return {"Idempotent-Replay": "true"} if is_replay else None


def _read_last(request: ApiRequest, before: str) -> str:
    """What stands at the end of the path as it came: Litestar's own parameter lacks some of its slashes."""
    return unquote(request.scope["raw_path"].decode("ascii", "replace")).partition(before)[2]


def _no_item(item_id: str) -> Refusal:
    return Refusal(f"Item with id '{item_id}' not found in conversation.", status=404)


async def _read_cursor(connection: Conn, owner: Owner, after: str) -> str:
    """The cursor of a place, or of where a conversation stands now."""
    conversation_id = parse_openai_id(after)
    if conversation_id is None:
        return after
    try:
        found = await conversations.get_conversation(connection, owner, conversation_id)
    except NotFound:
        raise Refusal(f"No conversation found with id '{after}'", param="after", status=404) from None
    return encode_cursor(Position(found.updated_at, conversation_id))
