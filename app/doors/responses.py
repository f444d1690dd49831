"""The door of OpenAI's clients: its Responses API, on the replies that all doors share."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from uuid import UUID, uuid4

from litestar import Controller, Response, post
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.response import Stream
from msgspec import Struct
from msgspec.structs import replace

from app import errors, sse
from app.auth import Caller
from app.database import Database
from app.doors.response_answers import EVENTS, Responder, ResponseEvents
from app.doors.response_requests import ResponseRequest, parse_new_response
from app.errors import ClientIdReused, DomainError, Flaw, InvalidInput, NotFound, PreconditionFailed, Unavailable
from app.exchanges import ApiRequest, answer, answer_events, read_body, read_idempotency_key, read_query
from app.headers import Expected
from app.heads import Heads
from app.identifiers import Owner, keyed_conversation_id, new_conversation_id, parse_response_id, response_id
from app.openai_bodies import openai_id, parse_openai_id
from app.openai_errors import PREFIX, Refusal, answer_openai_error, render_openai_error
from app.openapi import Operation
from app.payloads import fingerprint_of
from app.problems import error_named, request_id_of, title_of
from app.queries import Conn
from app.settings import Settings
from app.stores.appends import Append
from app.stores.conversations import ConversationPlan, create_conversation, fork_conversation, get_conversation
from app.stores.items import release_ids, settle_ids
from app.stores.replies import ReplyId, get_reply
from app.streams import ReplyReader, stream_reply
from app.unkept import Conversed, UnkeptReply
from app.wire.conversations import Conversation, ConversationFork
from app.wire.messages import Message, Nothing
from app.wire.replies import FinishReason
from app.wire.responses import ModelResponse, NewResponse
from app.writers import Make, Writers

_PRINT_PREFIX = b"responses\0"  # a request elsewhere with the same bytes is another
_REPLAY = {"Idempotent-Replay": "true"}
_LATE_SECONDS = 60
_BROKEN_OFF = (
    "The stream ends here; what was said is kept, and the conversation will have what is made of the response."
)


class _Room(Struct, frozen=True):
    """What a request is served with."""

    caller: Caller
    database: Database
    settings: Settings
    heads: Heads
    writers: Writers


class ResponseController(Controller):
    """Responses for the caller."""

    path = f"{PREFIX}/responses"
    tags = ["openai"]
    exception_handlers = {DomainError: answer_openai_error, HTTPException: answer_openai_error}

    @post(
        status_code=200,
        operation_id="createResponse",
        opt={
            "is_stream": True,
            "awaits_reply": True,
            "operation": Operation(
                body=(NewResponse,),
                example={"input": "What is a monad?"},
                headers=("Idempotency-Key",),
                answers={200: ModelResponse},
                events=EVENTS,
                answer_headers=("Idempotent-Replay",),
                errors=(
                    errors.NotFound,
                    errors.ConversationDeleted,
                    errors.ReservedId,
                    errors.ClientIdReused,
                    errors.ReplyInProgress,
                    errors.IdempotencyKeyReused,
                    errors.ContextExceeded,
                    errors.ModelRefused,
                    errors.ModelFailed,
                    errors.ModelUnavailable,
                ),
            ),
        },
    )
    async def create_response(
        self,
        request: ApiRequest,
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
        heads: NamedDependency[Heads],
        writers: NamedDependency[Writers],
    ) -> Response[bytes] | Stream:
        """Ask the model for a response.

        The input is kept before the model is asked, and the response is made whether or not its client stays; the
        conversation lists neither until the response is whole, or has failed. Without `conversation` a conversation
        is made for it, from which `previous_response_id` goes on; a response that is not its newest message, or that
        belongs to another conversation, is gone on from in a copy. With `store: false` nothing is kept, and a client
        that leaves ends it.

        One response at a time is made in a conversation. The same request again with its `Idempotency-Key` makes no
        other: it is answered with the first one's.
        """
        read_query(request, Nothing)
        key = read_idempotency_key(request)
        asked = await read_body(request, partial(parse_new_response, limit_bytes=settings.message_limit_bytes))
        room = _Room(caller, database, settings, heads, writers)
        if not asked.is_stored:
            return await _answer_unkept(request, room, asked)
        fingerprint = fingerprint_of(_PRINT_PREFIX + await request.body()) if key is not None else b""
        append = Append(messages=asked.messages, key=key, fingerprint=fingerprint, expected=None)
        reply_id, is_replay = await _begin(room, asked, append)
        try:
            return await _answer(room, asked, reply_id, _REPLAY if is_replay else {})
        except (DomainError, asyncio.CancelledError) as error:  # what was said is kept: again, it would be said twice
            problem = error if isinstance(error, DomainError) else Unavailable()
            refused = render_openai_error(problem, request_id_of(request.scope))
            headers = {**refused.headers, "x-should-retry": "false"}
            return Response(
                refused.body,
                status_code=refused.status,
                media_type=headers.pop("Content-Type"),
                headers=headers,
            )


# Kept


async def _begin(room: _Room, asked: ResponseRequest, append: Append) -> tuple[ReplyId, bool]:
    """The reply, and whether an earlier request with the same Idempotency-Key began it."""
    owner = room.caller.owner
    if asked.conversation is not None:
        conversation_id = _read_conversation_id(asked.conversation)
        try:
            return await _begin_in(room, asked, conversation_id, append)
        except NotFound:
            raise _absent(asked.conversation) from None
    if asked.new.previous_response_id is not None:
        return await _begin_behind(room, asked, append)
    conversation_id = _new_id(owner, append.key)
    plan = ConversationPlan(
        id=conversation_id,
        key=_own_key(conversation_id),
        title=None,
        metadata=b"{}",
        tags=[],
        messages=[],
        fingerprint=None if append.key is None else append.fingerprint,
    )
    make = partial(create_conversation, owner=owner, plan=plan)
    return await _begin_in(room, asked, conversation_id, append, make)


async def _begin_in(
    room: _Room, asked: ResponseRequest, conversation_id: UUID, append: Append, make: Make | None = None
) -> tuple[ReplyId, bool]:
    """Begins the reply in a conversation. Raises ClientIdReused for items that it has: a deleted one's id is free."""
    owner_id = room.caller.owner.id
    if any(message.client_id is not None for message in append.messages):
        async with room.database.connection() as connection:
            append = replace(append, messages=await settle_ids(connection, owner_id, conversation_id, append.messages))
    begin = partial(_write_in, room, asked, conversation_id, append)
    try:
        reply_id, is_replay = await begin(make)
    except ClientIdReused:
        if make is not None:
            raise
    else:
        if append.key is not None or not is_replay:
            return reply_id, is_replay
    return await begin(
        partial(release_ids, owner_id=owner_id, conversation_id=conversation_id, messages=append.messages)
    )


async def _write_in(
    room: _Room, asked: ResponseRequest, conversation_id: UUID, append: Append, make: Make | None
) -> tuple[ReplyId, bool]:
    try:
        _, reply_id, is_replay = await room.writers.begin(
            room.caller.owner.id, conversation_id, append, asked.asked, make
        )
    except InvalidInput:
        if append.messages:
            raise
        raise InvalidInput(Flaw(pointer="/input", message="is required")) from None  # nothing has been said yet
    return reply_id, is_replay


async def _begin_behind(room: _Room, asked: ResponseRequest, append: Append) -> tuple[ReplyId, bool]:
    """Begins the reply behind the previous response: right there, or in a copy."""
    conversation, seq = await _find_previous(room, asked.new.previous_response_id or "")
    conversation_id = UUID(conversation.id)
    is_newest = conversation.last_seq == seq
    if conversation.key == _own_key(conversation_id) and (is_newest or append.key is not None):
        expecting = replace(append, expected=Expected(seq=seq))
        try:
            return await _begin_in(room, asked, conversation_id, expecting)
        except PreconditionFailed:
            pass  # somebody else went on from there
        except ClientIdReused:
            if is_newest:
                raise
    owner = room.caller.owner
    fork_id = _new_id(owner, append.key)

    async def make(connection: Conn) -> None:
        fork = ConversationFork(through_seq=seq)
        try:
            await fork_conversation(connection, owner, conversation_id, fork, fork_id, _own_key(fork_id))
        except errors.ConversationExists:
            pass  # the same request made it before
        except NotFound:
            raise _no_previous(asked.new.previous_response_id) from None

    return await _begin_in(room, asked, fork_id, append, make)


async def _find_previous(room: _Room, previous_id: str) -> tuple[Conversation, int]:
    """The conversation of an ended response, and the seq of its reply. Raises Refusal."""
    place = parse_response_id(previous_id)
    if place is None:
        raise _no_previous(previous_id)
    conversation_id, seq = place
    try:
        async with room.database.connection() as connection:
            _, reason, _ = await get_reply(connection, ReplyId(room.caller.owner.id, conversation_id, seq))
            conversation = await get_conversation(connection, room.caller.owner, conversation_id)
    except NotFound:
        raise _no_previous(previous_id) from None
    if reason is None:
        raise _no_previous(previous_id)
    return conversation, seq


def _new_id(owner: Owner, key: str | None) -> UUID:
    # No key holds a NUL: createConversation makes other ids of the same keys.
    return new_conversation_id() if key is None else keyed_conversation_id(owner.id, f"responses\0{key}")


def _own_key(conversation_id: UUID) -> str:
    """The key of a conversation that is made here, for responses alone."""
    return f"response:{conversation_id.hex}"


def _read_conversation_id(text: str) -> UUID:
    if not text.startswith("conv"):
        message = f"Invalid 'conversation': '{text[:64]}'. Expected an ID that begins with 'conv'."
        raise Refusal(message, code="invalid_value", param="conversation")
    conversation_id = parse_openai_id(text)
    if conversation_id is None:
        raise _absent(text)
    return conversation_id


def _absent(conversation: str) -> NotFound:
    return NotFound(f"Conversation with id '{conversation[:64]}' not found.")


def _no_previous(previous_id: str | None) -> Refusal:
    message = f"Previous response with id '{(previous_id or '')[:64]}' not found."
    return Refusal(message, code="previous_response_not_found", param="previous_response_id")


async def _answer(
    room: _Room, asked: ResponseRequest, reply_id: ReplyId, headers: Mapping[str, str]
) -> Response[bytes] | Stream:
    conversation = None if asked.conversation is None else openai_id(reply_id.conversation_id)
    responder = Responder(asked, response_id(reply_id.conversation_id, reply_id.seq), conversation)
    if asked.new.stream:
        async with room.database.connection() as connection:
            message, _, _ = await get_reply(connection, reply_id)
        events = ResponseEvents(responder.answer, message)
        return answer_events(_stream(room, reply_id, events), headers=headers)
    message, reason, _ = await room.writers.wait(room.caller, reply_id)
    _refuse_failed(reason)
    return answer(responder.answer(message, reason), headers=headers)


def _refuse_failed(reason: FinishReason | None) -> None:
    error = error_named(reason) if reason is not None else None
    if error is not None:
        raise error(title_of(error))


class _ResponseLook:
    """The events of a response that is kept."""

    def __init__(self, reader: ReplyReader, events: ResponseEvents) -> None:
        self._reader, self._events = reader, events
        self._has_begun = False

    async def __call__(self) -> tuple[list[bytes], bool]:
        if not self._has_begun:
            self._has_begun = True
            return self._events.begin(), False
        try:
            text, ended = await self._reader.read()
        except NotFound:
            return self._events.break_off("The response is deleted."), True
        said = self._events.say(text) if text else []
        if ended is None:
            return said, False
        message, reason, _ = ended
        return said + self._events.end(message, reason), True


async def _stream(room: _Room, reply_id: ReplyId, events: ResponseEvents) -> AsyncGenerator[bytes, None]:
    """The whole of a response: its clients cannot take up a stream again."""
    seconds = room.settings.reply_timeout_seconds + _LATE_SECONDS
    settings = replace(room.settings, stream_seconds=seconds)
    look = _ResponseLook(ReplyReader(room.database, reply_id), events)
    async with aclosing(stream_reply(room.heads, room.caller, reply_id, look, settings)) as pieces:
        async for piece in pieces:
            if piece != sse.RETRY:
                yield piece
    if not events.is_over:
        for piece in events.break_off(_BROKEN_OFF):
            yield piece


# Not kept


async def _answer_unkept(request: ApiRequest, room: _Room, asked: ResponseRequest) -> Response[bytes] | Stream:
    conversation = None
    conversed = None
    if asked.conversation is not None:
        conversed = Conversed(_read_conversation_id(asked.conversation))
        conversation = openai_id(conversed.conversation_id)
    elif asked.new.previous_response_id is not None:
        previous, seq = await _find_previous(room, asked.new.previous_response_id)
        conversed = Conversed(UUID(previous.id), seq + 1)
    try:
        unkept = await room.writers.answer_unkept(room.caller.owner.id, conversed, asked.messages, asked.asked)
    except NotFound:
        raise _absent(asked.conversation or "") from None
    # As the id of a response that is kept, but of no conversation.
    responder = Responder(asked, response_id(uuid4(), 0), conversation)
    if asked.new.stream:
        return answer_events(_stream_unkept(unkept, ResponseEvents(responder.answer, unkept.message), room.settings))
    message, reason = await _wait_unkept(request, unkept)
    _refuse_failed(reason)
    return answer(responder.answer(message, reason))


async def _wait_unkept(request: ApiRequest, unkept: UnkeptReply) -> tuple[Message, FinishReason]:
    """The reply as it ended, also because the client has left."""
    left = asyncio.ensure_future(request.receive())  # behind the body comes only that the client leaves
    try:
        await asyncio.wait({left, unkept.task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.cancel()
        unkept.stop()
    await asyncio.wait({unkept.task})
    return await unkept.ended()


async def _stream_unkept(
    unkept: UnkeptReply, events: ResponseEvents, settings: Settings
) -> AsyncGenerator[bytes, None]:
    try:
        for piece in events.begin():
            yield piece
        while not events.is_over:
            text, ended = await unkept.read(settings.heartbeat_seconds)
            said = events.say(text) if text else []
            if ended is not None:
                said += events.end(*ended)
            for piece in said or [sse.HEARTBEAT]:
                yield piece
    finally:
        unkept.stop()
