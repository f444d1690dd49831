"""From messages to a window: the newest whole turns that fit, each tool call beside its result. No I/O.

A turn is a user's message and all that follows it up to the next one; what stands before the first user's message,
behind the leading system and developer messages, is a turn of its own.
"""

from collections.abc import Iterable, Mapping

from msgspec import Raw, Struct
from msgspec.json import Decoder

from app.pages import PAGE_LIMIT_BYTES
from app.payloads import count_tokens
from app.wire.context import ContextQuery, Cut, LeftOut, Limit, OpenCall, Reason
from app.wire.messages import Message

WINDOW_LIMIT = 10_000
"""The most messages and tool calls of a window; its payload has the limit of a page."""

NO_RESULT = "No result of this tool call was recorded."
"""What a synthetic result says."""

INSTRUCTING = frozenset({"system", "developer"})

_TOKEN_BYTES, _MESSAGE_TOKENS = 4, 4  # an estimate: a token of English is about 4 bytes, and each message has a frame

_LARGE_SIZE, _LARGE_BYTES = 500, 256 * 1024

_ELEMENTS = Decoder(list[Raw])
_MEMBERS = Decoder(dict[str, Raw])
_TEXT = Decoder(str)


def is_a(raw: Raw | None, opening: bytes) -> bool:
    """Whether a JSON value begins so: with a quote, a bracket or a brace."""
    return raw is not None and memoryview(raw)[:1] == opening


def elements_of(raw: Raw | None) -> list[Raw]:
    """The elements of a JSON array, as the bytes that came; of an object, the object alone."""
    if raw is None:
        return []
    return _ELEMENTS.decode(raw) if is_a(raw, b"[") else [raw]


def members_of(raw: Raw | None) -> Mapping[str, Raw]:
    """The members of a JSON object, as the bytes that came; none of any other value."""
    return _MEMBERS.decode(raw) if raw is not None and is_a(raw, b"{") else {}


def text_of(raw: Raw | None) -> str | None:
    """The text of a JSON string; None of any other value."""
    return _TEXT.decode(raw) if raw is not None and is_a(raw, b'"') else None


class Entry(Struct, frozen=True):
    """A message as it is kept, and the bytes of its payloads."""

    message: Message
    body_bytes: int
    source: Raw | None = None
    """What its columns cannot rebuild of a foreign object that came."""


class Call(Struct, frozen=True):
    """A tool call that a result can name."""

    id: str
    name: str
    arguments: Raw | None
    """A JSON string as the model wrote it, or an object; None where there are none."""


class Weight(Struct, frozen=True):
    """What counts against the budgets."""

    message_count: int = 0
    token_count: int = 0
    estimated_count: int = 0

    def __add__(self, other: "Weight") -> "Weight":
        return Weight(
            self.message_count + other.message_count,
            self.token_count + other.token_count,
            self.estimated_count + other.estimated_count,
        )


class Step(Struct):
    """A message, the calls that it makes, and the result of each, None where it is missing."""

    entry: Entry
    calls: list[Call]
    results: list[Entry | None]
    has_unknown_calls: bool = False
    is_joined: bool = False
    """Whether it only makes calls and follows another message of the assistant: providers take the two as one."""

    @property
    def open_calls(self) -> list[Call]:
        """The calls without a result."""
        return [call for call, result in zip(self.calls, self.results, strict=True) if result is None]

    def weigh(self, *, is_completed: bool) -> Weight:
        """With its results, the synthetic ones where it is completed."""
        weight = weigh(self.entry)
        for result in self.results:
            if result is not None:
                weight += weigh(result)
            elif is_completed:
                weight += _SYNTHETIC
        return weight


def _estimate(size_bytes: int) -> int:
    return _MESSAGE_TOKENS + -(-size_bytes // _TOKEN_BYTES)


_SYNTHETIC = Weight(1, _estimate(len(NO_RESULT)), 1)


def weigh(entry: Entry) -> Weight:
    """One message; an estimate leaves out its usage and metadata, which no model reads."""
    message = entry.message
    if message.role == "assistant" and message.usage is not None:
        _, output_tokens = count_tokens(message.usage)
        if output_tokens:
            return Weight(1, output_tokens, 0)
    unread = sum(len(payload) for payload in (message.usage, message.metadata) if payload is not None)
    return Weight(1, _estimate(max(0, entry.body_bytes - unread)), 1)


def leave_out(message: Message, reason: Reason) -> LeftOut:
    """The report of a message that is not in the window, or not all of it."""
    return LeftOut(message_id=message.id, seq=message.seq, reason=reason)


def _is_nothing(raw: Raw | None) -> bool:
    if raw is None:
        return True
    return len(raw) == len('""') if is_a(raw, b'"') else not bytes(raw)[1:-1].strip()


def _silence_of(message: Message) -> Reason | None:
    """Why a message has nothing to say. A tool may answer nothing: that is a result."""
    if message.status == "in_progress":
        return "in_progress"
    payloads = (message.content, message.tool_calls, message.function_calls, message.audio_files)
    return "empty" if message.role != "tool" and all(map(_is_nothing, payloads)) else None


def call_of(raw: Raw) -> Call | None:
    """A call in the shape of Chat Completions, of the Responses API or of a plain `{id, name, arguments}`."""
    members = members_of(raw)
    function = members_of(members["function"]) if "function" in members else members
    call_id = text_of(members.get("call_id")) or text_of(members.get("id"))
    name = text_of(function.get("name"))
    arguments = function.get("arguments", function.get("input"))
    if not call_id or not name:
        return None
    if arguments is None or bytes(arguments) == b"null":
        return Call(call_id, name, None)
    return Call(call_id, name, arguments) if is_a(arguments, b'"') or is_a(arguments, b"{") else None


class _Turn(Struct):
    steps: list[Step]
    left_out: list[LeftOut]

    def weigh(self, *, is_completed: bool) -> Weight:
        return sum((step.weigh(is_completed=is_completed) for step in self.steps), Weight())


def _arrange(entries: Iterable[Entry]) -> _Turn:
    """The steps of a turn. A result belongs to the latest call of its id before it, and the first one wins."""
    turn = _Turn([], [])
    latest: dict[str, tuple[Step, int]] = {}
    previous_role = ""
    for entry in entries:
        message = entry.message
        if reason := _silence_of(message):
            turn.left_out.append(leave_out(message, reason))
        elif message.role != "tool":
            step = _step(entry, previous_role)
            turn.steps.append(step)
            latest |= {call.id: (step, place) for place, call in enumerate(step.calls)}
            previous_role = message.role
        elif (called := latest.get(message.tool_call_id or "")) is None:
            turn.left_out.append(leave_out(message, "orphan_result"))
        elif called[0].results[called[1]] is not None:
            turn.left_out.append(leave_out(message, "duplicate_result"))
        else:
            called[0].results[called[1]] = entry
            previous_role = "tool"
    return turn


def _step(entry: Entry, previous_role: str) -> Step:
    message = entry.message
    if message.role != "assistant" or message.tool_calls is None:
        return Step(entry, [], [])
    raws = [raw for raw in elements_of(message.tool_calls) if bytes(raw) != b"null"]  # the place of a deleted one
    calls = [call for raw in raws if (call := call_of(raw)) is not None]
    is_joined = bool(calls) and previous_role == "assistant" and _is_nothing(message.content)
    return Step(entry, calls, [None] * len(calls), len(calls) < len(raws), is_joined)


class Window:
    """Takes the leading messages in order, then the others newest first, for as long as they fit.

    A turn is in it whole or not at all, and it ends before the first turn that does not fit.
    """

    def __init__(self, query: ContextQuery, before_seq: int) -> None:
        self.query, self.before_seq = query, before_seq
        self.is_over_budget = False
        self.cut: Cut | None = None
        self.after_seq = 0
        self.first_seq: int | None = None
        self.through_seq: int | None = None
        self._leading = _Turn([], [])
        self._turns: list[_Turn] = []
        self._pending: list[Entry] = []
        self._size = self._bytes = 0
        self._weight = Weight()
        self._pending_weight = Weight()

    @property
    def is_large(self) -> bool:
        """Whether writing it takes longer than a request should hold up others: 10,000 messages take 0.3 s."""
        return self._size > _LARGE_SIZE or self._bytes > _LARGE_BYTES

    @property
    def steps(self) -> list[Step]:
        """All of it, in order."""
        return [step for turn in (self._leading, *reversed(self._turns)) for step in turn.steps]

    @property
    def left_out(self) -> list[LeftOut]:
        """What is not in it though its turn is."""
        return [report for turn in (self._leading, *self._turns) for report in turn.left_out]

    @property
    def open_calls(self) -> list[OpenCall]:
        """The calls without a result, in order."""
        return [
            OpenCall(message_id=step.entry.message.id, seq=step.entry.message.seq, call_id=call.id, name=call.name)
            for step in self.steps
            for call in step.open_calls
        ]

    def take_leading(self, entry: Entry) -> bool:
        """Takes one more of the leading messages; whether it was one, and is not too many."""
        message = entry.message
        if message.role not in INSTRUCTING:
            return False
        self._size, self._bytes = self._size + 1, self._bytes + entry.body_bytes
        if self._limit_of(Weight()) == "size":
            self.is_over_budget = True
            self._end("size")
            return False
        self.after_seq = message.seq
        if reason := _silence_of(message):
            self._leading.left_out.append(leave_out(message, reason))
        else:
            self._leading.steps.append(Step(entry, [], []))
            self._weight += weigh(entry)
            self.is_over_budget = self._limit_of(self._weight) is not None
        return True

    def take(self, entry: Entry) -> bool:
        """Takes the next older message behind the leading ones; whether there is room for more."""
        message = entry.message
        self._pending.append(entry)
        self._size += 1 + (len(elements_of(message.tool_calls)) if message.role == "assistant" else 0)
        self._bytes += entry.body_bytes
        if message.role != "tool" and not _silence_of(message):  # whether a result stays is known by its whole turn
            self._pending_weight += weigh(entry)
        if limit := self._limit_of(self._weight + self._pending_weight):
            self._end(limit)
        elif message.role == "user":
            self.finish()
        return self.cut is None

    def finish(self) -> None:
        """Takes what was taken last as a turn: nothing older belongs to it."""
        if self.cut is not None or not self._pending:
            return
        turn = _arrange(reversed(self._pending))
        weight = self._weight + turn.weigh(is_completed=self.query.complete)
        if limit := self._limit_of(weight):
            self._end(limit)
            return
        self._turns.append(turn)
        self._weight = weight
        self.first_seq = self._pending[-1].message.seq
        self.through_seq = self.through_seq or self._pending[0].message.seq
        self._pending, self._pending_weight = [], Weight()

    def _end(self, limit: Limit) -> None:
        self._pending = []
        self.cut = Cut(limit=limit, after_seq=self.after_seq, before_seq=self.first_seq or self.before_seq)

    def _limit_of(self, weight: Weight) -> Limit | None:
        """The limit that a weight exceeds, or all that was taken so far."""
        max_messages, max_tokens = self.query.max_messages, self.query.max_tokens
        if max(self._size, weight.message_count) > WINDOW_LIMIT or self._bytes > PAGE_LIMIT_BYTES:
            return "size"
        if max_messages is not None and weight.message_count > max_messages:
            return "max_messages"
        return "max_tokens" if max_tokens is not None and weight.token_count > max_tokens else None
