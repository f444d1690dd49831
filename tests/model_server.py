"""A scripted server of Chat Completions on a loopback socket, in a thread of its own.

    with model_server() as model:
        model.answers(text_steps("Hello", " world"), [Drop()])  # the next request, and the one after it
        ...                                                     # ask model.url
        assert model.requests[0].json["messages"] == ...

A script is a list of steps, one script for each request, in the order they were queued. Steps:

    Head(status, headers)   a head; a script that sends without one gets 200 and text/event-stream
    Send(bytes)             a piece of the body, as a chunk of its own
    Wait(seconds)           silence
    Hang()                  silence until `model.release()`, or until the client leaves
    Drop()                  the connection is reset (RST)
    Close()                 the connection is closed without an end of the body (FIN)

At the end of a script the body ends as it should, and the connection is kept for the next request. Scripts come from
`text_steps`, `call_steps`, `json_steps`, `status_steps`, or are put together from `Send(event(...))`.

A request for which nothing is queued is answered with `default_words(its last message's content, model.word_count)`,
one word each `model.word_delay_seconds`, streamed or whole as it asks: the same for the same question.
"""

import asyncio
import json
import math
import socket
import struct
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

DONE = b"data: [DONE]\n\n"
_NAMES = ("ada", "bob", "cat", "dot", "elf", "fig", "gem", "hut", "ivy", "jar", "kit", "log", "map", "nut", "oak", "pi")


@dataclass(frozen=True)
class Head:
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})


@dataclass(frozen=True)
class Send:
    data: bytes


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Hang:
    pass


@dataclass(frozen=True)
class Drop:
    pass


@dataclass(frozen=True)
class Close:
    pass


Step = Head | Send | Wait | Hang | Drop | Close


@dataclass(frozen=True)
class Recorded:
    """A request as it came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """The number of the connection it came by, from 1."""
    sent: list[tuple[float, bytes]] = field(default_factory=list)
    """What its answer has said so far, and when (`time.time()`)."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def said(self, until: float = math.inf) -> str:
        """The text that had been sent by a time, as far as its events were whole."""
        data = b"".join(data for sent_at, data in self.sent if sent_at <= until)
        events = [json.loads(event[6:]) for event in data.split(b"\n\n")[:-1] if event != DONE.strip()]
        return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def event(payload: object) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(payload)}\n\n".encode()


def chunk(delta: dict[str, object] | None = None, finish_reason: str | None = None, **members: object) -> bytes:
    """An event with one choice: `chunk({"content": "Hello"})`."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return event({"object": "chat.completion.chunk", "model": "scripted-1", "choices": [choice], **members})


def text_steps(
    *texts: str, reason: str = "stop", usage: dict[str, int] | None = None, delay_seconds: float = 0
) -> list[Step]:
    """A streamed answer, each text in a delta of its own; without a delay they are sent at once."""
    before, after = chunk({"content": "?"}).split(b'"?"')  # a hundred thousand of them are quickly made
    pieces = [chunk({"role": "assistant", "content": ""})]
    pieces += [before + json.dumps(text).encode() + after for text in texts]
    end = chunk(finish_reason=reason)
    if usage is not None:
        end += event({"choices": [], "usage": usage})
    if not delay_seconds:
        return [Send(b"".join([*pieces, end, DONE]))]
    steps: list[Step] = []
    for piece in pieces:
        steps += [Send(piece), Wait(delay_seconds)]
    return [*steps, Send(end + DONE)]


def call_steps(*fragments: dict[str, object] | list[dict[str, object]], reason: str = "tool_calls") -> list[Step]:
    """A streamed answer that calls tools, each fragment (or list of fragments) in a delta of its own."""
    deltas = [{"tool_calls": part if isinstance(part, list) else [part]} for part in fragments]
    return [*(Send(chunk(dict(delta))) for delta in deltas), Send(chunk(finish_reason=reason) + DONE)]


def json_steps(payload: object, content_type: str = "application/json") -> list[Step]:
    """A body of JSON; of a completion: `json_steps(completion("Hello"))`."""
    return [Head(200, {"Content-Type": content_type}), Send(json.dumps(payload).encode())]


def completion(content: str | None = None, *, reason: str = "stop", **members: object) -> dict[str, object]:
    """A whole completion; `members` are those of its message."""
    message = {"role": "assistant", "content": content, **members}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {"object": "chat.completion", "model": "scripted-1", "choices": [choice], "usage": usage}


def status_steps(status: int, retry_after: object = None, text: str = "no") -> list[Step]:
    """An answer that is an error, with a Retry-After when one is given."""
    headers = {"Content-Type": "application/json"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return [Head(status, headers), Send(json.dumps({"error": {"message": text}}).encode())]


def default_words(content: object, count: int) -> list[str]:
    """The words with which a content is answered when nothing is queued; joined they are the text."""
    seed = sha256(json.dumps(content).encode()).digest()
    names = [_NAMES[(seed[place % 32] + place) % 16] for place in range(count)]
    return [f"{name}{place} " for place, name in enumerate(names)]


class ModelServer:
    def __init__(self) -> None:
        self.word_count = 20
        self.word_delay_seconds = 0.0
        self.requests: list[Recorded] = []
        self.connection_count = 0
        """How many were ever opened."""
        self.open_count = 0
        """How many are open now."""
        self.port = 0
        self._scripts: deque[list[Step]] = deque()
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For VERBATIM_MODEL_BASE_URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def answers(self, *scripts: list[Step]) -> None:
        """Queues a script for each of the next requests."""
        self._scripts.extend(scripts)

    def release(self) -> None:
        """Lets everything go on that hangs, and whatever would hang later."""
        self._loop.call_soon_threadsafe(self._released.set)

    def hold(self) -> None:
        """Lets hang again what hangs from now on."""
        self._loop.call_soon_threadsafe(self._released.clear)

    async def _serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stopped.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connection_count += 1
        task = self._loop.create_task(self._converse(reader, writer, self.connection_count))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: StreamReader, writer: StreamWriter, connection: int) -> None:
        self.open_count += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    request = await _read_request(reader, connection)
                    self.requests.append(request)
                    script = self._scripts.popleft() if self._scripts else self._default(request)
                    if not await self._play(script, request, reader, writer):
                        return
        finally:
            self.open_count -= 1
            writer.close()

    def _default(self, request: Recorded) -> list[Step]:
        words = default_words(request.json["messages"][-1].get("content"), self.word_count)
        if request.json.get("stream"):
            usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": len(words) + 1}
            return text_steps(*words, usage=usage, delay_seconds=self.word_delay_seconds)
        return [Wait(self.word_delay_seconds * len(words)), *json_steps(completion("".join(words)))]

    async def _play(self, script: list[Step], request: Recorded, reader: StreamReader, writer: StreamWriter) -> bool:
        """Whether the connection goes on. It ends at once where the client leaves."""
        left = asyncio.ensure_future(_wait_for_end(reader, writer))
        played = asyncio.ensure_future(self._play_steps(script, request, writer))
        try:
            await asyncio.wait({left, played}, return_when=asyncio.FIRST_COMPLETED)
            return played.done() and played.result()
        finally:
            for task in (left, played):
                task.cancel()
            await asyncio.gather(left, played, return_exceptions=True)

    async def _play_steps(self, script: list[Step], request: Recorded, writer: StreamWriter) -> bool:
        head: Head | None = None
        for step in script:
            if isinstance(step, Head) or (head is None and isinstance(step, Send)):
                head = step if isinstance(step, Head) else Head()
                writer.write(_render_head(head))
            match step:
                case Send(data):
                    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                    request.sent.append((time.time(), data))
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                case Hang():
                    await self._released.wait()
                case Drop():
                    await asyncio.sleep(0.01)  # what was sent is on its way
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    return False
                case Close():
                    return False
            await writer.drain()
        if head and _has_body(head):
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def _has_body(head: Head) -> bool:
    return head.status not in {204, 304}


def _render_head(head: Head) -> bytes:
    headers = {**head.headers, **({"Transfer-Encoding": "chunked"} if _has_body(head) else {})}
    lines = [f"HTTP/1.1 {head.status} Scripted", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


async def _wait_for_end(reader: StreamReader, writer: StreamWriter) -> None:
    while not reader.at_eof() and not writer.is_closing():  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0.005)  # a read would take the first byte of the next request


async def _read_request(reader: StreamReader, connection: int) -> Recorded:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = line.split(" ")
    return Recorded(method, path, headers, body, connection)


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """A server that answers by the default script until it is given others."""
    server = ModelServer()
    started = threading.Event()
    thread = threading.Thread(target=server._loop.run_until_complete, args=(server._serve(started),))
    thread.start()
    try:
        started.wait(10)
        yield server
    finally:
        server._loop.call_soon_threadsafe(server._stopped.set)
        thread.join()
        server._loop.close()
