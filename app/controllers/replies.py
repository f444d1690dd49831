"""Replies over HTTP."""

import re
from functools import partial

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Raw, Struct

from app import errors, sse
from app.asking import Asked
from app.auth import Caller
from app.database import Database
from app.exchanges import (
    ApiRequest,
    answer,
    answer_events,
    answer_nothing,
    read_conversation_id,
    read_idempotency_key,
    read_if_match,
    read_optional_body,
    read_query,
    read_wants_events,
)
from app.headers import etag, header_values
from app.heads import Heads
from app.identifiers import MessageIds
from app.openapi import Operation
from app.payloads import fingerprint_of, parse_new_reply
from app.problems import error_named, status_of, title_of, type_of
from app.settings import Settings
from app.stores.appends import Append, refuse_reserved_ids
from app.stores.messages import find_seq
from app.stores.replies import Ending, ReplyId, end_reply, get_reply
from app.streams import ReplyReader, stream_reply
from app.wire.events import ReplyDelta, ReplyGone
from app.wire.messages import AppendedMessage, Message, Nothing, Version
from app.wire.replies import FinishReason, NewReply, Reply, ReplyProblem
from app.writers import Writers

_EVENT_ID = re.compile(r"(0|[1-9]\d{0,11})|end")
_EVENTS: dict[str, type[Struct]] = {
    "reply.created": Reply,
    "reply.delta": ReplyDelta,
    "reply.ended": Reply,
    "reply.deleted": ReplyGone,
}
_encode = msgspec.json.Encoder().encode


def _reply(message: Message, reason: FinishReason | None, version: Version, messages: list[AppendedMessage]) -> Reply:
    error = error_named(reason) if reason is not None else None
    problem = None
    if error is not None:
        problem = ReplyProblem(type=type_of(error), title=title_of(error), status=status_of(error))
    return Reply(
        messages=messages,
        message=message,
        finish_reason=reason,
        problem=problem,
        last_seq=version.last_seq,
        revision=version.revision,
    )


class _ReplyLook:
    """The events of a reply behind the text that its reader has."""

    def __init__(self, database: Database, reply_id: ReplyId, from_char: int, created: Reply | None = None) -> None:
        self._reader = ReplyReader(database, reply_id, from_char)
        self._seq = reply_id.seq
        self._message_id = MessageIds(reply_id.conversation_id).of(reply_id.seq)
        self._created = created
        self._messages = created.messages if created else []

    async def __call__(self) -> tuple[list[bytes], bool]:
        if self._created is not None:
            created, self._created = self._created, None
            return [sse.event("reply.created", _encode(created), "0")], False
        from_char = self._reader.from_char
        try:
            text, ended = await self._reader.read()
        except errors.NotFound:
            gone = ReplyGone(message_id=self._message_id, seq=self._seq)
            return [sse.event("reply.deleted", _encode(gone), "end")], True
        events = [self._delta(from_char, text)] if text else []
        if ended is not None:
            events.append(sse.event("reply.ended", _encode(_reply(*ended, self._messages)), "end"))
        return events, ended is not None

    def _delta(self, from_char: int, text: str) -> bytes:
        delta = ReplyDelta(message_id=self._message_id, seq=self._seq, from_char=from_char, text=text)
        return sse.event("reply.delta", _encode(delta), str(self._reader.from_char))


class ReplyController(Controller):
    """Replies of the configured model."""

    path = "/v1/conversations/{conversation_id:str}/replies"
    tags = ["replies"]

    @post(
        operation_id="createReply",
        opt={
            "is_stream": True,
            "awaits_reply": True,
            "operation": Operation(
                body=(NewReply,),
                body_is_optional=True,
                example={"messages": [{"role": "user", "content": "What is a monad?"}]},
                headers=("Idempotency-Key", "If-Match"),
                answers={201: Reply, 200: Reply},
                events=_EVENTS,
                answer_headers=("ETag", "Idempotent-Replay"),
                errors=(
                    errors.ReservedId,
                    errors.NotFound,
                    errors.ReplyInProgress,
                    errors.PreconditionFailed,
                    errors.IdempotencyKeyReused,
                    errors.ClientIdReused,
                ),
            ),
        },
    )
    async def create_reply(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
        heads: NamedDependency[Heads],
        writers: NamedDependency[Writers],
    ) -> Response[bytes] | Stream:
        """Ask the model to reply.

        The messages that come along are appended first, as appendMessages would, together with the reply: a message of
        `status: in_progress`. Then the model is asked, with as much of the conversation as it takes (getContext). The
        reply is made whether or not its client stays: streamReply tells how it goes on, and cancelReply ends it.

        The answer is the reply as it ended, `completed`, `incomplete`, `failed` or `cancelled`, or with
        `Accept: text/event-stream` its events as they happen. What the model says is kept before it is shown. Tool
        calls are the client's to make: append their results as messages of role `tool`, and ask again. One reply is
        made at a time; repeating a request with its `Idempotency-Key` joins the reply that it began (404 where that is
        deleted).
        """
        read_query(request, Nothing)
        key, expected = read_idempotency_key(request), read_if_match(request)
        wants_events = read_wants_events(request)
        parse = partial(parse_new_reply, limit_bytes=settings.message_limit_bytes)
        new, incoming = await read_optional_body(request, parse)
        parsed_id = read_conversation_id(conversation_id)
        refuse_reserved_ids(incoming, MessageIds(parsed_id))
        fingerprint = fingerprint_of(b"reply\0" + await request.body()) if key is not None else b""
        append = Append(messages=incoming, key=key, fingerprint=fingerprint, expected=expected)
        appended, reply_id, is_replay = await writers.begin(caller.owner.id, parsed_id, append, asked_of(new))
        headers = {"Idempotent-Replay": "true"} if is_replay else {}
        status, messages = 200 if is_replay else 201, appended.messages[:-1]
        if wants_events:
            async with database.connection() as connection:
                message, reason, version = await get_reply(connection, reply_id)
            created = _reply(message, reason, version, messages)
            look = _ReplyLook(database, reply_id, 0, created)
            return answer_events(stream_reply(heads, caller, reply_id, look, settings), status, headers)
        message, reason, version = await writers.wait(caller, reply_id)
        headers["ETag"] = etag(version.last_seq, version.revision)
        return answer(_reply(message, reason, version, messages), status, headers)

    @get(
        "/{message_id:str}/events",
        operation_id="streamReply",
        opt={
            "is_stream": True,
            "operation": Operation(
                headers=("Last-Event-ID",),
                answers={200: None, 204: None},
                events=_EVENTS,
                errors=(errors.NotFound,),
            ),
        },
    )
    async def stream_reply(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        message_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
        heads: NamedDependency[Heads],
    ) -> Response[bytes] | Stream:
        """Follow a reply as it is made, from any replica.

        With `Last-Event-ID` from where the last stream broke off, else from the beginning of its text; the deltas
        joined are the text. `reply.ended` has the message whole, and ends the stream; behind it 204.
        """
        read_query(request, Nothing)
        last = sse.parse_last_event_id(header_values(request.scope, b"last-event-id"), _EVENT_ID)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection() as connection:
            seq = await find_seq(connection, caller.owner.id, parsed_id, message_id)
            reply_id = ReplyId(caller.owner.id, parsed_id, seq)
            await get_reply(connection, reply_id)
        if last is not None and last[0] == "end":
            return answer_nothing(204)
        look = _ReplyLook(database, reply_id, int(last[0]) if last else 0)
        return answer_events(stream_reply(heads, caller, reply_id, look, settings))

    @post(
        "/{message_id:str}/cancel",
        status_code=200,
        operation_id="cancelReply",
        opt={"operation": Operation(answers={200: Reply}, answer_headers=("ETag",), errors=(errors.NotFound,))},
    )
    async def cancel_reply(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        message_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        writers: NamedDependency[Writers],
    ) -> Response[bytes]:
        """End a reply that is being made, from any replica.

        What it has said so far stays, as a message of `status: cancelled`. One that has ended stays as it is.
        """
        read_query(request, Nothing)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection(lane=(caller.owner.id, parsed_id)) as connection:
            seq = await find_seq(connection, caller.owner.id, parsed_id, message_id)
            reply_id = ReplyId(caller.owner.id, parsed_id, seq)
            await get_reply(connection, reply_id)
            await end_reply(connection, reply_id, Ending("cancelled"))
            message, reason, version = await get_reply(connection, reply_id)
        writers.stop(reply_id)
        return answer(_reply(message, reason, version, []), headers={"ETag": etag(version.last_seq, version.revision)})


def asked_of(new: NewReply) -> Asked:
    """What the model is asked, as the writers take it."""
    return Asked(
        instructions=new.instructions,
        tools=_given(new.tools),
        tool_choice=_given(new.tool_choice),
        max_output_tokens=new.max_output_tokens,
    )


def _given(raw: Raw) -> Raw | None:
    return None if bytes(raw) in {b"", b"null"} else raw
