"""The short way to the handlers that are called most, past the framework's router, parameters and responses.

The handler, and what stands around it (deadline, credentials, errors, log), is the same on both ways.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import cast

from litestar import Request
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.routes.base import BaseRoute
from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from app.auth import Authentication
from app.deadlines import Deadline
from app.exchanges import ApiRequest, BytesResponse, OurRequest, Respond
from app.headers import raw_header_values
from app.openai_errors import answer_as_asked

_PLAIN_HOST = re.compile(rb"[a-zA-Z0-9.-]+(?::\d+)?")


class _Way(Struct, frozen=True):
    """To a handler."""

    template: str
    names: tuple[str, ...]
    """Of the path's parameters."""
    handler: HTTPRouteHandler
    answer: Callable[..., Awaitable[BytesResponse]]
    """The handler with what it takes that is the same for all requests."""


class _Place:
    """Behind some steps of a path: its next steps, and the ways to its handlers that have one, by method."""

    def __init__(self) -> None:
        self.words: dict[str, _Place] = {}
        self.parameter: _Place | None = None
        self.ways: dict[str, _Way] = {}


class FastPath:
    """Answers what goes to handlers with `opt={"is_hot": True}`.

    They take the request, path parameters, the caller and constants, and nothing else.
    """

    def __init__(
        self,
        routes: Iterable[BaseRoute],
        deadline: Deadline,
        authentication: Authentication,
        constants: Mapping[str, object],
    ) -> None:
        self._deadline, self._authentication = deadline, authentication
        self._root = _Place()
        # All routes, so that a path means here what it means to the framework.
        for route in routes:
            if isinstance(route, HTTPRoute):
                self._add(route, constants)

    def _add(self, route: HTTPRoute, constants: Mapping[str, object]) -> None:
        place = self._root
        for step in route.path_components:
            if isinstance(step, str):
                place = place.words.setdefault(step, _Place())
            else:
                place.parameter = place = place.parameter or _Place()
        names = tuple(step.name for step in route.path_components if not isinstance(step, str))
        for handler in route.route_handlers:
            if handler.opt.get("is_hot", False):
                wanted = handler.parsed_fn_signature.parameters
                mine = {name: value for name, value in constants.items() if name in wanted}
                way = _Way(route.path_format, names, handler, partial(handler.fn, **mine))
                place.ways.update((str(method), way) for method in handler.http_methods)

    def find(self, scope: HTTPScope) -> tuple[_Way, list[str]] | None:
        """The way that a request may take, and its path parameters; None: the long one."""
        place, values = self._root, []
        for step in scope["path"].split("/")[1:]:
            next_place = place.words.get(step)
            if next_place is None:
                next_place = place.parameter if step else None
                if next_place is None:
                    return None
                values.append(step)
            place = next_place
        way = place.ways.get(scope["method"])
        return (way, values) if way is not None and _has_plain_host(scope) else None

    async def answer(self, found: tuple[_Way, list[str]], scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answers a request for which there is a way."""
        way, values = found
        scope["route_handler"] = way.handler
        scope["path_template"] = way.template
        try:
            with self._deadline.timed(scope, receive) as timed:
                caller = scope["user"] = await self._authentication.admit(scope)
                request: ApiRequest = OurRequest(scope, timed.receive, send)
                parameters = dict(zip(way.names, values, strict=True))
                response = await way.answer(request=request, caller=caller, **parameters)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises is answered
            asked: Request[object, object, State] = Request(scope, receive, send)
            asgi_response = answer_as_asked(asked, error).to_asgi_response(app=None, request=asked)
            await asgi_response(scope, receive, send)
            return
        respond = cast("Respond | None", scope["state"].get("respond"))
        if respond is None or not respond(response.status, response.raw_headers(), response.content):
            await response(scope, receive, send)


def _has_plain_host(scope: HTTPScope) -> bool:
    """Whether the framework, which refuses what is no host, has nothing to look at."""
    return all(map(_is_plain, raw_header_values(scope, b"host")))


@lru_cache(maxsize=100)
def _is_plain(host: bytes) -> bool:
    return _PLAIN_HOST.fullmatch(host) is not None
