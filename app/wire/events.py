"""Events on the wire: the `data` of what the event streams say."""

from typing import Annotated

from msgspec import Meta, Struct

from app.wire.messages import Revision, Seq


class ConversationMoved(Struct, kw_only=True, frozen=True):
    """A conversation is at this version now."""

    id: str
    last_seq: int
    revision: Revision


class ConversationGone(Struct, kw_only=True, frozen=True):
    """A conversation is deleted, and its stream ends."""

    id: str


class MessagesDeleted(Struct, kw_only=True, frozen=True):
    """All messages from one seq through another are deleted."""

    from_seq: Seq
    through_seq: Seq
    revision: Annotated[int, Meta(description="Brings them back by restoreMessages.")]


class ReplyDelta(Struct, kw_only=True, frozen=True):
    """More of a reply's text."""

    message_id: str
    seq: Seq
    from_char: Annotated[int, Meta(description="How many code points of the text stand before it.")]
    text: str


class ReplyGone(Struct, kw_only=True, frozen=True):
    """The reply is deleted, and its stream ends."""

    message_id: str
    seq: Seq


class Missed(Struct, kw_only=True, frozen=True):
    """More has changed than is told: list the conversations again."""
