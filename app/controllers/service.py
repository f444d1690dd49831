"""What the service says of itself, open to all: alive, ready, its API."""

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from msgspec import Struct

from app.docs import PAGE_HEADERS, Documents
from app.edge import Drain
from app.errors import Unavailable
from app.exchanges import answer
from app.health import Health
from app.openapi import Operation


class Alive(Struct, kw_only=True, frozen=True):
    """The service is there."""

    status: str


class ServiceController(Controller):
    """Open routes: they hold no data."""

    tags = ["service"]

    @get("/healthz", operation_id="getHealth", opt={"is_open": True, "operation": Operation(answers={200: Alive})})
    async def get_health(self) -> Response[bytes]:
        """Say that the process is alive."""
        return answer(Alive(status="ok"))

    @get("/readyz", operation_id="getReadiness", opt={"is_open": True, "operation": Operation(answers={200: Alive})})
    async def get_readiness(self, health: NamedDependency[Health], drain: NamedDependency[Drain]) -> Response[bytes]:
        """Say whether the service can do its work now.

        503 while the database cannot be asked, its migrations are missing, it is read-only or may lose what it
        acknowledged, and while the service is about to stop.
        """
        if drain.is_draining or not await health.is_ready():
            raise Unavailable
        return answer(Alive(status="ok"))

    @get("/openapi.json", opt={"is_open": True})
    async def get_openapi(self, documents: NamedDependency[Documents]) -> Response[bytes]:
        """Get the OpenAPI document."""
        return Response(documents.openapi, media_type="application/json")

    @get("/docs", opt={"is_open": True})
    async def get_docs(self, documents: NamedDependency[Documents]) -> Response[bytes]:
        """Get the OpenAPI document as a page."""
        return Response(documents.docs, media_type="text/html", headers=PAGE_HEADERS)
