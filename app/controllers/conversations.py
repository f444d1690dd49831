"""Conversations over HTTP."""

from functools import partial
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath

from app import errors
from app.auth import Caller
from app.database import Database
from app.errors import Flaw, InvalidInput
from app.exchanges import (
    ApiRequest,
    answer,
    answer_json,
    answer_nothing,
    read_body,
    read_conversation_id,
    read_idempotency_key,
    read_if_match,
    read_optional_body,
    read_query,
)
from app.headers import etag, header_values, matches_any
from app.identifiers import MessageIds, is_key, keyed_conversation_id, new_conversation_id
from app.openapi import Operation
from app.pages import Page
from app.payloads import (
    IncomingMessage,
    fingerprint_of,
    parse_conversation_change,
    parse_fork,
    parse_new_conversation,
)
from app.reader import Reader
from app.settings import Settings
from app.stores import conversations, purges
from app.stores.appends import refuse_reserved_ids
from app.stores.conversations import ConversationPlan
from app.wire.conversations import (
    Conversation,
    ConversationChange,
    ConversationDeletion,
    ConversationFork,
    ConversationListing,
    NewConversation,
)
from app.wire.messages import Nothing

_EXAMPLE = {
    "title": "Monads over breakfast",
    "metadata": {"channel": "web"},
    "tags": ["haskell"],
    "messages": [{"role": "user", "content": "What is a monad?"}],
}


def _plan(
    request: tuple[NewConversation, bytes | None, list[IncomingMessage]],
    conversation_id: UUID,
    key: str | None,
    fingerprint: bytes | None = None,
) -> ConversationPlan:
    new, metadata, messages = request
    refuse_reserved_ids(messages, MessageIds(conversation_id))
    return ConversationPlan(
        id=conversation_id,
        key=key,
        title=new.title,
        metadata=metadata or b"{}",
        tags=new.tags or [],
        messages=messages,
        fingerprint=fingerprint,
    )


def _answer(conversation: Conversation, *, status: int = 200, is_replay: bool = False) -> Response[bytes]:
    headers = {"ETag": etag(conversation.last_seq, conversation.revision)}
    if status == 201:  # noqa: PLR2004  # Created
        headers["Location"] = f"/v1/conversations/{conversation.id}"
    if is_replay:
        headers["Idempotent-Replay"] = "true"
    return answer(conversation, status, headers)


class ConversationController(Controller):
    """Conversations of the caller."""

    path = "/v1/conversations"
    tags = ["conversations"]

    @post(
        operation_id="createConversation",
        opt={
            "is_hot": True,
            "operation": Operation(
                body=(NewConversation,),
                body_is_optional=True,
                example=_EXAMPLE,
                headers=("Idempotency-Key",),
                answers={201: Conversation, 200: Conversation},
                answer_headers=("ETag", "Location", "Idempotent-Replay"),
                errors=(
                    errors.ReservedId,
                    errors.ConversationExists,
                    errors.ConversationDeleted,
                    errors.IdempotencyKeyReused,
                ),
            ),
        },
    )
    async def create_conversation(
        self,
        request: ApiRequest,
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Create a conversation.

        With its first messages, if there are any. With an `Idempotency-Key` the id is computed from the key; the same
        request again answers 200 with the conversation as it is now. `id` and `Idempotency-Key` exclude each other.
        """
        read_query(request, Nothing)
        key = read_idempotency_key(request)
        parse = partial(parse_new_conversation, limit_bytes=settings.message_limit_bytes)
        new = await read_optional_body(request, parse)
        if key is None:
            conversation_id = read_conversation_id(new[0].id) if new[0].id is not None else new_conversation_id()
            plan = _plan(new, conversation_id, new[0].key)
        elif new[0].id is not None:
            raise InvalidInput(Flaw(pointer="/id", message="excludes the Idempotency-Key, which makes the id"))
        else:
            conversation_id = keyed_conversation_id(caller.owner.id, key)
            plan = _plan(new, conversation_id, new[0].key, fingerprint_of(await request.body()))
        async with database.connection(lane=(caller.owner.id, plan.id)) as connection:
            conversation, is_replay = await conversations.create_conversation(connection, caller.owner, plan)
        return _answer(conversation, status=200 if is_replay else 201, is_replay=is_replay)

    @put(
        "/by-key/{key:str}",
        operation_id="getOrCreateConversation",
        opt={
            "is_hot": True,
            "operation": Operation(
                body=(NewConversation,),
                body_is_optional=True,
                example=_EXAMPLE,
                answers={200: Conversation, 201: Conversation},
                answer_headers=("ETag", "Location"),
                errors=(errors.ReservedId, errors.ConversationExists, errors.ConversationDeleted),
            ),
        },
    )
    async def get_or_create_conversation(
        self,
        request: ApiRequest,
        key: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Get the conversation with a key, or create it.

        However many ask at once, one conversation is made. The body serves only a creation. `default` is the user's
        main conversation.
        """
        read_query(request, Nothing)
        if not is_key(key):
            raise InvalidInput(Flaw(parameter="key", message="must be 1-128 of A-Za-z0-9._:~@-"))
        parse = partial(parse_new_conversation, limit_bytes=settings.message_limit_bytes)
        new = await read_optional_body(request, parse)
        if new[0].key not in {None, key}:
            raise InvalidInput(Flaw(pointer="/key", message="must equal the key of the path"))
        conversation_id = read_conversation_id(new[0].id) if new[0].id is not None else new_conversation_id()
        plan = _plan(new, conversation_id, key)
        async with database.connection(lane=(caller.owner.id, key)) as connection:
            conversation, is_old = await conversations.get_or_create_conversation(connection, caller.owner, plan)
        return _answer(conversation, status=200 if is_old else 201)

    @get(
        operation_id="listConversations",
        opt={"is_hot": True, "operation": Operation(query=ConversationListing, answers={200: Page[Conversation]})},
    )
    async def list_conversations(
        self, request: ApiRequest, caller: NamedDependency[Caller], reader: NamedDependency[Reader]
    ) -> Response[bytes]:
        """List conversations, last used first.

        Ordered by `updated_at`, then `id`, both descending. A page filtered by `pinned` or `tag` looks at no more
        than 1,000 conversations: it may be short, or empty, with `has_more: true`.
        """
        listing = read_query(request, ConversationListing)
        return answer_json(await reader.list_conversations(caller.owner, listing))

    @get(
        "/{conversation_id:str}",
        operation_id="getConversation",
        opt={
            "is_hot": True,
            "operation": Operation(
                headers=("If-None-Match",),
                answers={200: Conversation, 304: None},
                answer_headers=("ETag",),
                errors=(errors.NotFound,),
            ),
        },
    )
    async def get_conversation(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Get a conversation."""
        read_query(request, Nothing)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection() as connection:
            conversation = await conversations.get_conversation(connection, caller.owner, parsed_id)
        version = etag(conversation.last_seq, conversation.revision)
        if matches_any(header_values(request.scope, b"if-none-match"), version):
            return answer_nothing(304, {"ETag": version})
        return _answer(conversation)

    @patch(
        "/{conversation_id:str}",
        operation_id="updateConversation",
        opt={
            "operation": Operation(
                body=(ConversationChange,),
                example={"title": "Monads, at last", "pinned": True},
                headers=("If-Match",),
                answers={200: Conversation},
                answer_headers=("ETag",),
                errors=(errors.NotFound, errors.PreconditionFailed),
            )
        },
    )
    async def update_conversation(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Change title, metadata, tags, pin or archive.

        An absent member stays as it is, null clears it; `metadata` and `tags` are replaced whole. Does not move
        `updated_at`.
        """
        read_query(request, Nothing)
        expected = read_if_match(request)
        change = await read_body(request, parse_conversation_change)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            return _answer(
                await conversations.update_conversation(connection, caller.owner, parsed_id, change, expected)
            )

    @delete(
        "/{conversation_id:str}",
        status_code=200,  # Litestar lets no handler of a 204 answer itself
        operation_id="deleteConversation",
        opt={
            "is_bulk": True,
            "operation": Operation(
                query=ConversationDeletion,
                headers=("If-Match",),
                answers={204: None},
                errors=(errors.NotFound, errors.PreconditionFailed),
            ),
        },
    )
    async def delete_conversation(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Delete a conversation.

        It vanishes from every read at once and can be restored for as long as the service keeps it (30 days unless
        set otherwise). With `purge=true` it is erased now and for good, also when it was deleted before.
        """
        deletion = read_query(request, ConversationDeletion)
        expected = read_if_match(request)
        parsed_id = read_conversation_id(conversation_id)
        remove = purges.purge_conversation if deletion.purge else conversations.delete_conversation
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            await remove(connection, caller.owner.id, parsed_id, expected)
        return answer_nothing(204)

    @post(
        "/{conversation_id:str}/restore",
        status_code=200,
        operation_id="restoreConversation",
        opt={
            "operation": Operation(
                answers={200: Conversation},
                answer_headers=("ETag",),
                errors=(errors.NotFound, errors.KeyTaken),
            )
        },
    )
    async def restore_conversation(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Bring a deleted conversation back.

        Past its window it is gone (404). When another conversation has taken its key meanwhile: 409.
        """
        read_query(request, Nothing)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            return _answer(
                await conversations.restore_conversation(connection, caller.owner, parsed_id, settings.restore_days)
            )

    @post(
        "/{conversation_id:str}/fork",
        operation_id="forkConversation",
        opt={
            "is_bulk": True,
            "operation": Operation(
                body=(ConversationFork,),
                body_is_optional=True,
                example={"through_seq": 1, "title": "Another try"},
                answers={201: Conversation},
                answer_headers=("ETag", "Location"),
                errors=(errors.NotFound,),
            ),
        },
    )
    async def fork_conversation(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Fork a conversation.

        Copies metadata, tags and the visible messages up to `through_seq` into a new conversation. Its messages are
        numbered from 1, with new ids; client ids and times stay.
        """
        read_query(request, Nothing)
        fork = await read_optional_body(request, parse_fork)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            return _answer(await conversations.fork_conversation(connection, caller.owner, parsed_id, fork), status=201)
