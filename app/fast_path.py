"""The short way to the handlers that are called most, past the framework's router, parameters and responses.

The handler, and what stands around it (deadline, credentials, errors, log), is the same on both ways.
"""

import re
from collections.abc import Iterable, Mapping
from typing import cast

from litestar import Request
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.routes.base import BaseRoute
from litestar.types import AsyncAnyCallable, HTTPScope, Receive, Scope, Send
from msgspec import Struct

from app.auth import Authentication, Caller
from app.deadlines import Deadline
from app.exchanges import ApiRequest, BytesResponse
from app.openai_errors import answer_as_asked

_PLAIN_HOST = re.compile(rb"[a-zA-Z0-9.-]+(?::\d+)?")


class _Way(Struct, frozen=True):
    """To a handler."""

    template: str
    handler: HTTPRouteHandler
    answer: AsyncAnyCallable
    constants: dict[str, object]
    """What the handler takes that is the same for all requests."""


class _Place(Struct, frozen=True):
    """A route: its path parameters' names, and the ways to its handlers that have one, by method."""

    names: tuple[str, ...]
    ways: dict[str, _Way]


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
        # All routes, and words before parameters, so that a path means here what it means to the framework.
        known = [route for route in routes if isinstance(route, HTTPRoute)]
        known.sort(key=lambda route: [not isinstance(step, str) for step in route.path_components])
        self._places: dict[int, _Place] = {}
        patterns: list[str] = []
        for route in known:
            names = tuple(step.name for step in route.path_components if not isinstance(step, str))
            steps = [re.escape(step) if isinstance(step, str) else "([^/]+)" for step in route.path_components]
            ways = {
                str(method): _way(route, handler, constants)
                for handler in route.route_handlers
                if handler.opt.get("is_hot", False)
                for method in handler.http_methods
            }
            self._places[1 + sum(1 + pattern.count("([^/]+)") for pattern in patterns)] = _Place(names, ways)
            patterns.append("".join(f"/{step}" for step in steps) or "/")
        self._pattern = re.compile("|".join(f"({pattern})" for pattern in patterns))

    def find(self, scope: HTTPScope) -> tuple[_Way, dict[str, object]] | None:
        """The way that a request may take, and its path parameters; None: the long one."""
        match = self._pattern.fullmatch(scope["path"])
        if match is None or match.lastindex is None:
            return None
        place = self._places[match.lastindex]
        way = place.ways.get(scope["method"])
        if way is None or not _has_plain_host(scope):
            return None
        values = match.groups()[match.lastindex : match.lastindex + len(place.names)]
        return way, dict(zip(place.names, values, strict=True))

    async def answer(
        self, found: tuple[_Way, dict[str, object]], scope: HTTPScope, receive: Receive, send: Send
    ) -> None:
        """Answers a request for which there is a way."""
        way, parameters = found
        scope["route_handler"] = way.handler
        scope["path_template"] = way.template
        response: BytesResponse

        async def call(_scope: Scope, timed_receive: Receive, timed_send: Send) -> None:
            nonlocal response
            request: ApiRequest = ApiRequest(scope, timed_receive, timed_send)
            caller = cast("Caller", scope["user"])
            response = await way.answer(request=request, caller=caller, **parameters, **way.constants)

        async def authenticate(_scope: Scope, timed_receive: Receive, timed_send: Send) -> None:
            await self._authentication.handle(scope, timed_receive, timed_send, call)

        try:
            await self._deadline.handle(scope, receive, send, authenticate)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises is answered
            request: Request[object, object, State] = Request(scope, receive, send)
            asgi_response = answer_as_asked(request, error).to_asgi_response(app=None, request=request)
            await asgi_response(scope, receive, send)
            return
        await response(scope, receive, send)


def _has_plain_host(scope: HTTPScope) -> bool:
    """Whether the framework, which refuses what is no host, has nothing to look at."""
    return all(_PLAIN_HOST.fullmatch(value) for name, value in scope["headers"] if name == b"host")


def _way(route: HTTPRoute, handler: HTTPRouteHandler, constants: Mapping[str, object]) -> _Way:
    wanted = handler.parsed_fn_signature.parameters
    mine = {name: value for name, value in constants.items() if name in wanted}
    return _Way(route.path_format, handler, handler.fn, mine)
