"""The parts of a content as OpenAI's Responses API names them, with what its typed clients demand of each. No I/O."""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.json import Decoder

from app.context import elements_of, is_a, members_of, text_of
from app.wire.messages import Role

_PART_DEFAULTS = {
    "output_text": {"annotations": b"[]", "logprobs": b"[]"},
    "input_image": {"detail": b'"auto"'},
}
OUR_PARTS = frozenset({"text", "image_url", "file"})
"""The parts that Chat Completions names otherwise."""

_TEXT_PARTS = {
    "input_text": b'[{"type":"input_text","text":%b}]',
    "output_text": b'[{"type":"output_text","text":%b,"annotations":[],"logprobs":[]}]',
}
_NULL, _NO_PARTS, _EMPTY_TEXT = b"null", b"[]", b'""'
_encode = msgspec.json.Encoder().encode


class _Shape(Struct, frozen=True):
    """What of a part tells whether it is whole."""

    type: str
    annotations: Raw | UnsetType = UNSET
    logprobs: Raw | UnsetType = UNSET
    detail: Raw | UnsetType = UNSET


_SHAPES = Decoder(list[_Shape])


def write_object(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A JSON object."""
    return b"{%b}" % b",".join(b"%b:%b" % (_encode(name), value) for name, value in members)


def part_kinds(content: Raw | None) -> list[str]:
    """The types of a content's parts."""
    if content is None or not is_a(content, b"["):
        return []
    return [shape.type for shape in _SHAPES.decode(content)]


def write_output(content: Raw | None, *, is_ours: bool) -> bytes:
    """The output of a tool: a text, or parts."""
    if content is None:
        return _EMPTY_TEXT
    return bytes(content) if is_a(content, b'"') else _complete(content, "input_text", is_ours=is_ours)


def write_parts(content: Raw | None, role: Role, *, is_ours: bool) -> bytes:
    """The content of a role's message as parts; with `is_ours` it may be in the words of Chat Completions."""
    kind = "output_text" if role == "assistant" else "input_text"
    if content is None:
        return _NO_PARTS
    return _TEXT_PARTS[kind] % bytes(content) if is_a(content, b'"') else _complete(content, kind, is_ours=is_ours)


def _complete(parts: Raw, text_kind: str, *, is_ours: bool) -> bytes:
    """Parts with what typed clients demand; those of Chat Completions as they are called here."""
    shapes = _SHAPES.decode(parts)
    if not any((is_ours and shape.type in OUR_PARTS) or _missing(shape) for shape in shapes):
        return bytes(parts)
    written = (
        _complete_part(raw, shape, text_kind, is_ours=is_ours)
        for raw, shape in zip(elements_of(parts), shapes, strict=True)
    )
    return b"[%b]" % b",".join(written)


def _missing(shape: _Shape) -> bool:
    given = (getattr(shape, name) for name in _PART_DEFAULTS.get(shape.type, ()))
    return any(value is UNSET or bytes(value) == _NULL for value in given)


def _complete_part(raw: Raw, shape: _Shape, text_kind: str, *, is_ours: bool) -> bytes:
    members, kind, part = members_of(raw), shape.type, bytes(raw)
    if is_ours and kind in OUR_PARTS:
        members = _rename(kind, members, text_kind)
        kind = text_of(members["type"]) or ""
        part = write_object((name, bytes(value)) for name, value in members.items())
    defaults = _PART_DEFAULTS.get(kind, {})
    if any(name in members and bytes(members[name]) == _NULL for name in defaults):
        given = {name: bytes(value) for name, value in members.items()}
        whole = {name: defaults.get(name, value) if value == _NULL else value for name, value in given.items()}
        part = write_object(whole.items())
    missing = [(name, value) for name, value in defaults.items() if name not in members]
    return b"%b,%b" % (part[:-1], write_object(missing)[1:]) if missing else part


def _rename(kind: str, members: Mapping[str, Raw], text_kind: str) -> Mapping[str, Raw]:
    if kind == "text" and is_a(members.get("text"), b'"'):
        return {**members, "type": Raw(_encode(text_kind))}
    if kind == "image_url":
        image = members_of(members.get("image_url"))
        url = image.get("url", members.get("image_url"))
        if url is not None and is_a(url, b'"'):
            detail = {"detail": image["detail"]} if "detail" in image else {}
            return {"type": Raw(b'"input_image"'), "image_url": url, **detail}
    if kind == "file" and (file := members_of(members.get("file"))):
        return {"type": Raw(b'"input_file"'), **file}
    return members
