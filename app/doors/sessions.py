"""The door of session-style chat backends: a session is a conversation, a turn a message and the model's reply."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from uuid import UUID

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Raw
from msgspec.structs import asdict

from app import errors
from app.asking import Asked
from app.auth import Caller
from app.database import Database
from app.drafts import parts_of
from app.errors import DomainError, NotFound
from app.exchanges import (
    ApiRequest,
    answer,
    read_body,
    read_conversation_id,
    read_idempotency_key,
    read_query,
)
from app.identifiers import Owner, keyed_conversation_id, new_conversation_id
from app.openapi import Operation
from app.pages import Page
from app.payloads import fingerprint_of, parse_turn
from app.problems import answer_error, error_named, title_of
from app.settings import Settings
from app.stores.appends import Append
from app.stores.conversations import ConversationPlan, create_conversation
from app.stores.deletions import truncate_messages
from app.stores.messages import list_messages
from app.stores.stats import get_conversation_stats
from app.wire.messages import Message, MessageListing, Nothing
from app.wire.replies import FinishReason
from app.wire.sessions import (
    LoadedSession,
    NewTurn,
    ResetSession,
    SessionHistory,
    SessionMessage,
    SessionQuery,
    SessionStatus,
    Turn,
)
from app.wire.stats import ConversationStats
from app.writers import Writers

_RECENT_COUNT = 50
_PAGE_SIZE = 500
_NO_LIST, _NO_OBJECT = Raw(b"[]"), Raw(b"{}")
_PRINT_PREFIX = b"chat\0"  # a request elsewhere with the same bytes is another
_encode = msgspec.json.Encoder().encode


def _answer_error(request: Request[object, object, State], error: DomainError) -> Response[bytes]:
    """A problem that has a detail: it is what the clients of this door show."""
    if error.detail is None:
        error.detail = "There is no such session." if isinstance(error, NotFound) else title_of(type(error))
    return answer_error(request, error)


class SessionController(Controller):
    """Sessions of the caller."""

    path = "/chat"
    tags = ["sessions"]
    exception_handlers = {DomainError: _answer_error}

    @post(
        status_code=200,
        operation_id="chat",
        opt={
            "awaits_reply": True,
            "operation": Operation(
                body=(NewTurn,),
                example={"query": "What is a monad?"},
                headers=("Idempotency-Key",),
                answers={200: Turn},
                answer_headers=("Idempotent-Replay",),
                errors=(
                    errors.NotFound,
                    errors.ConversationDeleted,
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
    async def chat(
        self,
        request: ApiRequest,
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
        writers: NamedDependency[Writers],
    ) -> Response[bytes]:
        """Say something, and get the model's reply.

        Without `session_id` a session begins. What was said is kept before the model is asked, and the reply is made
        whether or not its client stays; a problem of the model leaves both in the session. The same request again with
        its `Idempotency-Key` makes no other turn: it is answered with the reply that the first one got.
        """
        read_query(request, Nothing)
        key = read_idempotency_key(request)
        turn, said = await read_body(request, partial(parse_turn, limit_bytes=settings.message_limit_bytes))
        fingerprint = fingerprint_of(_PRINT_PREFIX + await request.body()) if key is not None else b""
        if turn.session_id is None:
            session_id = await _begin_session(database, caller.owner, key, fingerprint)
        else:
            session_id = read_conversation_id(turn.session_id)
        append = Append(messages=[said], key=key, fingerprint=fingerprint, expected=None)
        _, reply_id, is_replay = await writers.begin(caller.owner.id, session_id, append, Asked())
        reply, reason, _ = await writers.wait(caller, reply_id)
        _refuse_failed(reason)
        async with database.connection() as connection:
            stats = await get_conversation_stats(connection, caller.owner.id, session_id)
        audio_files = _given(said.audio_files, _NO_LIST)
        made = Turn(
            response=_text_of(reply),
            query=turn.query,
            audio_files=audio_files,
            audio_provided=bytes(audio_files)[1:-1].strip() != b"",
            conversation_length=stats.message_count,
            session_id=str(session_id),
        )
        return answer(made, headers={"Idempotent-Replay": "true"} if is_replay else None)

    @get(
        "/history/{session_id:str}",
        operation_id="getChatHistory",
        opt={
            "is_stream": True,
            "operation": Operation(answers={200: SessionHistory}, errors=(errors.NotFound,)),
        },
    )
    async def get_chat_history(
        self,
        request: ApiRequest,
        session_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
    ) -> Stream:
        """Get all messages of a session, in order, however many there are.

        A reply that is being made is not among them. Where the history cannot be told to its end, the connection
        breaks.
        """
        read_query(request, Nothing)
        parsed_id = read_conversation_id(session_id)
        first = await _read_page(database, caller.owner.id, parsed_id, 0)
        return Stream(_write_history(database, caller.owner.id, parsed_id, first), media_type="application/json")

    @post(
        "/load-session",
        status_code=200,
        operation_id="loadChatSession",
        opt={
            "operation": Operation(query=SessionQuery, answers={200: LoadedSession}, errors=(errors.NotFound,)),
        },
    )
    async def load_chat_session(
        self, request: ApiRequest, caller: NamedDependency[Caller], database: NamedDependency[Database]
    ) -> Response[bytes]:
        """Get a session with its newest messages, to go on with."""
        session_id = _read_session_id(request)
        listing = MessageListing(order="desc", limit=_RECENT_COUNT + 1)  # one may be a reply that is being made
        async with database.connection() as connection:
            stats = await get_conversation_stats(connection, caller.owner.id, session_id)
            page = await list_messages(connection, caller.owner.id, session_id, listing)
        entries = _entries(page)
        loaded = LoadedSession(
            **asdict(_status(stats)),
            history=entries[_RECENT_COUNT - 1 :: -1],
            has_more=page.has_more or len(entries) > _RECENT_COUNT,
        )
        return answer(loaded)

    @get(
        "/status",
        operation_id="getChatStatus",
        opt={
            "operation": Operation(query=SessionQuery, answers={200: SessionStatus}, errors=(errors.NotFound,)),
        },
    )
    async def get_chat_status(
        self, request: ApiRequest, caller: NamedDependency[Caller], database: NamedDependency[Database]
    ) -> Response[bytes]:
        """Get what is counted of a session."""
        session_id = _read_session_id(request)
        async with database.connection() as connection:
            return answer(_status(await get_conversation_stats(connection, caller.owner.id, session_id)))

    @post(
        "/reset",
        status_code=200,
        operation_id="resetChat",
        opt={
            "is_bulk": True,
            "operation": Operation(query=SessionQuery, answers={200: ResetSession}, errors=(errors.NotFound,)),
        },
    )
    async def reset_chat(
        self, request: ApiRequest, caller: NamedDependency[Caller], database: NamedDependency[Database]
    ) -> Response[bytes]:
        """Take all messages out of a session, which stays.

        The revision of the answer brings them back by restoreMessages.
        """
        session_id = _read_session_id(request)
        async with database.connection(lane=(caller.owner.id, session_id)) as connection:
            version = await truncate_messages(connection, caller.owner.id, session_id, 1, None)
            stats = await get_conversation_stats(connection, caller.owner.id, session_id)
        reset = ResetSession(
            session_id=str(session_id),
            is_active=not stats.is_archived,
            message_count=stats.message_count,
            last_seq=version.last_seq,
            revision=version.revision,
        )
        return answer(reset)


def _read_session_id(request: ApiRequest) -> UUID:
    return read_conversation_id(read_query(request, SessionQuery).session_id)


async def _begin_session(database: Database, owner: Owner, key: str | None, fingerprint: bytes) -> UUID:
    """The id of a new session; with a key, of the one that the same request began before."""
    # No key holds a NUL: createConversation makes other ids of the same keys.
    session_id = new_conversation_id() if key is None else keyed_conversation_id(owner.id, f"chat\0{key}")
    plan = ConversationPlan(
        id=session_id,
        key=None,
        title=None,
        metadata=b"{}",
        tags=[],
        messages=[],
        fingerprint=None if key is None else fingerprint,
    )
    async with database.connection(lane=(owner.id, session_id)) as connection:
        await create_conversation(connection, owner, plan)
    return session_id


def _refuse_failed(reason: FinishReason | None) -> None:
    error = error_named(reason) if reason is not None else None
    if error is not None:
        raise error(f"{title_of(error)} What was said is kept in the session.")


async def _read_page(database: Database, owner_id: UUID, session_id: UUID, after_seq: int) -> Page[Message]:
    listing = MessageListing(after=after_seq, limit=_PAGE_SIZE)
    async with database.connection() as connection:
        return await list_messages(connection, owner_id, session_id, listing)


async def _write_history(
    database: Database, owner_id: UUID, session_id: UUID, page: Page[Message]
) -> AsyncGenerator[bytes, None]:
    """The bytes of a SessionHistory, page by page."""
    yield b'{"session_id":"%b","history":[' % str(session_id).encode()
    separator = b""
    while True:
        if entries := _entries(page):
            yield separator + _encode(entries)[1:-1]
            separator = b","
        if not page.has_more:
            break
        await asyncio.sleep(0)  # others' turn: a client that reads fast never waits
        page = await _read_page(database, owner_id, session_id, page.data[-1].seq)
    yield b"]}"


def _entries(page: Page[Message]) -> list[SessionMessage]:
    return [_entry(message) for message in page.data if message.status != "in_progress"]


def _entry(message: Message) -> SessionMessage:
    return SessionMessage(
        message_id=message.id,
        role=message.role,
        content=_text_of(message),
        timestamp=message.created_at,
        audio_files=message.audio_files or _NO_LIST,
        function_calls=message.function_calls or message.tool_calls or _NO_LIST,
        metadata=message.metadata or _NO_OBJECT,
    )


def _text_of(message: Message) -> Raw:
    """The JSON string of what a message says: its own bytes, of several parts those of each."""
    texts = [bytes(part.value)[1:-1] for part in parts_of(message.content) if part.kind == "text"]
    return Raw(b'"%b"' % b"".join(texts))


def _given(payload: bytes | None, default: Raw) -> Raw:
    return default if payload is None else Raw(payload)


def _status(stats: ConversationStats) -> SessionStatus:
    return SessionStatus(
        session_id=stats.id,
        is_active=not stats.is_archived,
        created_at=stats.created_at,
        updated_at=stats.updated_at,
        message_count=stats.message_count,
        user_messages=stats.messages.user,
        assistant_messages=stats.messages.assistant,
        tool_messages=stats.messages.tool,
        duration_seconds=stats.duration_seconds,
        last_seq=stats.last_seq,
        revision=stats.revision,
    )
