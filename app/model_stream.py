"""A model server's answer, read as it comes: Chat Completions as server-sent events, or one whole completion."""

import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.json import Decoder

from app.errors import ModelFailed

MAX_EVENT_BYTES = 16 * 2**20
MAX_ANSWER_BYTES = 10_000_000
MAX_USAGE_BYTES = 65_536
MAX_MODEL_CHARACTERS = 128
LAST_WAIT_SECONDS = 2  # for the usage, which comes behind the reason to finish
END_WAIT_SECONDS = 0.1  # for the end of the response behind `[DONE]`: a connection that saw it is used again

_LINE_BYTES = 64  # what a line takes beside its data
_BOM = b"\xef\xbb\xbf"
_MALFORMED = "the answer of the model server is malformed"

Reason = Literal["stop", "tool_calls", "length", "filter"]
_REASONS: dict[str | None, Reason] = {"length": "length", "max_tokens": "length", "content_filter": "filter"}


class Finish(Struct, kw_only=True, frozen=True):
    """The end of an answer."""

    reason: Reason
    tool_calls: bytes | None
    """A JSON array in the shape of Chat Completions; each `arguments` is the string that the model wrote."""
    usage: bytes | None
    """The server's object, as the bytes that came."""
    model: str | None
    """As the server named it: at most 128 characters, none of them U+0000."""


class _Function(Struct, frozen=True):
    name: str | None = None
    arguments: object = None


class _CallFragment(Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    extra_content: object = None  # of Gemini, which wants it back with the result


class _Delta(Struct, frozen=True):
    content: object = None
    refusal: object = None
    tool_calls: list[_CallFragment] | None = None
    function_call: _Function | None = None  # before there were tools


class _Choice(Struct, frozen=True):
    index: int | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Event(Struct, frozen=True):
    choices: list[_Choice] | None = None
    model: str | None = None
    error: object = None


class _WithUsage(Struct, frozen=True):
    usage: Raw = Raw(b"null")


_EVENT, _USAGE = Decoder(_Event), Decoder(_WithUsage)


class EventParser:
    """The data of server-sent events (HTML §9.2.6), cut out of bytes that may be split anywhere."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of a line without an end
        self._rest_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._was_cr = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of each event that these bytes end. Raises ModelFailed for an event beyond MAX_EVENT_BYTES."""
        if self._was_cr:
            chunk = chunk.removeprefix(b"\n")
        self._was_cr = chunk.endswith(b"\r")
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if lines:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest, self._rest_bytes = [], 0
        yield from self._read_lines(lines)
        self._rest.append(rest)
        self._rest_bytes += len(rest)
        if self._rest_bytes + self._data_bytes > MAX_EVENT_BYTES:
            raise ModelFailed("an event of the model server is too large")

    def _read_lines(self, lines: list[bytes]) -> Iterator[bytes]:
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._data_bytes += len(value) + _LINE_BYTES
            elif not line and self._data:
                data, self._data, self._data_bytes = b"\n".join(self._data), [], 0
                if data:
                    yield data


class _Call:
    def __init__(self, call_id: str | None) -> None:
        self.id = call_id
        self.name = ""
        self.arguments: list[str] = []
        self.extra_content: bytes | None = None

    def take(self, fragment: _CallFragment) -> int:
        """Its size."""
        function = fragment.function or _Function()
        name, arguments = function.name or "", _arguments_of(function.arguments)
        self.id = self.id or fragment.id
        self.name += "" if name == self.name else name  # some repeat it with every fragment
        self.arguments.append(arguments)
        if fragment.extra_content is not None:
            with suppress(UnicodeEncodeError, RecursionError):
                self.extra_content = msgspec.json.encode(fragment.extra_content)
        return len(name) + len(arguments.encode(errors="surrogatepass")) + len(self.extra_content or b"")

    def finished(self) -> dict[str, object]:
        function = {"name": without_surrogates(self.name), "arguments": without_surrogates("".join(self.arguments))}
        call_id = without_surrogates(self.id or f"call_{secrets.token_hex(12)}")
        call = {"id": call_id, "type": "function", "function": function}
        return call | ({"extra_content": Raw(self.extra_content)} if self.extra_content else {})


class ToolCalls:
    """Tool calls, put together from what comes of them.

    Fragments of a call share its index. Servers that give none repeat its id or send it in one piece; some give every
    call the index 0.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def take(self, fragments: list[_CallFragment], *, are_whole: bool) -> int:
        """Their size. Raises ModelFailed for calls of an unknown type."""
        size, seen = 0, set[int]()
        for fragment in fragments:
            if fragment.type not in {None, "", "function"}:
                raise ModelFailed("the model called a tool of an unknown type")
            call = None if are_whole else self._find(fragment, seen)
            if call is None:
                call = _Call(fragment.id or None)
                self._calls.append(call)
            if fragment.index is not None:
                self._by_index[fragment.index] = call
            if fragment.id:
                self._by_id[fragment.id] = call
            seen.add(id(call))
            size += call.take(fragment)
        return size

    def _find(self, fragment: _CallFragment, seen: set[int]) -> _Call | None:
        name = fragment.function and fragment.function.name
        if fragment.index is not None:
            call = self._by_index.get(fragment.index)
            is_another = call and call.id and fragment.id and call.id != fragment.id and name
            return None if is_another else call
        if fragment.id:
            return self._by_id.get(fragment.id)
        last = self._calls[-1] if self._calls else None
        return None if last is None or id(last) in seen or (name and any(last.arguments)) else last

    def encode(self) -> bytes | None:
        """All of them as a JSON array, None when there is none."""
        return msgspec.json.encode([call.finished() for call in self._calls]) if self._calls else None


class AnswerReader:
    """Reads one answer. Its first byte tells events from one object: servers err in the type, and ignore `stream`."""

    def __init__(self) -> None:
        self.is_done = False
        """Whether nothing that still comes matters."""
        self._is_full = False
        self._is_object: bool | None = None
        self._lead = b""
        self._object = bytearray()
        self._events = EventParser()
        self._calls = ToolCalls()
        self._half = ""  # the first half of a surrogate pair, whose other half the next delta holds
        self._size = 0
        self._reason: str | None = None
        self._usage: bytes | None = None
        self._model: str | None = None

    @property
    def patience_seconds(self) -> float | None:
        """How long to wait for more of an answer that could end here; None where it could not."""
        return END_WAIT_SECONDS if self.is_done else LAST_WAIT_SECONDS if self._reason else None

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The text that is new. Raises ModelFailed."""
        if self._is_object is None:
            chunk = self._begin(chunk)
        if self._is_object:
            self._object += chunk
            if len(self._object) > MAX_EVENT_BYTES:
                raise ModelFailed("the answer of the model server is too large")
        elif self._is_object is not None:
            for data in self._events.feed(chunk):
                yield from self._read_event(data)
                if self.is_done:
                    return

    def end(self) -> Iterator[str]:
        """The text that remains when nothing more comes. Raises ModelFailed when more would have had to come."""
        if self._is_object and not self.is_done:
            choice = self._decode(bytes(self._object))
            if choice is None:
                raise ModelFailed(_MALFORMED)
            yield from self._take(choice.message or _Delta(), is_whole=True)
        elif not self.is_done and self._reason is None:
            raise ModelFailed("the model server broke off")
        if self._half:
            yield self._admit("", is_last=True)

    def finish(self) -> Finish:
        """How it ended."""
        calls = self._calls.encode()
        reason = "length" if self._is_full else _REASONS.get(self._reason)
        model = without_surrogates(self._model or "").replace("\0", "")[:MAX_MODEL_CHARACTERS]
        return Finish(
            reason=reason or ("tool_calls" if calls else "stop"),
            tool_calls=calls,
            usage=self._usage,
            model=model or None,
        )

    def _begin(self, chunk: bytes) -> bytes:
        lead = (self._lead + chunk).lstrip()
        self._lead = lead if _BOM.startswith(lead) else b""
        chunk = b"" if self._lead else lead.removeprefix(_BOM).lstrip()
        if chunk:
            self._is_object = chunk.startswith(b"{")
        return chunk

    def _read_event(self, data: bytes) -> Iterator[str]:
        if data.strip() == b"[DONE]":
            self.is_done = True
        elif (choice := self._decode(data)) and choice.delta:
            yield from self._take(choice.delta, is_whole=False)

    def _decode(self, data: bytes) -> _Choice | None:
        """The one choice that counts."""
        text = data.decode(errors="replace")
        event = _decode_event(text)
        if event.error:
            raise ModelFailed("the model server reported an error")
        if '"usage"' in text:
            with suppress(msgspec.DecodeError):  # a lone surrogate
                usage = bytes(_USAGE.decode(text).usage)
                self._usage = usage if usage[:1] == b"{" and len(usage) <= MAX_USAGE_BYTES else self._usage
        self._model = self._model or event.model
        choice = next((choice for choice in event.choices or () if not choice.index), None)
        self._reason = (choice and choice.finish_reason) or self._reason
        return choice

    def _take(self, delta: _Delta, *, is_whole: bool) -> Iterator[str]:
        fragments = delta.tool_calls or []
        if delta.function_call:
            fragments = [*fragments, _CallFragment(index=0, function=delta.function_call)]
        if fragments:
            self._grow(self._calls.take(fragments, are_whole=is_whole))
        if text := self._admit(text_of(delta.content) + text_of(delta.refusal)):
            yield text

    def _admit(self, text: str, *, is_last: bool = False) -> str:
        text = self._half + text
        self._half = text[-1] if text and not is_last and "\ud800" <= text[-1] <= "\udbff" else ""
        text = without_surrogates(text.removesuffix(self._half) if self._half else text)
        room = max(0, MAX_ANSWER_BYTES - self._size)
        encoded = text.encode()
        self._grow(len(encoded))
        return encoded[:room].decode(errors="ignore") if self._is_full else text

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_ANSWER_BYTES:
            self._is_full = self.is_done = True


def _decode_event(text: str) -> _Event:
    try:
        try:
            return _EVENT.decode(text)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # perhaps a lone surrogate, which json alone lets through
            return msgspec.convert(json.loads(text), _Event)
    except (ValueError, RecursionError):  # those of msgspec are ValueErrors
        raise ModelFailed(_MALFORMED) from None


def _arguments_of(value: object) -> str:
    match value:
        case None:
            return ""
        case str(text):
            return text
        case _:  # some send the object itself
            return json.dumps(value, ensure_ascii=False)


def text_of(content: object) -> str:
    """The text of a message's content: a string, or the text parts of an array; empty for anything else."""
    match content:
        case str(text):
            return text
        case list(parts):
            return "".join(_text_of_part(part) for part in parts)
        case _:
            return ""


def _text_of_part(part: object) -> str:
    match part:
        case {"type": "text" | "input_text" | "output_text", "text": str(text)}:
            return text
        case _:
            return ""


def without_surrogates(text: str) -> str:
    """A text whose surrogate pairs are characters, and each lone surrogate U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
