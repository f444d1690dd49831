"""What uvicorn and Litestar cost when nothing is done."""

from litestar import Litestar, get
from litestar.types import Receive, Scope, Send

_HEADERS = [(b"content-length", b"2"), (b"content-type", b"application/json")]


async def bare(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers every request with an empty object."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})


@get("/")
async def empty() -> dict[str, str]:
    return {}


framework = Litestar([empty])
