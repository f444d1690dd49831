"""Events over HTTP: what happens in a conversation, and in all of an owner's."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Struct

from app import errors, sse
from app.auth import Caller
from app.database import Database
from app.exchanges import ApiRequest, answer_events, read_conversation_id, read_query
from app.headers import header_values
from app.heads import Follower, Heads, Told
from app.identifiers import MessageIds
from app.openapi import Operation
from app.queries import Conn
from app.settings import Settings
from app.stores.heads import (
    TOLD_LIMIT,
    ChangedConversation,
    ChangedRevision,
    FollowedOwners,
    Head,
    get_head,
    get_time,
    list_changed_conversations,
    list_changed_revisions,
)
from app.stores.messages import list_messages
from app.stores.replies import ReplyId, list_reply_chunks
from app.streams import Look, stream_events
from app.wire.events import ConversationGone, ConversationMoved, MessagesDeleted, Missed, ReplyDelta
from app.wire.messages import Message, MessageListing, Nothing

_PAGE_SIZE = 50
_VERSION = re.compile(r"(\d{1,12})\.(\d{1,18})")
_MICROSECONDS = re.compile(r"\d{1,17}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CONVERSATION_EVENTS: dict[str, type[Struct]] = {
    "message.created": Message,
    "message.updated": Message,
    "messages.deleted": MessagesDeleted,
    "reply.delta": ReplyDelta,
    "conversation.updated": ConversationMoved,
    "conversation.deleted": ConversationGone,
}
_OWNER_EVENTS: dict[str, type[Struct]] = {"conversation.updated": ConversationMoved, "conversations.missed": Missed}
_encode = msgspec.json.Encoder().encode


class _ConversationLook:
    """What is new in a conversation since a version of it."""

    def __init__(
        self, database: Database, follower: Follower, owner_id: UUID, conversation_id: UUID, version: tuple[int, int]
    ) -> None:
        self._database, self._follower = database, follower
        self._owner_id, self._conversation_id = owner_id, conversation_id
        self._seq, self._revision = version
        self._reply_seq: int | None = None
        self._reply_chars = 0
        self._shown: dict[int, int] = {}  # seq to revision, of messages as they were created: newer than the version
        self._restored: tuple[int, int] | None = None
        self._begins = True

    async def __call__(self) -> tuple[list[bytes], bool]:
        before = dict(self.__dict__)
        try:
            async with self._database.connection() as connection:
                return await self._look(connection), False
        except errors.NotFound:
            gone = ConversationGone(id=str(self._conversation_id))
            return [sse.event("conversation.deleted", _encode(gone))], True
        except errors.Unavailable:
            self.__dict__.update(before)  # what was found so far is told by nobody
            raise

    async def _look(self, connection: Conn) -> list[bytes]:
        if self._begins:
            self._begins = False
            return [sse.place(f"{self._seq}.{self._revision}")]
        head = await get_head(connection, self._owner_id, self._conversation_id)
        if head.last_seq > self._seq and (events := await self._created(connection, head)):
            return events
        if head.revision > self._revision:
            return await self._changed(connection, head)
        return await self._said(connection, head)

    async def _created(self, connection: Conn, head: Head) -> list[bytes]:
        listing = MessageListing(after=self._seq, limit=_PAGE_SIZE)
        page = await list_messages(connection, self._owner_id, self._conversation_id, listing)
        events = []
        for message in page.data:
            self._seq = message.seq
            if message.revision > self._revision:
                self._shown[message.seq] = message.revision
            events.append(self._event("message.created", message))
        if not page.has_more:
            self._seq = max(self._seq, head.last_seq)
        return events

    async def _changed(self, connection: Conn, head: Head) -> list[bytes]:
        changes = await list_changed_revisions(
            connection, self._owner_id, self._conversation_id, self._revision, head.revision
        )
        events = []
        for change in changes:
            events += await self._change(connection, change)
            if self._restored is not None:  # a long one: the rest of it first
                break
        if not changes:
            self._revision = head.revision
            moved = ConversationMoved(id=str(self._conversation_id), last_seq=self._seq, revision=self._revision)
            events.append(self._event("conversation.updated", moved))
        self._shown = {seq: revision for seq, revision in self._shown.items() if revision > self._revision}
        return events or [sse.place(f"{self._seq}.{self._revision}")]  # all of it was shown: there may be more

    async def _change(self, connection: Conn, change: ChangedRevision) -> list[bytes]:
        if change.is_deleted:
            self._revision = change.revision
            deleted = MessagesDeleted(
                from_seq=change.from_seq, through_seq=change.through_seq, revision=change.revision
            )
            return [self._event("messages.deleted", deleted)]
        return await self._updated(connection, change)

    async def _updated(self, connection: Conn, change: ChangedRevision) -> list[bytes]:
        """A page of what was edited or restored by one call; only its last event takes the version on."""
        revision, after_seq = change.revision, change.from_seq - 1
        if self._restored is not None and self._restored[0] == revision:
            after_seq = self._restored[1]
        listing = MessageListing(after=after_seq, before=change.through_seq + 1, limit=_PAGE_SIZE)
        page = await list_messages(connection, self._owner_id, self._conversation_id, listing)
        messages = [
            message
            for message in page.data
            if message.revision == revision and self._shown.get(message.seq, -1) < revision
        ]
        if page.has_more:
            self._restored = (revision, page.data[-1].seq)
            return [sse.event("message.updated", _encode(message)) for message in messages]
        self._restored = None
        self._revision = revision
        events = [sse.event("message.updated", _encode(message)) for message in messages[:-1]]
        return [*events, *(self._event("message.updated", message) for message in messages[-1:])]

    async def _said(self, connection: Conn, head: Head) -> list[bytes]:
        """More of the live reply's text; a reader who has just come is told all of it."""
        self._follower.set_eager(is_eager=head.reply_seq is not None)
        if head.reply_seq != self._reply_seq:
            self._reply_seq, self._reply_chars = head.reply_seq, 0
        if head.reply_seq is None or head.reply_char_count == self._reply_chars:
            return []
        reply_id = ReplyId(self._owner_id, self._conversation_id, head.reply_seq)
        text = "".join(chunk.text for chunk in await list_reply_chunks(connection, reply_id, self._reply_chars))
        if not text:
            return []
        delta = ReplyDelta(
            message_id=MessageIds(self._conversation_id).of(head.reply_seq),
            seq=head.reply_seq,
            from_char=self._reply_chars,
            text=text,
        )
        self._reply_chars += len(text)
        return [sse.event("reply.delta", _encode(delta))]

    def _event(self, name: str, data: object) -> bytes:
        return sse.event(name, _encode(data), f"{self._seq}.{self._revision}")


class _OwnerLook:
    """What its follower was told of an owner's conversations, after what was missed since the last stream."""

    def __init__(self, database: Database, owner_id: UUID, follower: Follower, since: datetime | None) -> None:
        self._database, self._owner_id, self._follower, self._since = database, owner_id, follower, since
        self._begins = True

    async def __call__(self) -> tuple[list[bytes], bool]:
        if self._begins:
            events = await self._begin()
            self._begins = False
            return events, False
        told, self._follower.told = self._follower.told, {}
        has_missed, self._follower.has_missed = self._follower.has_missed, False
        events = [self._missed()] if has_missed else []
        in_order = sorted(told.items(), key=lambda item: item[1].told_at)  # each id leaves nothing before it untold
        return [*events, *(self._moved(conversation_id, item) for conversation_id, item in in_order)], False

    async def _begin(self) -> list[bytes]:
        async with self._database.connection() as connection:
            now = await get_time(connection)
            if self._since is None:
                return [sse.place(_microseconds(now))]
            changed = await list_changed_conversations(connection, FollowedOwners([self._owner_id]), self._since)
        events = [self._missed()] if len(changed) >= TOLD_LIMIT else []
        told = {row.id: row for row in changed}
        events += [sse.event("conversation.updated", _encode(_moved(row.id, row))) for row in told.values()]
        return [*events, sse.place(_microseconds(now))]  # not before: who is cut in between is told all of it again

    def _missed(self) -> bytes:
        return sse.event("conversations.missed", _encode(Missed()))

    def _moved(self, conversation_id: UUID, told: Told) -> bytes:
        return sse.event("conversation.updated", _encode(_moved(conversation_id, told)), _microseconds(told.told_at))


def _moved(conversation_id: UUID, version: Told | ChangedConversation) -> ConversationMoved:
    return ConversationMoved(id=str(conversation_id), last_seq=version.last_seq, revision=version.revision)


def _microseconds(time: datetime) -> str:
    return str((time - _EPOCH) // _MICROSECOND)


class EventController(Controller):
    """Events, as they happen."""

    path = "/v1"
    tags = ["events"]

    @get(
        "/conversations/{conversation_id:str}/events",
        operation_id="streamEvents",
        opt={
            "is_stream": True,
            "operation": Operation(
                headers=("Last-Event-ID",),
                answers={200: None},
                events=_CONVERSATION_EVENTS,
                errors=(errors.NotFound,),
            ),
        },
    )
    async def stream_events(
        self,
        request: ApiRequest,
        conversation_id: FromPath[str],
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
        heads: NamedDependency[Heads],
    ) -> Stream:
        """Follow a conversation.

        From now on, or with `Last-Event-ID`, the conversation's version `<last_seq>.<revision>`, from there on. A
        message that is new is told as created, one that was edited, restored, or finished as a reply as updated, with
        all of it; of several changes of one message the last. `reply.delta` has more of the text of a reply that is
        being made, for who comes anew from its beginning. `conversation.updated` tells of any other change.
        """
        read_query(request, Nothing)
        last = sse.parse_last_event_id(header_values(request.scope, b"last-event-id"), _VERSION)
        parsed_id = read_conversation_id(conversation_id)
        async with database.connection() as connection:
            head = await get_head(connection, caller.owner.id, parsed_id)
        seq, revision = (int(last[1]), int(last[2])) if last else (head.last_seq, head.revision)
        if seq > head.last_seq or revision > head.revision:
            raise sse.unknown_event()

        def look_for(follower: Follower) -> Look:
            return _ConversationLook(database, follower, caller.owner.id, parsed_id, (seq, revision))

        return answer_events(stream_events(heads.follow(caller, parsed_id), look_for, settings))

    @get(
        "/events",
        operation_id="streamOwnerEvents",
        opt={
            "is_stream": True,
            "operation": Operation(headers=("Last-Event-ID",), answers={200: None}, events=_OWNER_EVENTS),
        },
    )
    async def stream_owner_events(
        self,
        request: ApiRequest,
        caller: NamedDependency[Caller],
        database: NamedDependency[Database],
        settings: NamedDependency[Settings],
        heads: NamedDependency[Heads],
    ) -> Stream:
        """Follow all conversations of the caller.

        `conversation.updated` names one that was made, used, changed, deleted or restored, and its version, at least
        once; what happened in it is for the other calls to tell. `conversations.missed`: more has changed than is
        told one by one; list them again.
        """
        read_query(request, Nothing)
        last = sse.parse_last_event_id(header_values(request.scope, b"last-event-id"), _MICROSECONDS)
        since = _EPOCH + int(last[0]) * _MICROSECOND if last else None

        def look_for(follower: Follower) -> Look:
            return _OwnerLook(database, caller.owner.id, follower, since)

        return answer_events(stream_events(heads.follow_owner(caller), look_for, settings))
