"""Server-sent events (HTML Living Standard, section 9.2): their bytes, and the header by which one goes on."""

import re

from app.errors import Flaw, InvalidInput

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
HEARTBEAT = b":\n\n"
RETRY = b"retry: 1000\n\n"
"""Sent last to who should come back at once: the milliseconds until then."""

_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def event(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """One event of JSON; a line's end between its tokens becomes a space."""
    head = f"event: {name}\n" if event_id is None else f"id: {event_id}\nevent: {name}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data.translate(_LINE_ENDS))


def place(event_id: str) -> bytes:
    """No event, but an id from which to go on."""
    return f"id: {event_id}\n\n".encode()


def parse_last_event_id(values: list[str], pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The Last-Event-ID by its pattern; None: there is none. Raises InvalidInput."""
    if not values or values == [""]:
        return None
    found = pattern.fullmatch(values[0])
    if len(values) > 1 or found is None:
        raise unknown_event()
    return found


def unknown_event() -> InvalidInput:
    """A Last-Event-ID that no event of the stream has."""
    return InvalidInput(Flaw(header="Last-Event-ID", message="is the id of no event of this stream"))
