"""Replies, as the Responses API answers with them: whole, or in the events of its streams."""

from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct
from msgspec.json import Decoder
from msgspec.structs import replace

from app import sse
from app.context import Entry, elements_of, members_of
from app.doors.response_requests import ResponseRequest
from app.items import Item, items_of
from app.problems import error_named, title_of
from app.wire.messages import Message
from app.wire.replies import FinishReason
from app.wire.responses import (
    ArgumentsDelta,
    ArgumentsDone,
    ContentPartEvent,
    IncompleteDetails,
    InputTokensDetails,
    ModelResponse,
    OutputItemEvent,
    OutputTextDelta,
    OutputTextDone,
    OutputTokensDetails,
    ResponseConversation,
    ResponseError,
    ResponseErrorEvent,
    ResponseEvent,
    ResponseStatus,
    ResponseUsage,
)

EVENTS: dict[str, type[Struct]] = {
    "response.created": ResponseEvent,
    "response.in_progress": ResponseEvent,
    "response.output_item.added": OutputItemEvent,
    "response.content_part.added": ContentPartEvent,
    "response.output_text.delta": OutputTextDelta,
    "response.output_text.done": OutputTextDone,
    "response.content_part.done": ContentPartEvent,
    "response.function_call_arguments.delta": ArgumentsDelta,
    "response.function_call_arguments.done": ArgumentsDone,
    "response.output_item.done": OutputItemEvent,
    "response.completed": ResponseEvent,
    "response.incomplete": ResponseEvent,
    "response.failed": ResponseEvent,
    "error": ResponseErrorEvent,
}

_STATUSES: dict[FinishReason | None, ResponseStatus] = {
    None: "in_progress",
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete",
    "filter": "incomplete",
    "cancelled": "cancelled",
}
_LAST_EVENTS: dict[ResponseStatus, str] = {"completed": "response.completed", "failed": "response.failed"}
_DETAILS = {
    "length": IncompleteDetails(reason="max_output_tokens"),
    "filter": IncompleteDetails(reason="content_filter"),
}
_INTERRUPTIONS = {"timeout": "The model took too long.", "lost": "The reply broke off: its replica went away."}
_FAULTS_OF_THE_INPUT = frozenset({"model-refused", "context-exceeded"})
_NO_LIST, _NO_OBJECT, _NULL = Raw(b"[]"), Raw(b"{}"), Raw(b"null")
_AUTO, _PLAIN_TEXT = Raw(b'"auto"'), Raw(b'{"format":{"type":"text"}}')
_EMPTY_TEXT, _IN_PROGRESS = Raw(b'""'), Raw(b'"in_progress"')

_encode = msgspec.json.Encoder().encode


class _Details(Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(Struct):
    """Either vendor's names."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


_USAGE = Decoder(_Usage)


class Responder(Struct, frozen=True):
    """Makes responses of one reply."""

    request: ResponseRequest
    response_id: str
    conversation_id: str | None
    """Of the conversation that the request named, as this door writes it."""

    def answer(self, message: Message, reason: FinishReason | None) -> ModelResponse:
        """The reply as a response, which says nothing while the reply is being made."""
        new, given = self.request.new, self.request.members
        status = _STATUSES.get(reason, "failed")
        is_completed = status == "completed"
        return ModelResponse(
            id=self.response_id,
            created_at=int(message.created_at.timestamp()),
            status=status,
            background=False,
            completed_at=int(message.updated_at.timestamp()) if is_completed else None,
            conversation=ResponseConversation(id=self.conversation_id) if self.conversation_id else None,
            error=_error_of(reason) if status == "failed" else None,
            incomplete_details=_DETAILS.get(reason or ""),
            instructions=new.instructions,
            max_output_tokens=new.max_output_tokens,
            metadata=given.get("metadata", _NO_OBJECT),
            model=message.model or "",
            output=[] if reason is None else [item.body for item in items_of(Entry(message, 0))],
            parallel_tool_calls=new.parallel_tool_calls is not False,
            previous_response_id=new.previous_response_id,
            prompt_cache_key=new.prompt_cache_key,
            prompt_cache_retention=new.prompt_cache_retention,
            reasoning=given.get("reasoning", _NULL),
            safety_identifier=new.safety_identifier,
            service_tier=new.service_tier,
            store=self.request.is_stored,
            temperature=given.get("temperature", _NULL),
            text=given.get("text", _PLAIN_TEXT),
            tool_choice=given.get("tool_choice", _AUTO),
            tools=given.get("tools", _NO_LIST),
            top_logprobs=0,
            top_p=given.get("top_p", _NULL),
            truncation=new.truncation or "disabled",
            usage=None if reason is None else _usage_of(message.usage),
            user=new.user,
        )


def _error_of(reason: FinishReason | None) -> ResponseError:
    error = error_named(reason or "")
    message = _INTERRUPTIONS.get(reason or "", "") if error is None else title_of(error)
    return ResponseError(code="invalid_prompt" if reason in _FAULTS_OF_THE_INPUT else "server_error", message=message)


def _usage_of(raw: Raw | None) -> ResponseUsage | None:
    """None without one, and of one that says nothing we know."""
    try:
        usage = _USAGE.decode(raw or b"{}")
    except (msgspec.DecodeError, RecursionError):
        return None
    read, said = usage.input_tokens or usage.prompt_tokens, usage.output_tokens or usage.completion_tokens
    if read is None and said is None:
        return None
    read, said = read or 0, said or 0
    read_details = usage.input_tokens_details or usage.prompt_tokens_details or _Details()
    said_details = usage.output_tokens_details or usage.completion_tokens_details or _Details()
    return ResponseUsage(
        input_tokens=read,
        input_tokens_details=InputTokensDetails(cached_tokens=read_details.cached_tokens or 0, cache_write_tokens=0),
        output_tokens=said,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=said_details.reasoning_tokens or 0),
        total_tokens=usage.total_tokens or read + said,
    )


class ResponseEvents:
    """The events of one response, in order, each with its number."""

    def __init__(self, answer: Callable[[Message, FinishReason | None], ModelResponse], message: Message) -> None:
        self._answer, self._message = answer, message
        self._count = 0
        self._is_said = False
        self.is_over = False
        """Whether the last event is told."""
        said = replace(message, content=Raw(b'"..."'), tool_calls=None, status="completed")
        (self._text,) = items_of(Entry(said, 0))

    def begin(self) -> list[bytes]:
        """The response before it says anything."""
        response = self._answer(self._message, None)
        return [self._whole("response.created", response), self._whole("response.in_progress", response)]

    def say(self, text: str) -> list[bytes]:
        """More of its text."""
        events = [] if self._is_said else self._begin_message(self._text, 0)
        delta = OutputTextDelta(
            type="response.output_text.delta",
            logprobs=[],
            sequence_number=self._next(),
            item_id=self._text.id,
            output_index=0,
            content_index=0,
            delta=text,
        )
        return [*events, _event(delta)]

    def end(self, message: Message, reason: FinishReason) -> list[bytes]:
        """What remains of its items, and the response as it ended."""
        events = []
        for place, item in enumerate(items_of(Entry(message, 0))):
            match item.type:
                case "message":
                    events += self._end_message(item, place)
                case "function_call":
                    events += self._call(item, place)
            events.append(self._item("response.output_item.done", place, item.body))
        response = self._answer(message, reason)
        self.is_over = True
        return [*events, self._whole(_LAST_EVENTS.get(response.status, "response.incomplete"), response)]

    def break_off(self, message: str) -> list[bytes]:
        """Why nothing more comes."""
        self.is_over = True
        error = ResponseErrorEvent(
            type="error", sequence_number=self._next(), code="server_error", message=message, param=None
        )
        return [_event(error)]

    def _next(self) -> int:
        self._count += 1
        return self._count - 1

    def _whole(self, name: str, response: ModelResponse) -> bytes:
        return _event(ResponseEvent(type=name, sequence_number=self._next(), response=response))

    def _item(self, name: str, place: int, body: Raw) -> bytes:
        return _event(OutputItemEvent(type=name, sequence_number=self._next(), output_index=place, item=body))

    def _part(self, name: str, item: Item, place: int, part: Raw) -> bytes:
        event = ContentPartEvent(
            type=name, sequence_number=self._next(), item_id=item.id, output_index=place, content_index=0, part=part
        )
        return _event(event)

    def _begin_message(self, item: Item, place: int) -> list[bytes]:
        self._is_said = True
        begun = _with(item.body, content=_NO_LIST, status=_IN_PROGRESS)
        added = self._item("response.output_item.added", place, begun)
        parts = [_with(part, text=_EMPTY_TEXT) for part in _parts_of(item)]
        return [added, *(self._part("response.content_part.added", item, place, part) for part in parts)]

    def _end_message(self, item: Item, place: int) -> list[bytes]:
        events = [] if self._is_said else self._begin_message(item, place)
        for part in _parts_of(item):
            done = OutputTextDone(
                type="response.output_text.done",
                logprobs=[],
                sequence_number=self._next(),
                item_id=item.id,
                output_index=place,
                content_index=0,
                text=members_of(part).get("text", _EMPTY_TEXT),
            )
            events += [_event(done), self._part("response.content_part.done", item, place, part)]
        return events

    def _call(self, item: Item, place: int) -> list[bytes]:
        arguments = members_of(item.body)["arguments"]
        begun = _with(item.body, arguments=_EMPTY_TEXT, status=_IN_PROGRESS)
        added = self._item("response.output_item.added", place, begun)
        delta = ArgumentsDelta(
            type="response.function_call_arguments.delta",
            sequence_number=self._next(),
            item_id=item.id,
            output_index=place,
            delta=arguments,
        )
        done = ArgumentsDone(
            type="response.function_call_arguments.done",
            sequence_number=self._next(),
            item_id=item.id,
            output_index=place,
            arguments=arguments,
        )
        return [added, _event(delta), _event(done)]


def _event(event: Struct) -> bytes:
    data = _encode(event)
    name: str = getattr(event, "type", "")
    return sse.event(name, data)


def _with(body: Raw, **members: Raw) -> Raw:
    """An object with other values of some of its members."""
    return Raw(_encode({**members_of(body), **members}))


def _parts_of(item: Item) -> list[Raw]:
    """The one part of a reply's message."""
    return elements_of(members_of(item.body).get("content"))[:1]
