"""Query strings, read into wire structs."""

from collections.abc import Hashable
from functools import lru_cache
from typing import TypeVar, cast
from urllib.parse import parse_qsl

import msgspec

from app.errors import Flaw, InvalidInput
from app.json_objects import flaw_of

T = TypeVar("T")

_REMEMBERED_QUERY_BYTES = 256


def parse_query(query: bytes, struct: type[T]) -> T:
    """The struct, frozen, of a query string without unknown or repeated parameters. Raises InvalidInput."""
    if len(query) > _REMEMBERED_QUERY_BYTES:
        return _parse_query(query, struct)
    return cast("T", _parse_remembered_query(query, cast("Hashable", struct)))


def _parse_query(query: bytes, struct: type[T]) -> T:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError:
        raise InvalidInput(Flaw(parameter="", message="the query is no UTF-8 of at most 64 parameters")) from None
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(Flaw(parameter=repeated, message="the parameter is repeated"))
    try:
        parameters = msgspec.convert(values, struct, strict=False)
    except msgspec.ValidationError as error:
        flaw = flaw_of(str(error), "")
        raise InvalidInput(Flaw(parameter=(flaw.pointer or "/")[1:], message=flaw.message)) from None
    for name, text in values.items():
        if _is_read_otherwise(getattr(parameters, name), text):
            raise InvalidInput(Flaw(parameter=name, message="is not written as such a value is"))
    return parameters


_parse_remembered_query = lru_cache(maxsize=1000)(_parse_query)


def _is_read_otherwise(value: object, text: str) -> bool:
    """Whether msgspec was too lax: it reads `null` as an absent value, `1` as true, `1e2` as an integer."""
    return value is None or (type(value) in {bool, int} and str(value).lower() != text)
