"""How bodies and queries are read, without a database."""

import json
from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw, Struct, field
from msgspec.json import Decoder

from app.errors import Flaw, InvalidInput
from app.json_objects import parse_object
from app.parameters import parse_query
from app.payloads import check_payload, parse_append, read
from app.wire.conversations import ConversationListing
from app.wire.messages import MessageListing
from tests.corpus import DEEPEST, INVALID_UTF8, TOO_DEEP, json_texts, objects, pieces, scalars

LIMIT = 10 * 2**20


class Three(Struct, forbid_unknown_fields=True):
    """An envelope with three members of any kind."""

    a: Raw = field(default_factory=Raw)
    b: Raw = field(default_factory=Raw)
    cc: Raw = field(default_factory=Raw)


three = Decoder(Three)
names = st.sampled_from(['"a"', '"b"', '"cc"', r'"\u0061"', r'"\u0062"', r'"c\u0063"', r'"\u0063\u0063"'])


def flaw_of(call: Callable[..., object], *arguments: object) -> Flaw:
    with pytest.raises(InvalidInput) as caught:
        call(*arguments)
    (flaw,) = caught.value.flaws
    return flaw


def names_of(text: str) -> list[str]:
    """The names of an object's own members, repeated ones repeated."""
    found: list[list[str]] = []
    json.loads(text, object_pairs_hook=lambda pairs: found.append([name for name, _ in pairs]))
    return found[-1]


def depth_of(text: str) -> int:
    """How deep a JSON text is nested, in all of its members."""

    def measure(value: object) -> int:
        return 1 + max(map(measure, value), default=0) if isinstance(value, list) else 0

    return measure(json.loads(text, parse_int=str, object_pairs_hook=lambda pairs: [value for _, value in pairs]))


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ('{"a":1,"a":1}', "/a"),
        ('{"a":1,"a":2}', "/a"),
        ('{"a":12,"a":1}', "/a"),
        ('{"a":1,"a":12}', "/a"),
        ('{"a":1.5,"a":1}', "/a"),
        ('{"a":[],"b":[],"a":[]}', "/a"),
        ('{"a":1,"b":1,"b":1}', "/b"),
        ('{"a":1,"a":1,"b":1}', "/a"),
        ('{"b":1,"a":1,"a":1,"cc":1,"b":1}', "/a"),
        ('{"b":1,"a":1,"a":1,"cc":1,"b":2}', "/b"),
        ('{"a":"\\",\\"a\\":","a":"\\",\\"a\\":"}', "/a"),
        ('{"a":"x","\\u0061":"x"}', "/a"),
        ('{"\\u0061":"x","a":"y"}', "/a"),
        ('{"c\\u0063":1,"\\u0063c":1}', "/cc"),
        (' {\n"a" : 1 ,\t"a"\r:\n2 } ', "/a"),
        (f'{{"a":{"[" * 70}{"]" * 70},"a":[]}}', "/a"),
        (f'{{"a":[],"a":{"[" * 70}{"]" * 70}}}', "/a"),
        (f'{{"a":{"[" * 500}{"]" * 500},"b":0,"a":0}}', "/a"),
        ('{"a":{"a":1,"a":2},"a":{"a":1,"a":2}}', "/a"),
    ],
)
def test_a_repeated_member_is_refused(body: str, pointer: str) -> None:
    flaw = flaw_of(parse_object, body.encode(), three)
    assert (flaw.pointer, flaw.message) == (pointer, "the member is repeated")


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        " { } ",
        '{"a":1,"b":1,"cc":1}',
        '{"a":{"a":1,"a":2}}',
        '{"a":[{"b":1,"b":1}],"b":2}',
        '{"a":"\\"a\\":1,","b":"\\\\"}',
        '{"a":"[{,","b":"}],"}',
        '\t{ "cc" :\r\n1 , "a": "" }\n',
        '{"\\u0061":1,"b":2}',
    ],
)
def test_members_that_come_once_are_let_in(body: str) -> None:
    assert {name for name in ("a", "b", "cc") if bytes(getattr(parse_object(body.encode(), three), name))} == set(
        names_of(body)
    )


@given(text=objects(json_texts, names))
@example(text='{"a":[],"b":"]","a":1}')
def test_repeated_members_are_those_that_another_parser_finds(text: str) -> None:
    found = names_of(text)
    repeated = {f"/{name}" for name in found if found.count(name) > 1}
    if repeated:
        assert flaw_of(parse_object, text.encode(), three).pointer in repeated
    else:
        value = parse_object(text.encode(), three)
        assert {name for name in ("a", "b", "cc") if bytes(getattr(value, name))} == set(found)


@pytest.mark.parametrize("name", DEEPEST)
def test_a_payload_may_be_64_deep(name: str) -> None:
    assert check_payload("tool_calls", Raw(DEEPEST[name])) == DEEPEST[name]


@pytest.mark.parametrize("name", TOO_DEEP)
@pytest.mark.parametrize("start", ['{"role":"user","tool_calls":', '{"messages":[{"role":"user","tool_calls":'])
def test_a_deeper_payload_is_refused_where_it_stands(start: str, name: str) -> None:
    body = start.encode() + TOO_DEEP[name] + (b"}" if start.count("{") == 1 else b"}]}")
    flaw = flaw_of(parse_append, body, LIMIT)
    assert flaw.message.startswith("nested deeper than 64")
    assert flaw.pointer in {"/tool_calls", "/messages/0/tool_calls"} or "at byte" in flaw.message


around = st.sampled_from([("[", "]"), ('{"a":', "}"), ('["]]",', ',"\\\\"]'), ("[[],", "]"), ('{"{\\"":0,"":', "}")])


@given(inner=json_texts, kinds=st.lists(around, max_size=70))
def test_depth_is_what_another_parser_finds(inner: str, kinds: list[tuple[str, str]]) -> None:
    text = f"[{inner}]"
    for before, after in kinds:
        text = before + text + after
    is_refused = False
    try:
        check_payload("tool_calls", Raw(text.encode()))
    except InvalidInput:
        is_refused = True
    assert is_refused == (depth_of(text) > 64)


@given(steps=st.lists(st.integers(-30, 34), max_size=30))
def test_depth_follows_every_rise_and_fall(steps: list[int]) -> None:
    """A walk over mountains of brackets, cut off at the ground."""
    heights = [1, *(height for height in accumulate(steps, lambda height, step: max(1, height + step), initial=1)), 0]
    moves = (after - before for before, after in zip([0, *heights], heights, strict=False))
    text = "".join("[" * move if move > 0 else "]" * -move for move in moves).replace("][", "],[")
    if max(heights) > 64:
        assert flaw_of(check_payload, "tool_calls", Raw(text.encode())).pointer == "/tool_calls"
    else:
        assert check_payload("tool_calls", Raw(text.encode())) == text.encode()


@given(before=pieces, after=pieces, lone=st.sampled_from([r"\ud800", r"\uDBFF", r"\ud83d"]))
def test_a_lone_high_surrogate_is_found_where_it_stands(before: str, after: str, lone: str) -> None:
    start = f'{{"a":["{before}'.encode()
    flaw = flaw_of(parse_object, start + f'{lone}x{after}"]}}'.encode(), three)
    assert flaw.message == f"lone surrogate escape at byte {len(start)}"


@given(before=pieces, after=pieces, lone=st.sampled_from([r"\udc00", r"\uDFFF", r"\udE00"]))
def test_a_lone_low_surrogate_is_found_where_it_stands(before: str, after: str, lone: str) -> None:
    start = f'{{"a":"{before}'.encode()
    flaw = flaw_of(parse_object, start + f'{lone}{after}"}}'.encode(), three)
    assert flaw.message == f"lone surrogate escape at byte {len(start)}"


def test_a_body_cut_off_is_malformed_at_its_end() -> None:
    flaw = flaw_of(parse_append, b'{"role":"user","content":"Hel', LIMIT)
    assert flaw.message == "malformed JSON: Input data was truncated (byte 29)"


@pytest.mark.parametrize("name", INVALID_UTF8)
@pytest.mark.parametrize("size", [10, 300 * 1024], ids=["here", "in a thread"])
async def test_invalid_utf8_is_found_where_it_stands(size: int, name: str) -> None:
    body = b'{"a":"' + b"x" * size + INVALID_UTF8[name] + b'"}'
    with pytest.raises(InvalidInput) as caught:
        await read(body, lambda body: parse_object(body, three))
    (flaw,) = caught.value.flaws
    assert flaw.message.startswith("invalid UTF-8 at byte ")
    assert 0 <= int(flaw.message.rpartition(" ")[2]) - size - 6 < len(INVALID_UTF8[name])


@pytest.mark.parametrize(
    "name", ["x", "a/b~c", "a.b", "a`b", "` - at `$.role", "Invalid enum value", "matching regex", "str", "x\n", "é"]
)
def test_an_unknown_member_is_named_by_its_pointer(name: str) -> None:
    body = json.dumps({"role": "user", "content": "x", name: 1}).encode()
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    assert flaw_of(parse_append, body, LIMIT) == Flaw(pointer=pointer, message="is unknown")


@pytest.mark.parametrize(
    ("body", "pointer", "message"),
    [
        ("{}", "/role", "is required"),
        ('{"role":"king","content":"x"}', "/role", "is none of the allowed values"),
        ('{"role":1,"content":"x"}', "/role", "expected `string`, got `integer`"),
        ('{"role":"user","content":"x","name":true}', "/name", "expected `string | null`, got `boolean`"),
        ('{"role":"user","content":"x","name":1.5}', "/name", "expected `string | null`, got `number`"),
        ('{"role":"user","content":"x","name":{}}', "/name", "expected `string | null`, got `object`"),
        ('{"role":"user","content":"x","client_id":""}', "/client_id", "expected `string` of length >= 1"),
        ('{"role":"user","content":[{}]}', "/content/0/type", "is required"),
        ('{"role":"user","content":[{"type":1}]}', "/content/0/type", "expected `string`, got `integer`"),
        ('{"messages":[{"role":"user"}]}', "/messages/0/content", "is required where neither tool_calls nor"),
        ('{"messages":[{"role":"user","content":"\\ud800"}]}', "", "lone surrogate escape at byte 39"),
        ('{"messages":[{"role":"user","content":"x"}', "", "malformed JSON: Input data was truncated (byte 42)"),
        ("[]", "", "expected `object`, got `array`"),
    ],
)
def test_a_flaw_is_told_in_the_words_of_json(body: str, pointer: str, message: str) -> None:
    flaw = flaw_of(parse_append, body.encode(), LIMIT)
    assert flaw.pointer == pointer
    assert flaw.message.startswith(message)


def test_names_of_an_envelope_may_be_written_with_escapes() -> None:
    body = rb'{"\u006dessages":[{"r\u006fle":"user","content":"x"}]}'
    assert [message.role for message in parse_append(body, LIMIT)] == ["user"]


@given(text=scalars)
def test_a_payload_is_never_another_kind(text: str) -> None:
    body = f'{{"role":"user","content":"","tool_calls":{text}}}'
    if text == "null":
        assert parse_append(body.encode(), LIMIT)[0].tool_calls is None
    else:
        assert flaw_of(parse_append, body.encode(), LIMIT).pointer == "/tool_calls"


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (query, query.partition("=")[0])
        for query in ("after=null", "before=Null", "limit=1.0", "limit=1e1", "limit=10E0", "after=0.0", "before=-0")
    ],
)
def test_an_integer_of_a_query_is_written_in_digits(query: str, name: str) -> None:
    assert flaw_of(parse_query, query.encode(), MessageListing).parameter == name


def test_null_is_no_boolean_of_a_query() -> None:
    assert flaw_of(parse_query, b"pinned=null", ConversationListing).parameter == "pinned"


def test_null_is_a_tag_like_any_other() -> None:
    assert parse_query(b"tag=null", ConversationListing).tag == "null"
