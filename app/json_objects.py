"""JSON objects as clients write them, read into structs: what is wrong is told with its pointer."""

import re
from itertools import islice
from typing import TypeVar

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

from app.errors import Flaw, InvalidInput
from app.wire.messages import DEPTH_LIMIT

T = TypeVar("T")

_ENVELOPE_DEPTH = 3  # a body, its array of messages, a message
_SHOWN_CHARACTERS = 64
_BRACKETS_TRIED = 100_000
_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_VALLEYS = [b"]" * size + b"[" * size for size in (32, 8, 2, 1)]
_MEMBER = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*("(?:[^"\\]++|\\.)*+")[ \t\r\n]*:[ \t\r\n]*')
_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"|([\[{])|[\]}]', re.DOTALL)
_NO_LONE_SURROGATE = re.compile(
    rb"(?:[^\\]{1,999}|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB]..\\u[dD][c-fC-F]..){1,99999}+", re.DOTALL
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PATH_STEP = re.compile(r"\.([^.\[`]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+?|)`(?: - at `\$([^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_TYPE = re.compile(r"\b(?:str|int|bool|float)\b")
_TYPES = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}
_MEMBERS = Decoder(dict[str, Raw])
_NAME = Decoder(str)


def parse_object(raw: bytes, decoder: Decoder[T], pointer: str = "") -> T:
    """The struct of a JSON object without repeated members, nor unknown ones if the struct forbids them.

    Raises InvalidInput with the pointer of what is wrong.
    """
    members = raw_members_of(raw, pointer)
    value = decode(raw, decoder, pointer)
    if len(raw) != _least_bytes(members):
        refuse_repeated(raw, members, pointer)
    return value


def raw_members_of(raw: bytes, pointer: str = "") -> dict[str, Raw]:
    """The members of a JSON object; of one that comes twice, the last. Raises InvalidInput."""
    return decode(raw, _MEMBERS, pointer)


def decode(raw: bytes, decoder: Decoder[T], pointer: str = "") -> T:
    """What the decoder makes of it. Raises InvalidInput with the pointer of what is wrong."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise InvalidInput(flaw_of(str(error), pointer)) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(Flaw(pointer=pointer, message=_malformation(raw, str(error)))) from None
    except RecursionError:
        raise InvalidInput(Flaw(pointer=pointer, message=_too_deep(raw))) from None


def _least_bytes(members: dict[str, Raw]) -> int:
    """What an object of these members takes at least: one of no more has no space, and no member twice."""
    return 1 + sum(map(len, members)) + sum(map(len, map(bytes, members.values()))) + 4 * len(members)


def refuse_repeated(raw: bytes, members: dict[str, Raw], pointer: str) -> None:
    """Raises InvalidInput for a member that comes twice."""
    if (name := _repeated_member(raw, members)) is not None:
        raise InvalidInput(Flaw(pointer=join(pointer, name), message="the member is repeated"))


def _repeated_member(raw: bytes, members: dict[str, Raw]) -> str | None:
    """A member of an object that comes twice, found by walking along the members as they were decoded.

    They stand in the order of their first appearance, each with its last value.
    """
    place = 0
    for name, raw_value in members.items():
        value = bytes(raw_value)
        head = _MEMBER.match(raw, place)
        found = _NAME.decode(head[1]) if head else name
        start = head.end() if head else place
        place = start + len(value)
        if found != name or not raw.startswith(value, start) or raw[place] not in b",} \t\r\n":
            return found
    head = _MEMBER.match(raw, place) if members else None
    return _NAME.decode(head[1]) if head else None


def depth_of(payload: bytes) -> int:
    """How deep the brackets of a JSON text are nested.

    Neither step moves what counts: a pair of quotes with nothing between them changes for no other character whether
    it stands in a string, and going down and up again by the same number of brackets reaches no new depth.
    """
    unescaped = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = unescaped.translate(_TO_SQUARE, _NOT_MARKS).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    while b"][" in brackets:
        for valley in _VALLEYS:
            brackets = brackets.replace(valley, b"")
    return len(brackets) // 2


def _too_deep(raw: bytes) -> str:
    """Names the first bracket that no body may have: where the decoder gave up, it knew no place."""
    depth = 0
    for match in islice(_BRACKET.finditer(raw), _BRACKETS_TRIED):
        depth += 1 if match[1] else -(match[0] in b"]}")
        if depth > DEPTH_LIMIT + _ENVELOPE_DEPTH:
            return f"nested deeper than {DEPTH_LIMIT} at byte {match.start()}"
    return f"nested deeper than {DEPTH_LIMIT}"


def join(pointer: str, name: str | int) -> str:
    """With one more member; of a name that no one of ours is as long as, only its beginning."""
    text = str(name)
    text = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
    return f"{pointer}/{text.replace('~', '~0').replace('/', '~1')}"


def _malformation(raw: bytes, reason: str) -> str:
    place = 0
    while match := _NO_LONE_SURROGATE.match(raw, place):
        place = match.end()
    if _SURROGATE.match(raw, place):
        return f"lone surrogate escape at byte {place}"
    end = "" if "(byte " in reason else f" (byte {len(raw)})"
    return f"malformed JSON: {reason.removeprefix('JSON is malformed: ')}{end}"


def flaw_of(message: str, pointer: str) -> Flaw:
    """Msgspec's words with its path as a pointer, in the words of JSON, and without the client's values."""
    unknown = _UNKNOWN.fullmatch(message)
    reason, _, path = message.partition(" - at `$")
    for name, index in _PATH_STEP.findall(path if unknown is None else unknown[2] or ""):
        pointer = join(pointer, name or index)
    if unknown:
        return Flaw(pointer=join(pointer, unknown[1]), message="is unknown")
    if missing := _MISSING.fullmatch(reason):
        return Flaw(pointer=join(pointer, missing[1]), message="is required")
    if reason.startswith("Invalid enum value"):
        reason = "is none of the allowed values"
    elif "matching regex" in reason:
        reason = "has characters or a form that is not allowed"
    reason = _TYPE.sub(lambda match: _TYPES[match[0]], reason)
    return Flaw(pointer=pointer, message=reason[:1].lower() + reason[1:])
