"""Pages as they were last sent, each with the version at which it was: whoever uses one asks for that first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

PageT = TypeVar("PageT")

_ENTRY_BYTES = 1100  # beside its body and places: 1,090 by the memory of 20,000


class PageCache(Generic[PageT]):
    """At most `limit_bytes` of pages; what was used longest ago goes first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size = 0
        self._pages: OrderedDict[Hashable, tuple[PageT, int]] = OrderedDict()

    def get(self, name: Hashable) -> PageT | None:
        """A page."""
        known = self._pages.get(name)
        if known is None:
            return None
        self._pages.move_to_end(name)
        return known[0]

    def put(self, name: Hashable, page: PageT, size: int) -> None:
        """Keeps a page of so many bytes in place of an older one."""
        self.drop(name)
        self._pages[name] = page, size + _ENTRY_BYTES
        self._size += size + _ENTRY_BYTES
        while self._size > self._limit_bytes:
            _, (_, dropped_size) = self._pages.popitem(last=False)
            self._size -= dropped_size

    def drop(self, name: Hashable) -> None:
        """Forgets a page."""
        known = self._pages.pop(name, None)
        if known is not None:
            self._size -= known[1]
