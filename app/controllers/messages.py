"""Messages over HTTP."""

from functools import partial

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec.structs import replace

from app import errors
from app.appender import Appender
from app.auth import Caller
from app.database import Database
from app.exchanges import (
    ApiRequest,
    answer,
    answer_json,
    read_body,
    read_conversation_id,
    read_idempotency_key,
    read_if_match,
    read_query,
)
from app.headers import etag
from app.identifiers import MessageIds
from app.openapi import Operation
from app.pages import Page
from app.payloads import fingerprint_of, parse_append, parse_message_change, parse_restoration
from app.reader import Reader
from app.rendering import render_messages
from app.settings import Settings
from app.stores import deletions, messages
from app.stores.appends import Append, refuse_reserved_ids
from app.stores.messages import MessagePatch
from app.wire.messages import (
    Appended,
    Message,
    MessageChange,
    MessageListing,
    MessageQuery,
    MessagesRestoration,
    NewMessage,
    NewMessages,
    Nothing,
    Truncation,
    Version,
)


def _headers(version: Version | Appended) -> dict[str, str]:
    return {"ETag": etag(version.last_seq, version.revision)}


class MessageController(Controller):
    """Messages of a conversation of the caller."""

    path = "/v1/conversations/{conversation_id:str}/messages"
    tags = ["messages"]

    @post(
        operation_id="appendMessages",
        opt={
            "is_hot": True,
            "operation": Operation(
                body=(NewMessage, NewMessages),
                example={"role": "user", "content": "What is a monad?", "client_id": "web-7f3a-1"},
                headers=("Idempotency-Key", "If-Match"),
                answers={201: Appended, 200: Appended},
                answer_headers=("ETag", "Idempotent-Replay"),
                errors=(
                    errors.ReservedId,
                    errors.NotFound,
                    errors.PreconditionFailed,
                    errors.IdempotencyKeyReused,
                    errors.ClientIdReused,
                ),
            ),
        },
    )
    async def append_messages(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        appender: NamedDependency[Appender],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Append one message or a batch.

        All of a batch is kept, or nothing; 201 means committed. The messages get the next seqs, without a gap, in the
        order of the request. Repeating the request with the same `Idempotency-Key`, or without a key with the same
        client ids, answers 200 with what the first one made, whenever that was.
        """
        read_query(request, Nothing)
        key, expected = read_idempotency_key(request), read_if_match(request)
        incoming = await read_body(request, partial(parse_append, limit_bytes=settings.message_limit_bytes))
        parsed_id = read_conversation_id(conversation_id)
        refuse_reserved_ids(incoming, MessageIds(parsed_id))
        fingerprint = fingerprint_of(await request.body()) if key is not None else b""
        append = Append(messages=incoming, key=key, fingerprint=fingerprint, expected=expected)
        appended, is_replay = await appender.append(caller.owner.id, parsed_id, append)
        headers = _headers(appended)
        if is_replay:
            headers["Idempotent-Replay"] = "true"
        return answer(appended, 200 if is_replay else 201, headers)

    @get(
        operation_id="listMessages",
        opt={
            "is_hot": True,
            "operation": Operation(query=MessageListing, answers={200: Page[Message]}, errors=(errors.NotFound,)),
        },
    )
    async def list_messages(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        reader: NamedDependency[Reader],
    ) -> Response[bytes]:
        """List messages, in order or newest first.

        `next_cursor` goes into `after` when the order is `asc`, into `before` when it is `desc`. A page holds at most
        8 MB of payload, so it may be short with `has_more: true`.
        """
        listing = read_query(request, MessageListing)
        parsed_id = read_conversation_id(conversation_id)
        if listing.format == "native":
            return answer_json(await reader.list_messages(caller.owner.id, parsed_id, listing))
        async with database.connection() as connection:
            page = await messages.list_messages(connection, caller.owner.id, parsed_id, listing)
        return answer(replace(page, data=await render_messages(caller.owner.id, page.data)))

    @delete(
        status_code=200,
        operation_id="truncateMessages",
        opt={
            "is_bulk": True,
            "operation": Operation(
                query=Truncation,
                headers=("If-Match",),
                answers={200: Version},
                answer_headers=("ETag",),
                errors=(errors.NotFound, errors.PreconditionFailed),
            ),
        },
    )
    async def truncate_messages(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Delete all messages from a seq on.

        What comes next is numbered on, as seqs are never used twice. The revision of the answer brings the messages
        back by restoreMessages.
        """
        truncation = read_query(request, Truncation)
        expected = read_if_match(request)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            version = await deletions.truncate_messages(
                connection, caller.owner.id, parsed_id, truncation.from_seq, expected
            )
        return answer(version, headers=_headers(version))

    @post(
        "/restore",
        status_code=200,
        operation_id="restoreMessages",
        opt={
            "is_bulk": True,
            "operation": Operation(
                body=(MessagesRestoration,),
                example={"revision": 1},
                answers={200: Version},
                answer_headers=("ETag",),
                errors=(errors.NotFound,),
            ),
        },
    )
    async def restore_messages(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Bring back the messages that one call deleted.

        Name the revision that deleteMessage or truncateMessages answered. Past the window they are gone (404).
        """
        read_query(request, Nothing)
        restoration = await read_body(request, parse_restoration)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            version = await deletions.restore_messages(
                connection, caller.owner.id, parsed_id, restoration.revision, settings.restore_days
            )
        return answer(version, headers=_headers(version))

    @get(
        "/{message_id:str}",
        operation_id="getMessage",
        opt={"operation": Operation(query=MessageQuery, answers={200: Message}, errors=(errors.NotFound,))},
    )
    async def get_message(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        message_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Get a message by its id or its client id."""
        query = read_query(request, MessageQuery)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection() as connection:
            message = await messages.get_message(connection, caller.owner.id, parsed_id, message_id)
        return answer(message if query.format == "native" else (await render_messages(caller.owner.id, [message]))[0])

    @patch(
        "/{message_id:str}",
        operation_id="updateMessage",
        opt={
            "operation": Operation(
                body=(MessageChange,),
                example={"content": "A monoid in the category of endofunctors."},
                headers=("If-Match",),
                answers={200: Message},
                answer_headers=("ETag",),
                errors=(errors.NotFound, errors.ReplyInProgress, errors.PreconditionFailed),
            )
        },
    )
    async def update_message(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        message_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
    ) -> Response[bytes]:
        """Edit a message.

        An absent member stays as it is, null clears it. `If-Match` is the conversation's ETag.
        """
        read_query(request, Nothing)
        expected = read_if_match(request)
        change, payloads = await read_body(request, parse_message_change)
        patch = MessagePatch(change=change, payloads=payloads, limit_bytes=settings.message_limit_bytes)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            message, version = await messages.update_message(
                connection, caller.owner.id, parsed_id, message_id, patch, expected
            )
        return answer(message, headers=_headers(version))

    @delete(
        "/{message_id:str}",
        status_code=200,
        operation_id="deleteMessage",
        opt={
            "operation": Operation(
                headers=("If-Match",),
                answers={200: Version},
                answer_headers=("ETag",),
                errors=(errors.NotFound, errors.PreconditionFailed),
            )
        },
    )
    async def delete_message(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        message_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Response[bytes]:
        """Delete a message.

        The revision of the answer brings it back by restoreMessages. `If-Match` is the conversation's ETag.
        """
        read_query(request, Nothing)
        expected = read_if_match(request)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            version = await deletions.delete_message(connection, caller.owner.id, parsed_id, message_id, expected)
        return answer(version, headers=_headers(version))
