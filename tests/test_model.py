import asyncio
import json
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from app import model as model_module
from app import model_stream
from app.errors import DomainError, ModelFailed, ModelRefused, ModelUnavailable
from app.model import EchoModel, Finish, Model, ModelRequest, TextDelta, model_of
from app.model_stream import AnswerReader, EventParser
from app.problems import PROBLEMS, render_problem
from app.settings import Settings, SettingsError, read_settings
from tests.model_server import (
    DONE,
    Close,
    Drop,
    Hang,
    Head,
    ModelServer,
    Send,
    Step,
    Wait,
    call_steps,
    chunk,
    completion,
    default_words,
    event,
    json_steps,
    model_server,
    status_steps,
    text_steps,
)

SECRET = "sk-hunter2"
HELLO = ModelRequest(messages=[Raw(b'{"role": "user", "content": "Hello"}')])


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def server(shared_server: ModelServer) -> Iterator[ModelServer]:
    shared_server.requests.clear()
    yield shared_server
    assert not shared_server._scripts, "the test queued more than was asked for"


def configured(url: str, **settings: Any) -> Model:
    return model_of(Settings(model_base_url=url, model_name="gpt-test", **settings))


@pytest.fixture(scope="module")
async def model(shared_server: ModelServer) -> AsyncIterator[Model]:
    model = configured(shared_server.url, model_timeout_seconds=0.3)
    yield model
    await model.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes time."""
    made: list[float] = []

    async def pause(seconds: float) -> None:
        made.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(model_module, "asyncio", SimpleNamespace(sleep=pause, timeout=asyncio.timeout))
    return made


async def answer(model: Model, request: ModelRequest = HELLO) -> tuple[str, Finish]:
    """The text and the end, having checked that an answer looks as it must."""
    *deltas, finish = [part async for part in model.stream(request)]
    texts = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
    assert len(texts) == len(deltas)
    assert all(texts)
    assert isinstance(finish, Finish)
    return "".join(texts), finish


async def failure(model: Model) -> tuple[str, DomainError]:
    """What came before it failed, and how."""
    texts = []
    try:
        async for part in model.stream(HELLO):
            assert isinstance(part, TextDelta)
            texts.append(part.text)
    except DomainError as error:
        return "".join(texts), error
    raise AssertionError("it did not fail")


def calls(finish: Finish) -> list[tuple[str, str, str]]:
    return [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in json.loads(finish.tool_calls or b"[]")
    ]


def read(*chunks: bytes) -> tuple[str, Finish]:
    """What a reader makes of the bytes of an answer."""
    reader, texts = AnswerReader(), []
    for part in chunks:
        texts += list(reader.feed(part))
        if reader.is_done:
            break
    texts += list(reader.end())
    return "".join(texts), reader.finish()


# What is asked


async def test_a_request_holds_the_bytes_that_were_given(model: Model, server: ModelServer) -> None:
    message = b'{"role":"user", "content":"\\u0000 \\u00e9", "x":1e400, "x":0.10}'
    tools, choice = b'[ {"type":"function","function":{"name":"f"}} ]', b' "auto"'
    await answer(
        model, ModelRequest(messages=[Raw(message)], tools=Raw(tools), tool_choice=Raw(choice), max_output_tokens=7)
    )
    (request,) = server.requests
    for given_bytes in (message, tools, choice):
        assert given_bytes in request.body
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    body = request.json
    assert (body["model"], body["max_tokens"], body["stream"]) == ("gpt-test", 7, True)
    assert body["stream_options"] == {"include_usage": True}


async def test_what_is_not_given_is_not_sent(model: Model, server: ModelServer) -> None:
    await answer(model)
    (request,) = server.requests
    assert set(request.json) == {"model", "messages", "stream", "stream_options"}
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers
    assert request.headers["accept-encoding"] == "identity"


async def test_settings_say_how_much_may_be_said_and_whether_it_is_streamed(server: ModelServer) -> None:
    model = configured(f"{server.url}/", model_stream=False, model_max_output_tokens=9)
    text, finish = await answer(model)
    await model.close()
    (request,) = server.requests
    assert (request.path, request.json["max_tokens"], request.json["stream"]) == ("/v1/chat/completions", 9, False)
    assert "stream_options" not in request.json
    assert text == "".join(default_words("Hello", 20))
    assert finish.usage == b'{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}'


async def test_connections_are_used_again(model: Model, server: ModelServer) -> None:
    for _ in range(5):
        await answer(model)
    assert len({request.connection for request in server.requests}) == 1


async def test_the_server_s_cookies_are_not_kept(model: Model, server: ModelServer) -> None:
    headers = {"Content-Type": "text/event-stream", "Set-Cookie": "who=alice; Path=/"}
    server.answers([Head(200, headers), *text_steps("a")])
    await answer(model)
    await answer(model)
    assert "cookie" not in server.requests[1].headers


async def test_the_environment_s_proxies_are_not_asked(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    model = configured(server.url)
    assert (await answer(model))[0]
    await model.close()


# The key


@pytest.mark.parametrize("status", [401, 400, 503])
async def test_the_key_is_sent_and_never_told(
    server: ModelServer, caplog: pytest.LogCaptureFixture, pauses: list[float], status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings(model_base_url=server.url, model_name="gpt-test", model_api_key=SECRET)
    model = model_of(settings)
    script = status_steps(status, text=f"your key {SECRET} and your words: Hello")
    server.answers(*[script] * (3 if status == 503 else 1))
    _, error = await failure(model)
    await model.close()
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {SECRET}"}
    rendered = render_problem(error, "request").body.decode()
    logged = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("verbatim"))
    assert f"answered {status}" in rendered
    assert f"answered {status}" in logged
    for told in (repr(settings), repr(model), repr(error), str(error), rendered, caplog.text, logged):
        assert SECRET not in told
        assert "your words" not in told
    assert len(pauses) == (2 if status == 503 else 0)


async def test_the_key_may_lie_in_a_file(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    model = configured(server.url, model_api_key_file=tmp_path / "key")
    await answer(model)
    await model.close()
    assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"


# Settings


URL = {"VERBATIM_MODEL_BASE_URL": "https://models.example/v1", "VERBATIM_MODEL_NAME": "m"}


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(variables)
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "models.example/v1",
        "ftp://models.example/v1",
        f"https://me:{SECRET}@models.example/v1",
        f"https://models.example/v1?key={SECRET}",
        f"https://models.example/v1#{SECRET}",
        f"https:///{SECRET}",
        f"https://models.example:99999/{SECRET}",
        f"https://models.example/{SECRET}\n",
        f"https://models example/{SECRET}",
    ],
)
def test_a_base_url_of_another_form_is_refused_and_not_shown(url: str) -> None:
    message = refusal(**URL | {"VERBATIM_MODEL_BASE_URL": url})
    assert message.startswith("VERBATIM_MODEL_BASE_URL must be ")
    assert SECRET not in message


@pytest.mark.parametrize("name", sorted(URL))
def test_url_and_name_go_together(name: str) -> None:
    assert "must be set together" in refusal(**URL | {name: ""})


def test_a_key_needs_a_server_comes_once_and_can_be_sent(tmp_path: Path) -> None:
    assert "VERBATIM_MODEL_API_KEY" in refusal(VERBATIM_MODEL_API_KEY=SECRET)
    assert "only one of" in refusal(**URL, VERBATIM_MODEL_API_KEY=SECRET, VERBATIM_MODEL_API_KEY_FILE="key")
    for key in (f"{SECRET} x", f"{SECRET}\nx", f"{SECRET}é"):
        message = refusal(**URL, VERBATIM_MODEL_API_KEY=key)
        assert message == "VERBATIM_MODEL_API_KEY must hold visible ASCII characters alone"
    message = refusal(**URL, VERBATIM_MODEL_API_KEY_FILE=str(tmp_path))
    assert message == "VERBATIM_MODEL_API_KEY_FILE cannot be read: Is a directory"
    (tmp_path / "key").write_text("")
    assert "VERBATIM_MODEL_API_KEY_FILE" in refusal(**URL, VERBATIM_MODEL_API_KEY_FILE=str(tmp_path / "key"))


def test_settings_shown_say_what_is_set_and_no_value() -> None:
    settings = read_settings(
        URL | {"VERBATIM_MODEL_API_KEY": SECRET, "DATABASE_URL": f"postgresql://a:{SECRET}@localhost/b"}
    )
    assert repr(settings) == "Settings(database_url, model_base_url, model_name, model_api_key)"


# Answers


async def test_text_comes_as_it_grows(model: Model, server: ModelServer) -> None:
    server.answers([Send(chunk({"content": "Hel"})), Hang(), Send(chunk({"content": "lo"}, "stop") + DONE)])
    async with aclosing(model.stream(HELLO)) as parts:
        assert await anext(parts) == TextDelta("Hel")
        server.release()
        assert await anext(parts) == TextDelta("lo")
        finish = await anext(parts)
        assert finish == Finish(reason="stop", tool_calls=None, usage=None, model="scripted-1")
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
    server._released.clear()


async def test_an_answer_ends_with_its_usage_as_it_came(model: Model, server: ModelServer) -> None:
    usage = b'{"prompt_tokens" : 1.0, "x":1e400,"x":[ ]}'
    late = b'data: {"choices": [], "usage": ' + usage + b"}\n\n"
    server.answers([Send(chunk({"content": "a"}, usage=None) + chunk(finish_reason="stop")), Send(late + DONE)])
    _, finish = await answer(model)
    assert finish.usage == usage


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/plain; charset=utf-8"])
async def test_a_server_that_answers_whole_is_understood(model: Model, server: ModelServer, content_type: str) -> None:
    server.answers(json_steps(completion("Hello\0 there"), content_type))
    text, finish = await answer(model)
    assert (text, finish.reason, finish.model) == ("Hello\0 there", "stop", "scripted-1")
    assert finish.usage == b'{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}'


@pytest.mark.parametrize(
    ("given_reason", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "filter"),
        ("tool_calls", "stop"),  # without any call
        ("eos", "stop"),
    ],
)
def test_reasons_to_finish(given_reason: str, reason: str) -> None:
    body = chunk({"content": "a"}) + chunk(finish_reason=given_reason)
    assert read(body + DONE)[1].reason == reason
    assert read(body)[1].reason == reason
    assert read(json.dumps(completion("a", reason=given_reason)).encode())[1].reason == reason


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        ({"content": None}, ""),
        ({}, ""),
        ({"content": ""}, ""),
        ({"content": None, "refusal": "I will not."}, "I will not."),
        ({"content": None, "reasoning_content": "Hm."}, ""),
        ({"content": [THOUGHT, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
    ],
)
def test_what_counts_as_text(delta: dict[str, object], text: str) -> None:
    assert read(chunk(delta) + chunk({"content": "!"}, "stop"))[0] == f"{text}!"
    assert read(json.dumps(completion(**delta)).encode())[0] == text  # type: ignore[arg-type]


def test_only_the_first_choice_counts() -> None:
    no = {"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}
    yes = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
    assert read(event({"choices": [no, yes]}) + event({"choices": [no]}))[0] == "yes"


def test_events_without_choices_are_let_by() -> None:
    odd = event({}) + event({"choices": None, "error": None}) + event({"choices": [{"index": 0}]})
    assert read(odd + chunk({"content": "a"}, "stop"))[0] == "a"


def test_a_model_s_name_is_cut_to_what_can_be_kept() -> None:
    assert read(chunk({"content": "a"}, "stop", model="\0" + "m" * 200))[1].model == "m" * 128
    assert read(chunk({"content": "a"}, "stop", model=""))[1].model is None
    assert read(chunk({"content": "a"}, "stop", model="\ud83d"))[1].model == "�"


@pytest.mark.parametrize("usage", ['"much"', "[1]", "null", '{"x": "' + "a" * 70_000 + '"}'])
def test_a_usage_that_is_none_is_left_out(usage: str) -> None:
    assert read(f'data: {{"usage": {usage}}}\n\n'.encode() + chunk({}, "stop"))[1].usage is None


# Characters


def test_pairs_split_between_deltas_are_joined_and_halves_replaced() -> None:
    pieces = ["a\ud83d", "\ude00b", "\ude00", "c\ud83d", "d", "\ud83d\ude00", "\ud83d"]
    text, _ = read(b"".join(chunk({"content": piece}) for piece in pieces) + chunk(finish_reason="stop"))
    assert text == "a😀b�c�d😀�"


async def test_no_delta_holds_half_a_character(model: Model, server: ModelServer) -> None:
    server.answers(text_steps("\ud83d", "\ude00", "\0", "\ud83d"))
    parts = [part.text async for part in model.stream(HELLO) if isinstance(part, TextDelta)]
    assert parts == ["😀", "\0", "�"]


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    assert read(b'data: {"choices":[{"delta":{"content":"a\xff"},"finish_reason":"stop"}]}\n\n')[0] == "a�"


# Tool calls


def fragment(**members: object) -> dict[str, object]:
    function = {name: members.pop(name) for name in ("name", "arguments") if name in members}
    return {**members, **({"function": function} if function else {})}


WEATHER = '{"city":\n "K\\u00f6ln", "x": 1e400}'
FRAGMENTS: dict[str, list[Any]] = {
    "as OpenAI sends them": [
        fragment(index=0, id="c1", type="function", name="weather", arguments=""),
        fragment(index=0, arguments=WEATHER[:9]),
        fragment(index=0, arguments=WEATHER[9:]),
        fragment(index=1, id="c2", type="function", name="time", arguments=""),
        fragment(index=1, arguments="{}"),
    ],
    "between each other": [
        [fragment(index=0, id="c1", name="weather"), fragment(index=1, id="c2", name="time")],
        fragment(index=0, arguments=WEATHER[:3]),
        fragment(index=1, arguments="{"),
        fragment(index=0, arguments=WEATHER[3:]),
        fragment(index=1, arguments="}"),
    ],
    "whole, without index": [
        [fragment(id="c1", name="weather", arguments=WEATHER), fragment(id="c2", name="time", arguments="{}")]
    ],
    "whole, each with the index 0": [
        fragment(index=0, id="c1", name="weather", arguments=WEATHER),
        fragment(index=0, id="c2", name="time", arguments="{}"),
    ],
    "id and name with each fragment": [
        fragment(index=0, id="c1", name="weather", arguments=WEATHER[:5]),
        fragment(index=0, id="c1", name="weather", arguments=WEATHER[5:]),
        fragment(index=1, id="c2", name="time", arguments="{"),
        fragment(index=1, id="c2", name="time", arguments="}"),
    ],
    "another id with each fragment": [
        fragment(index=0, id="c1", name="weather"),
        fragment(index=0, id="r2", arguments=WEATHER),
        fragment(index=1, id="c2", name="time"),
        fragment(index=1, id="r4", arguments="{}"),
    ],
    "only the first fragment has the id": [
        fragment(id="c1", name="weather", arguments=""),
        fragment(arguments=WEATHER[:5]),
        fragment(arguments=WEATHER[5:]),
        fragment(id="c2", name="time", arguments="{}"),
    ],
    "names in pieces": [
        fragment(index=0, id="c1", name="wea"),
        fragment(index=0, name="ther"),
        fragment(index=0, arguments=WEATHER),
        fragment(index=1, id="c2", name="ti"),
        fragment(index=1, name="me", arguments="{}"),
    ],
    "arguments that are an object": [
        fragment(index=0, id="c1", name="weather", arguments=WEATHER),
        fragment(index=1, id="c2", name="time", arguments={}),
    ],
}


@pytest.mark.parametrize("kind", FRAGMENTS)
async def test_calls_are_put_together(model: Model, server: ModelServer, kind: str) -> None:
    server.answers(call_steps(*FRAGMENTS[kind]))
    text, finish = await answer(model)
    assert (text, finish.reason) == ("", "tool_calls")
    assert calls(finish) == [("c1", "weather", WEATHER), ("c2", "time", "{}")]
    assert all(call["type"] == "function" for call in json.loads(finish.tool_calls or b""))


def test_calls_of_a_whole_answer_are_told_apart_without_ids() -> None:
    message = completion(None, tool_calls=[fragment(name="f", arguments="{}"), fragment(name="f", arguments="{}")])
    first, second = calls(read(json.dumps(message).encode())[1])
    assert first[1:] == second[1:] == ("f", "{}")
    assert first[0] != second[0]


def test_calls_without_ids_and_indexes_begin_with_their_names() -> None:
    parts = [fragment(name="f"), fragment(arguments="{"), fragment(arguments="}"), fragment(name="g", arguments="[]")]
    told = calls(read(*(step.data for step in call_steps(*parts) if isinstance(step, Send)))[1])
    assert [call[1:] for call in told] == [("f", "{}"), ("g", "[]")]


def test_a_function_call_of_old_is_a_tool_call() -> None:
    pieces = [{"name": "f", "arguments": ""}, {"arguments": "{"}, {"arguments": "}"}]
    _, finish = read(b"".join(chunk({"function_call": piece}) for piece in pieces) + chunk({}, "function_call"))
    ((_, *told),) = calls(finish)
    assert (told, finish.reason) == (["f", "{}"], "tool_calls")


def test_calls_cut_short_are_kept_and_end_by_length() -> None:
    _, finish = read(chunk({"tool_calls": [fragment(index=0, id="c", name="f", arguments='{"a')]}), chunk({}, "length"))
    assert (calls(finish), finish.reason) == ([("c", "f", '{"a')], "length")


def test_a_pair_split_between_arguments_is_joined() -> None:
    parts = [fragment(index=0, id="c", name="f", arguments="\ud83d"), fragment(index=0, arguments="\ude00\ud83d\0")]
    _, finish = read(b"".join(chunk({"tool_calls": [part]}) for part in parts) + DONE)
    assert calls(finish) == [("c", "f", "😀�\0")]


def test_what_gemini_adds_to_a_call_is_kept() -> None:
    extra = {"google": {"thought_signature": "abc=="}}
    part = fragment(index=0, id="c", name="f", arguments="{}", extra_content=extra)
    (call,) = json.loads(read(chunk({"tool_calls": [part]}), DONE)[1].tool_calls or b"")
    assert call["extra_content"] == extra


def test_a_tool_of_an_unknown_type_is_no_answer() -> None:
    with pytest.raises(ModelFailed):
        read(chunk({"tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "f"}}]}))


# The parser


def stream_of(end: bytes) -> bytes:
    """A stream with all that events may have, lines ended by `end`."""
    lines = [": a comment", 'data: {"choices": [{"delta":', 'data:{"content": "Grüße 😀\\ud83d"}}]}', "", ""]
    lines += ["event: x", "", "id: 1", "retry: 5"]
    lines += ["data", 'data: {"choices": [{"delta": {"content": "\\ude00!"}}]}', "", ":", "data:", ""]
    lines += ['data: {"choices": [{"index": 0, "finish_reason": "stop"}], "usage": {"x": 1}}', ""]
    lines += ["data: [DONE]", "", "data: nothing that matters", "", ""]
    return "\n".join(lines).encode().replace(b"\n", end)


STREAMS = [bom + stream_of(end) for bom in (b"", b"\xef\xbb\xbf") for end in (b"\n", b"\r", b"\r\n")]
WHOLE = b"\xef\xbb\xbf \r\n" + json.dumps(completion("Grüße 😀"), ensure_ascii=False).encode() + b"\n"
EXPECTED = ("Grüße 😀😀!", Finish(reason="stop", tool_calls=None, usage=b'{"x": 1}', model=None))


@given(st.sampled_from([*STREAMS, WHOLE]), st.lists(st.integers(0, 500), max_size=40))
def test_however_the_bytes_are_split_the_answer_is_the_same(stream: bytes, places: list[int]) -> None:
    cuts = sorted({0, len(stream), *(place for place in places if place < len(stream))})
    told = read(*(stream[start:stop] for start, stop in pairwise(cuts)))
    assert told == (read(WHOLE) if stream is WHOLE else EXPECTED)


@pytest.mark.parametrize("stream", [*STREAMS, WHOLE])
def test_byte_by_byte_the_answer_is_the_same(stream: bytes) -> None:
    assert read(*(stream[place : place + 1] for place in range(len(stream)))) == read(stream)


@given(st.lists(st.sampled_from([b"data: a", b"data:b", b":c", b"", b"data", b"x: y"]), max_size=30), st.data())
def test_the_parser_does_what_the_standard_says(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + data.draw(st.sampled_from([b"\r\n", b"\n\n", b"\r\r", b"\n"])) for line in lines)
    expected, held = [], list[bytes]()
    for line in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        if line.startswith(b"data"):
            held.append(line.removeprefix(b"data").removeprefix(b":").removeprefix(b" "))
        elif not line:
            expected += [b"\n".join(held)] if b"\n".join(held) else []
            held = []
    size = data.draw(st.sampled_from([1, 2, 7]))
    parser = EventParser()
    told = [item for at in range(0, len(stream), size) for item in parser.feed(stream[at : at + size])]
    assert told == expected


def test_a_line_feed_behind_a_return_ends_no_second_line() -> None:
    parser = EventParser()
    told = [list(parser.feed(bytes([byte]))) for byte in b"data: a\r\n\ndata: b\r\n\r\n"]
    assert [data for events in told for data in events] == [b"a", b"b"]


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_530 + b"\n", b"data\n" * 60_000])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    parser = EventParser()

    def go_on() -> None:
        for _ in range(300):
            assert not list(parser.feed(piece))

    with pytest.raises(ModelFailed):
        go_on()


def test_comments_may_go_on_for_ever() -> None:
    parser = EventParser()
    for _ in range(300):
        assert not list(parser.feed(b":" + b" " * 65_536 + b"\n\n"))


def test_an_object_without_end_is_refused() -> None:
    with pytest.raises(ModelFailed):
        read(*[b"{" + b" " * 65_536] * 300)


# What goes wrong once it has begun


BEGUN = Send(chunk({"content": "Hello"}))
BREAKS: dict[str, list[Step]] = {
    "reset": [BEGUN, Drop()],
    "closed": [BEGUN, Close()],
    "ended without a reason": [BEGUN],
    "silent": [BEGUN, Wait(1)],
    "malformed JSON": [Send(chunk({"content": "Hello"}) + b'data: {"choices": [\n\n' + chunk(finish_reason="stop"))],
    "another type": [BEGUN, Send(event({"choices": [{"delta": {"tool_calls": "x"}}]}))],
    "a number": [BEGUN, Send(event(5))],
    "too deep": [BEGUN, Send(b'data: {"x": ' + b"[" * 100_000 + b"\n\n")],
    "an error": [Send(chunk({"content": "Hello"}) + event({"error": {"message": "overloaded"}}))],
    "an event cut off": [BEGUN, Send(b'data: {"choices": [{"finish_reason": "stop"}]}\n')],
}


@pytest.mark.parametrize("kind", BREAKS)
async def test_what_came_before_it_broke_is_told_and_nobody_asks_again(
    model: Model, server: ModelServer, kind: str
) -> None:
    server.answers(BREAKS[kind])
    text, error = await failure(model)
    assert text == "Hello"
    assert type(error) is ModelFailed
    assert "Hello" not in str(error.detail)
    assert "overloaded" not in str(error.detail)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "script",
    [
        [Head(200, {"Content-Type": "text/html"}), Send(b"<html>Sign in</html>")],
        [Head(200, {})],
        [Head(204, {})],
        json_steps({"error": {"message": "no"}}),
        json_steps({"choices": []}),
        json_steps([completion("a")]),
        [Head(200, {}), Send(json.dumps(completion("a")).encode()[:-5])],
        [Head(200, {"Content-Encoding": "gzip"}), *text_steps("a")],
    ],
)
async def test_what_is_no_answer_fails(model: Model, server: ModelServer, script: list[Step]) -> None:
    server.answers(script)
    text, error = await failure(model)
    assert (text, type(error)) == ("", ModelFailed)


@pytest.mark.parametrize("end", [[], [Drop()], [Close()], [Wait(0.5)], [Hang()]])
async def test_an_answer_that_gave_its_reason_is_whole(
    server: ModelServer, end: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_stream, "LAST_WAIT_SECONDS", 0.1)
    model = configured(server.url)
    server.answers([Send(chunk({"content": "Hello"}) + chunk(finish_reason="length")), *end])
    text, finish = await answer(model)
    await model.close()
    assert (text, finish.reason) == ("Hello", "length")


async def test_a_server_that_says_done_may_stay(server: ModelServer) -> None:
    model = configured(server.url)
    going_on = [Send(b": on and on\n\n" * 1000)] * 50
    server.answers([*text_steps("Hello"), Hang()], [*text_steps("Hello"), *going_on, Hang()])
    begun_at = time.monotonic()
    for _ in range(2):
        assert (await answer(model))[0] == "Hello"
    await model.close()
    assert time.monotonic() - begun_at < 1


async def test_comments_break_the_silence(model: Model, server: ModelServer) -> None:
    waiting = [step for _ in range(5) for step in (Wait(0.1), Send(b": wait\n\n"))]
    server.answers([Send(b": wait\n\n"), *waiting, *text_steps("Hello")])
    assert (await answer(model))[0] == "Hello"


# What goes wrong before it has begun


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_server_that_cannot_now_is_asked_again(
    model: Model, server: ModelServer, pauses: list[float], status: int
) -> None:
    server.answers(status_steps(status), status_steps(status), text_steps("Hello"))
    assert (await answer(model))[0] == "Hello"
    assert pauses == [0.25, 1]
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("script", [[Drop()], [Close()], [Head(), Drop()], [Head(), Close()]])
async def test_a_connection_that_breaks_before_anything_came_is_made_again(
    model: Model, server: ModelServer, pauses: list[float], script: list[Step]
) -> None:
    server.answers(script, script, text_steps("Hello"))
    assert (await answer(model))[0] == "Hello"
    assert pauses == [0.25, 1]


async def test_the_third_time_is_the_last(model: Model, server: ModelServer, pauses: list[float]) -> None:
    server.answers(*[status_steps(503)] * 3)
    _, error = await failure(model)
    assert isinstance(error, ModelUnavailable)
    assert (error.detail, error.retry_after_seconds) == ("the model server answered 503", 1)
    assert pauses == [0.25, 1]


async def test_a_server_that_is_not_there_is_unavailable(pauses: list[float]) -> None:
    model = configured("http://127.0.0.1:1/v1")
    _, error = await failure(model)
    await model.close()
    assert type(error) is ModelUnavailable
    assert pauses == [0.25, 1]


PAUSES = [("0", 0.25), ("3", 3), ("10", 10), ("1.5", 1.5), ("soon", 0.25), ("-1", 0.25)]


@pytest.mark.parametrize(("asked", "pause"), PAUSES)
async def test_the_server_says_when(
    model: Model, server: ModelServer, pauses: list[float], asked: str, pause: float
) -> None:
    server.answers(status_steps(429, asked), text_steps("Hello"))
    await answer(model)
    assert pauses == [pause]


async def test_the_server_says_when_by_a_date(model: Model, server: ModelServer, pauses: list[float]) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=6), usegmt=True)
    server.answers(status_steps(503, soon), text_steps("Hello"))
    await answer(model)
    assert 4 < pauses[0] <= 6


@pytest.mark.parametrize(("asked", "told"), [("11", 11), ("3600", 3600), ("999999999", 86_400)])
async def test_a_long_pause_is_the_client_s(
    model: Model, server: ModelServer, pauses: list[float], asked: str, told: int
) -> None:
    server.answers(status_steps(429, asked))
    _, error = await failure(model)
    assert isinstance(error, ModelUnavailable)
    assert error.retry_after_seconds == told
    assert render_problem(error, "request").headers["Retry-After"] == str(told)
    assert not pauses


@pytest.mark.parametrize("script", [[Hang()], [Head(), Hang()]])
async def test_silence_from_the_start_is_unavailable_and_not_asked_again(
    model: Model, server: ModelServer, script: list[Step]
) -> None:
    server.answers(script)
    begun_at = time.monotonic()
    text, error = await failure(model)
    assert (text, type(error)) == ("", ModelUnavailable)
    assert time.monotonic() - begun_at < 1
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ModelRefused),
        (413, ModelRefused),
        (422, ModelRefused),
        (401, ModelFailed),
        (403, ModelFailed),
        (404, ModelFailed),
        (302, ModelFailed),
        (501, ModelUnavailable),
    ],
)
async def test_other_answers_are_final(model: Model, server: ModelServer, status: int, kind: type[DomainError]) -> None:
    server.answers(status_steps(status))
    text, error = await failure(model)
    assert (text, type(error), error.detail) == ("", kind, f"the model server answered {status}")
    assert PROBLEMS[kind][0] == {ModelRefused: 422, ModelFailed: 502, ModelUnavailable: 503}[kind]
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(model: Model, server: ModelServer, status: int) -> None:
    with model_server() as elsewhere:
        server.answers([Head(status, {"Location": f"{elsewhere.url}/chat/completions"})])
        await failure(model)
        assert not elsewhere.requests
    assert len(server.requests) == 1


# Leaving


async def until_open(server: ModelServer, count: int) -> float:
    """The seconds until so many connections are open."""
    begun_at = time.monotonic()
    while server.open_count != count:  # the server lives in another thread
        assert time.monotonic() - begun_at < 2
        await asyncio.sleep(0.001)
    return time.monotonic() - begun_at


async def test_who_leaves_early_leaves_the_server_at_once() -> None:
    with model_server() as server:
        model = configured(server.url)
        server.answers([BEGUN, Hang()])
        parts = model.stream(HELLO)
        assert await anext(parts) == TextDelta("Hello")
        assert server.open_count == 1
        await parts.aclose()
        assert await until_open(server, 0) < 0.5
        assert (await answer(model))[0]  # and the model is there for others
        await model.close()


@pytest.mark.parametrize("script", [[Hang()], [BEGUN, Hang()]])
async def test_a_task_that_is_cancelled_leaves_the_server_at_once(script: list[Step]) -> None:
    with model_server() as server:
        model = configured(server.url)
        server.answers(script)
        task = asyncio.create_task(failure(model))
        await until_open(server, 1)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await until_open(server, 0) < 0.5
        await model.close()


# Much


@pytest.mark.faults
async def test_a_hundred_thousand_tokens_are_an_answer(server: ModelServer) -> None:
    model = configured(server.url)
    words = default_words("much", 100_000)
    usage = {"completion_tokens": len(words)}
    server.answers(text_steps(*words, usage=usage))
    begun_at, size, deltas = time.monotonic(), 0, 0
    async for part in model.stream(HELLO):
        if isinstance(part, TextDelta):
            size, deltas = size + len(part.text), deltas + 1
        else:
            assert json.loads(part.usage or b"") == usage
    await model.close()
    assert (size, deltas) == (sum(map(len, words)), len(words))
    assert time.monotonic() - begun_at < 15  # 1.5 s alone on one core


def test_a_long_answer_takes_no_memory_of_its_reader() -> None:
    reader, piece = AnswerReader(), chunk({"content": "word "}) * 300  # 50 KB
    tracemalloc.start()
    for _ in range(30):
        for _text in reader.feed(piece):
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


async def test_an_answer_ends_where_it_grows_too_long(model: Model, server: ModelServer) -> None:
    text = "é" * 499_999
    server.answers([Send(chunk({"content": text})) for _ in range(20)])
    told, finish = await answer(model)
    assert finish.reason == "length"
    assert told == ("é" * 5_000_000)[: len(told)]
    assert len(told.encode()) == min(10_000_000, 20 * 999_998)


def test_an_object_that_is_too_long_is_cut() -> None:
    text, finish = read(json.dumps(completion("é" * 5_000_001), ensure_ascii=False).encode())
    assert (len(text.encode()), finish.reason) == (10_000_000, "length")


def test_calls_that_are_too_long_are_cut() -> None:
    _, finish = read(*[chunk({"tool_calls": [fragment(index=0, id="c", name="f", arguments="a" * 1_000_000)]})] * 20)
    assert finish.reason == "length"
    assert len(finish.tool_calls or b"") < 11_000_000


# The built-in responder


async def test_without_configuration_the_built_in_responder_echoes() -> None:
    model = model_of(Settings())
    assert model.name == "echo"
    text, finish = await answer(model)
    assert text == "No model is configured. You said: Hello"
    assert finish == Finish(reason="stop", tool_calls=None, usage=None, model="echo")
    await model.close()


async def test_it_answers_word_by_word_and_calls_no_tool() -> None:
    tools = Raw(b'[{"type": "function", "function": {"name": "f"}}]')
    request = ModelRequest(messages=HELLO.messages, tools=tools, tool_choice=Raw(b'"required"'))
    parts = [part async for part in EchoModel().stream(request)]
    assert len(parts) == 8
    assert msgspec.structs.asdict(parts[-1])["tool_calls"] is None


@pytest.mark.parametrize(
    ("messages", "echo"),
    [
        (['{"role": "user", "content": "a"}', '{"role": "assistant", "content": "b"}', "5", "x", "[" * 100_000], "a"),
        (['{"role": "user", "content": "  two  words\\n"}'], "  two  words\n"),
        (['{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, 5]}'], "a"),
        (['{"role": "user", "content": "a\\u0000\\ud83d"}'], "a\0�"),
        (['{"role": "user", "content": {"a": 1}}'], ""),
        (['{"role": "user"}'], ""),
        (['{"role": "system", "content": "s"}'], ""),
        ([], ""),
    ],
)
async def test_it_takes_any_history(messages: list[str], echo: str) -> None:
    text, _ = await answer(EchoModel(), ModelRequest(messages=[Raw(message.encode()) for message in messages]))
    assert text == f"No model is configured. You said: {echo}"


async def test_a_long_text_takes_no_longer_than_two_seconds(pauses: list[float]) -> None:
    said = "word " * 100_000
    message = Raw(json.dumps({"role": "user", "content": said}).encode())
    text, _ = await answer(EchoModel(), ModelRequest(messages=[message]))
    assert text.endswith(said)
    assert sum(pauses) <= 2
