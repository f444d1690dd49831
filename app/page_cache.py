"""Pages as they were last sent, each with the version at which it was: whoever uses one asks for that first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

VersionT = TypeVar("VersionT")

_ENTRY_BYTES = 700  # beside its body: 620 by the memory of 100,000 empty ones


class PageCache(Generic[VersionT]):
    """At most `limit_bytes` of pages; what was used longest ago goes first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size = 0
        self._pages: OrderedDict[Hashable, tuple[VersionT, bytes]] = OrderedDict()

    def get(self, name: Hashable) -> tuple[VersionT, bytes] | None:
        """A page and its version."""
        known = self._pages.get(name)
        if known is not None:
            self._pages.move_to_end(name)
        return known

    def put(self, name: Hashable, version: VersionT, body: bytes) -> None:
        """Keeps a page in place of an older one."""
        self.drop(name)
        self._pages[name] = version, body
        self._size += len(body) + _ENTRY_BYTES
        while self._size > self._limit_bytes:
            _, (_, dropped) = self._pages.popitem(last=False)
            self._size -= len(dropped) + _ENTRY_BYTES

    def drop(self, name: Hashable) -> None:
        """Forgets a page."""
        known = self._pages.pop(name, None)
        if known is not None:
            self._size -= len(known[1]) + _ENTRY_BYTES
