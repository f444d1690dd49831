"""The application: what is open while it runs, and its routes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import cast

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import HTTPScope, LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from app.appender import Appender
from app.auth import Administrator, Authentication, Caller
from app.controllers.contexts import ContextController
from app.controllers.conversations import ConversationController
from app.controllers.events import EventController
from app.controllers.messages import MessageController
from app.controllers.replies import ReplyController
from app.controllers.service import ServiceController
from app.controllers.stats import StatsController
from app.database import Database
from app.database_url import DatabaseUrl
from app.deadlines import Deadline
from app.docs import Documents, render_docs
from app.doors.console import ConsoleController
from app.doors.openai import OpenaiController
from app.doors.responses import ResponseController
from app.doors.sessions import SessionController
from app.edge import Drain, Edge
from app.exchanges import AdminRequest, ApiRequest, OurRequest
from app.fast_path import FastPath
from app.heads import Heads
from app.health import Health
from app.model import model_of
from app.openai_errors import answer_as_asked
from app.openapi import build_document
from app.reader import Reader
from app.rollups import RollUp
from app.settings import Settings
from app.tokens import TokenRules, TokenVerifier
from app.writers import Writers


class Application(Litestar):
    """Litestar within our own edge."""

    edge: Edge
    fast_path: FastPath

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        """Serves one request, or the lifespan."""
        if scope["type"] == ScopeType.HTTP:
            await self.edge(cast("HTTPScope", scope), cast("Receive", receive), cast("Send", send))
        else:
            await super().__call__(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers by the shorter way, where there is one."""
        if scope["type"] == ScopeType.HTTP and (found := self.fast_path.find(scope)):
            await self.fast_path.answer(found, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings, url: DatabaseUrl, drain: Drain | None = None) -> Application:
    """The application over a database; nothing is opened before it starts."""
    drain = drain or Drain()
    database = Database(url, settings)
    verifier = _verifier(settings)
    authentication = Authentication(database, verifier)
    deadline = Deadline(settings)
    heads = Heads(database, settings, authentication.find_bad, lambda: drain.is_draining)
    model = model_of(settings)
    writers = Writers(database, model, heads, settings)
    appender, reader = Appender(database, settings), Reader(database, settings)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        await database.open()
        writers.open()
        rolling_up = asyncio.create_task(RollUp(database).run())
        try:
            yield
        finally:
            rolling_up.cancel()
            await asyncio.wait({rolling_up})
            await appender.close()
            await reader.close()
            await writers.close()
            await heads.close()
            await model.close()
            await database.close()
            if verifier is not None:
                await verifier.close()

    @cache
    def describe() -> Documents:
        document = build_document(app.routes, version("verbatim"))
        return Documents(msgspec.json.encode(document), render_docs(document))

    constants = {
        "database": database,
        "settings": settings,
        "health": Health(database, allow_unsafe=settings.allow_unsafe_database),
        "drain": drain,
        "heads": heads,
        "writers": writers,
        "appender": appender,
        "reader": reader,
    }
    dependencies = {
        **{name: _constant(value) for name, value in constants.items()},
        "documents": Provide(describe, sync_to_thread=False),
        "caller": Provide(_provide_caller, sync_to_thread=False),
        "administrator": Provide(_provide_administrator, sync_to_thread=False),
    }
    app = Application(
        route_handlers=[
            ConversationController,
            MessageController,
            ContextController,
            ReplyController,
            EventController,
            StatsController,
            SessionController,
            OpenaiController,
            ResponseController,
            ServiceController,
            ConsoleController,
        ],
        middleware=[deadline, authentication],
        dependencies=dependencies,
        exception_handlers={HTTPException: answer_as_asked, Exception: answer_as_asked},
        lifespan=[lifespan],
        request_class=OurRequest,
        request_max_body_size=None,  # the deadline bounds it
        openapi_config=None,
        logging_config=None,
        debug=False,
    )
    app.fast_path = FastPath(app.routes, deadline, authentication, constants)
    app.edge = Edge(app.answer, drain)
    return app


def _verifier(settings: Settings) -> TokenVerifier | None:
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        return None
    return TokenVerifier(
        TokenRules(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            algorithms=tuple(name.strip() for name in settings.jwt_algorithms.split(",")),
            tenant_claim=settings.jwt_tenant_claim,
            jwks_file=settings.jwt_jwks_file,
            jwks_url=settings.jwt_jwks_url,
        )
    )


def _constant(value: object) -> Provide:
    provide: Callable[[], object] = lambda: value  # noqa: E731  # Litestar wants a function
    return Provide(provide, use_cache=True, sync_to_thread=False)


def _provide_caller(request: ApiRequest) -> Caller:
    return request.user


def _provide_administrator(request: AdminRequest) -> Administrator:
    return request.user
