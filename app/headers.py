"""Request headers that carry a contract: Idempotency-Key and If-Match."""

import re
from collections.abc import Sequence
from typing import cast

from litestar.types import HTTPScope
from msgspec import Struct

from app.errors import Flaw, InvalidInput

_BARE_KEY = re.compile(r"[!-~]{1,255}")
_QUOTED_KEY = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])*)"')
_ETAG = re.compile(r'"(\d{1,18})(?:\.(\d{1,18}))?"')
_State = dict[str, dict[bytes, list[bytes]]]


def raw_header_values(scope: HTTPScope, name: bytes) -> Sequence[bytes]:
    """All values of a header, which a proxy may have repeated; the headers of a request are gone through once."""
    state = cast("_State", scope.setdefault("state", {}))
    headers = state.get("headers")
    if headers is None:
        headers = state["headers"] = {}
        for key, value in scope["headers"]:
            headers.setdefault(key, []).append(value)
    return headers.get(name, ())


def header_values(scope: HTTPScope, name: bytes) -> list[str]:
    """The same as text."""
    return [value.decode("latin-1") for value in raw_header_values(scope, name)]


class Expected(Struct, frozen=True):
    """The version that If-Match names; None where it names none."""

    seq: int | None = None
    revision: int | None = None

    @property
    def is_any(self) -> bool:
        """Whether every version will do."""
        return self.seq is None and self.revision is None


def parse_idempotency_key(values: list[str]) -> str | None:
    """The key of an Idempotency-Key header: 1 to 255 visible ASCII characters; quoted or bare is the same key.

    Raises InvalidInput.
    """
    if not values:
        return None
    text = values[0]
    if quoted := _QUOTED_KEY.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    if len(values) > 1 or not _BARE_KEY.fullmatch(text):
        raise InvalidInput(Flaw(header="Idempotency-Key", message="must be one key of 1-255 visible ASCII characters"))
    return text


def parse_if_match(values: list[str]) -> Expected | None:
    """The version that an If-Match header names. Raises InvalidInput."""
    if not values:
        return None
    if values == ["*"]:
        return Expected()
    etag = _ETAG.fullmatch(values[0])
    if len(values) > 1 or etag is None:
        message = 'must be one of "<last_seq>.<revision>", "<last_seq>" or *'
        raise InvalidInput(Flaw(header="If-Match", message=message))
    return Expected(int(etag[1]), int(etag[2]) if etag[2] else None)


def etag(last_seq: int, revision: int) -> str:
    """The ETag of a conversation at this version."""
    return f'"{last_seq}.{revision}"'


def matches_any(values: list[str], version: str) -> bool:
    """Whether If-None-Match holds this ETag, by the weak comparison (RFC 9110 section 13.1.2)."""
    tags = [tag.strip() for value in values for tag in value.split(",")]
    return any(tag == "*" or tag.removeprefix("W/") == version for tag in tags)
