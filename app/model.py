"""The model that answers: any server of OpenAI's Chat Completions, or without one a built-in responder."""

import asyncio
import json
import logging
import math
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Protocol

import httpx
import msgspec
from msgspec import Raw, Struct

from app.errors import DomainError, ModelFailed, ModelRefused, ModelUnavailable
from app.model_stream import AnswerReader, Finish, text_of, without_surrogates
from app.settings import Settings

__all__ = ["Finish", "Model", "ModelRequest", "TextDelta", "model_of"]

MAX_CONNECTIONS = 256
PAUSES = (0.25, 1.0)  # before the second and the third time
MAX_PAUSE_SECONDS = 10
MAX_RETRY_AFTER_SECONDS = 86_400
ECHO_PAUSE_SECONDS = 0.03
ECHO_PIECES = 60

_PASSING = {408, 429, 500, 502, 503, 504, 529}  # 529: overloaded, at some
_MISCONFIGURED = {401, 402, 403, 404, 405, 407}
_UNREACHABLE = "the model server cannot be reached"
_SILENT = "the model server said nothing for too long"
_logger = logging.getLogger("verbatim.model")


class ModelRequest(Struct, kw_only=True, frozen=True):
    """What the model is asked: the bytes of Chat Completions, sent as they are."""

    messages: list[Raw]
    tools: Raw | None = None
    tool_choice: Raw | None = None
    max_output_tokens: int | None = None
    options: Mapping[str, Raw] = {}
    """Further members of the body."""


class TextDelta(Struct, frozen=True):
    """Text that is new: never empty, without surrogates."""

    text: str


Answer = AsyncGenerator[TextDelta | Finish, None]


class Model(Protocol):
    """Something that answers."""

    name: str

    def stream(self, request: ModelRequest) -> Answer:
        """The answer as it grows, and one Finish, last. Closed early, it leaves the model server at once.

        Raises ModelUnavailable, ModelRefused before anything came, ModelFailed at any time.
        """
        ...

    async def close(self) -> None:
        """Closes every connection."""
        ...


def model_of(settings: Settings) -> Model:
    """The model that the settings name, or the built-in responder. Raises SettingsError."""
    url = settings.parsed_model_url()
    return RemoteModel(url, settings) if url else EchoModel()


class _TurnedAway(Exception):
    """The server answered that it cannot, for now."""

    def __init__(self, status: int, retry_after_seconds: float | None) -> None:
        super().__init__()
        self.status, self.retry_after_seconds = status, retry_after_seconds


class RemoteModel:
    """A model behind a server of Chat Completions."""

    def __init__(self, base_url: str, settings: Settings) -> None:
        self.name = settings.model_name or ""
        self._url = httpx.URL(f"{base_url}/chat/completions")
        self._is_streamed = settings.model_stream
        self._max_output_tokens = settings.model_max_output_tokens
        headers = {
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",  # so that no small answer unpacks into a large one
            "Content-Type": "application/json",
            "User-Agent": "verbatim",
        }
        if key := settings.read_model_api_key():
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=settings.model_timeout_seconds,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=20, keepalive_expiry=30),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # conversations share nothing
            follow_redirects=False,
            trust_env=False,
        )

    async def stream(self, request: ModelRequest) -> Answer:
        """The server's answer."""
        reader = AnswerReader()
        try:
            async with aclosing(self._ask(self._body(request))) as chunks:
                while chunk := await _next(chunks, reader):
                    if reader.is_done:
                        break
                    for text in reader.feed(chunk):
                        yield TextDelta(text)
            for text in reader.end():
                yield TextDelta(text)
        except DomainError as error:
            _logger.warning("no answer", extra={"fields": {"error": type(error).__name__, "detail": error.detail}})
            raise
        yield reader.finish()

    async def close(self) -> None:
        """Closes every connection."""
        await self._client.aclose()

    def _body(self, request: ModelRequest) -> bytes:
        members: dict[str, object] = {
            **request.options,
            "model": self.name,
            "messages": request.messages,
            "tools": request.tools,
            "tool_choice": request.tool_choice,
            # Not `max_completion_tokens`, which is OpenAI's alone: others ignore it, or refuse what they do not know.
            "max_tokens": request.max_output_tokens or self._max_output_tokens,
            "stream": self._is_streamed,
            "stream_options": {"include_usage": True} if self._is_streamed else None,
        }
        return msgspec.json.encode({name: value for name, value in members.items() if value is not None})

    async def _ask(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """The bytes of an answer. Until the first has come the server is asked again, and afterwards never."""
        for pause in (*PAUSES, None):
            has_come = False
            try:
                async with aclosing(self._try(body)) as chunks:
                    async for chunk in chunks:
                        has_come = True
                        yield chunk
            except httpx.TimeoutException as error:
                detail = _SILENT if isinstance(error, httpx.ReadTimeout) else _UNREACHABLE
                raise (ModelFailed(detail) if has_come else ModelUnavailable(detail)) from None
            except httpx.TransportError:
                if has_come:
                    raise ModelFailed("the model server broke off") from None
                failure, asked = ModelUnavailable(_UNREACHABLE), 0.0
            except _TurnedAway as error:
                asked = error.retry_after_seconds or 0
                failure = ModelUnavailable(f"the model server answered {error.status}", max(1, math.ceil(asked)))
            else:
                return
            if pause is None or asked > MAX_PAUSE_SECONDS:
                raise failure
            await asyncio.sleep(max(pause, asked))

    async def _try(self, body: bytes) -> AsyncGenerator[bytes, None]:
        async with self._client.stream("POST", self._url, content=body) as response:
            _check(response)
            async for chunk in response.aiter_raw():
                yield chunk


def _check(response: httpx.Response) -> None:
    status = response.status_code
    answered = f"the model server answered {status}"
    if response.is_success:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ModelFailed("the answer of the model server is compressed")
    elif status in _PASSING:
        raise _TurnedAway(status, _retry_after(response.headers.get("retry-after", "")))
    elif response.is_server_error:
        raise ModelUnavailable(answered)
    elif response.is_client_error and status not in _MISCONFIGURED:
        raise ModelRefused(answered)
    else:
        raise ModelFailed(answered)


def _retry_after(text: str) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110 §10.2.3), None for none and for nonsense."""
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text, re.ASCII):
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


async def _next(chunks: AsyncGenerator[bytes, None], reader: AnswerReader) -> bytes:
    """The next bytes; none at the end, and where what could come does not matter enough to wait or to fail."""
    patience_seconds = reader.patience_seconds
    try:
        async with asyncio.timeout(patience_seconds):
            return await anext(chunks, b"")
    except (TimeoutError, ModelFailed):
        if patience_seconds is None:
            raise
        return b""


class EchoModel:
    """The built-in responder: it says that there is no model, and what it was told."""

    name = "echo"

    async def stream(self, request: ModelRequest) -> Answer:
        """The last text of the user, piece by piece, in at most about two seconds."""
        text = f"No model is configured. You said: {_last_user_text(request.messages)}"
        words = re.findall(r"\s*\S+|\s+", text)
        size = math.ceil(len(words) / ECHO_PIECES)
        for start in range(0, len(words), size):
            if start:
                await asyncio.sleep(ECHO_PAUSE_SECONDS)
            yield TextDelta("".join(words[start : start + size]))
        yield Finish(reason="stop", tool_calls=None, usage=None, model=self.name)

    async def close(self) -> None:
        """Does nothing: there are no connections."""


def _last_user_text(messages: list[Raw]) -> str:
    for raw in reversed(messages):
        try:
            message: object = json.loads(bytes(raw))
        except (ValueError, RecursionError):
            continue
        match message:
            case {"role": "user", "content": content}:
                return without_surrogates(text_of(content))
    return ""
