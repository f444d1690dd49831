"""What a model is asked, and how it is listened to: the same whether or not its answer is kept."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

import msgspec
from msgspec import Raw, Struct

from app.errors import ContextExceeded, ModelFailed, ModelRefused, ModelUnavailable, NotFound
from app.logs import log_broken
from app.model import Finish, Model, ModelRequest, TextDelta
from app.settings import Settings
from app.stores.replies import Ending
from app.wire.context import Context, ContextQuery
from app.wire.replies import FinishReason

_BYTES_OF_A_TOKEN = 4  # as a context estimates them
_FAILURES: dict[type[Exception], FinishReason] = {
    ModelUnavailable: "model-unavailable",
    ModelFailed: "model-failed",
    ModelRefused: "model-refused",
    ContextExceeded: "context-exceeded",
    TimeoutError: "timeout",
    NotFound: "cancelled",  # the conversation is gone
}
_logger = logging.getLogger("verbatim.asking")


class Asked(Struct, kw_only=True, frozen=True):
    """What the model is asked beyond the conversation."""

    instructions: str | None = None
    tools: Raw | None = None
    tool_choice: Raw | None = None
    max_output_tokens: int | None = None
    options: Mapping[str, Raw] = {}
    """Further members of the model server's request."""


async def request_of(
    settings: Settings, asked: Asked, read_context: Callable[[ContextQuery], Awaitable[Context]]
) -> ModelRequest:
    """The model's request, with as much of the conversation as fits. Raises ContextExceeded and what reading raises."""
    instructions = settings.model_system_prompt if asked.instructions is None else asked.instructions
    before = [Raw(msgspec.json.encode({"role": "system", "content": instructions}))] if instructions else []
    spent = sum(len(bytes(raw)) for raw in (*before, asked.tools or b"")) // _BYTES_OF_A_TOKEN
    max_tokens = max(1, settings.model_context_tokens - spent)
    context = await read_context(ContextQuery(max_tokens=max_tokens, format="openai", complete=True))
    if context.through_seq is None and context.cut is not None:
        raise ContextExceeded
    if not context.messages:
        raise ModelRefused("the conversation says nothing that a model could reply to")
    return ModelRequest(
        messages=[*before, *(Raw(msgspec.json.encode(message)) for message in context.messages)],
        tools=asked.tools,
        tool_choice=asked.tool_choice,
        max_output_tokens=asked.max_output_tokens,
        options=asked.options,
    )


async def listen(model: Model, request: ModelRequest, limit_bytes: int, take: Callable[[str], None]) -> Finish:
    """How the answer ended; its text is given to `take` as it grows, and ends where it exceeds a message's limit.

    Raises what the model raises.
    """
    text_bytes = 0
    async with aclosing(model.stream(request)) as pieces:
        async for piece in pieces:
            match piece:
                case TextDelta(text=text):
                    take(text)
                    text_bytes += len(text.encode())
                    if text_bytes > limit_bytes:
                        return Finish(reason="length", tool_calls=None, usage=None, model=None)
                case Finish():
                    return piece
    raise ModelFailed


async def ending_of(listening: asyncio.Task[Finish], texts: Sequence[str]) -> Ending:
    """How a reply ended to which this task listened, once it has; `texts` is what it has said by then."""
    try:
        finish = await listening
    except asyncio.CancelledError:
        return Ending("lost", "".join(texts))
    except Exception as error:  # noqa: BLE001  # each is an end
        reason = _FAILURES.get(type(error), "internal-error")
        if reason == "internal-error":
            log_broken(_logger, error)
        return Ending(reason, "".join(texts))
    return Ending(finish.reason, "".join(texts), finish.tool_calls, finish.usage, finish.model)
