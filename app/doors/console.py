"""The console: pages for people, and the files they are made of. They hold no data; the key is the browser's."""

from pathlib import Path

from litestar import Controller, Response, get
from litestar.params import FromPath

from app.errors import NotFound

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'self'"
)

_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = {path.name: path.read_bytes() for path in Path(__file__).parent.with_name("console").iterdir()}
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class ConsoleController(Controller):
    """Open routes: they hold no data."""

    @get(["/", "/c/{conversation_id:str}"], opt={"is_open": True})
    async def get_console(self) -> Response[bytes]:
        """Get the page that chats, whatever conversation it then asks for."""
        return _file("index.html")

    @get("/activity", opt={"is_open": True})
    async def get_activity(self) -> Response[bytes]:
        """Get the page that shows a tenant's activity."""
        return _file("activity.html")

    @get("/assets/{name:str}", opt={"is_open": True})
    async def get_asset(self, name: FromPath[str]) -> Response[bytes]:
        """Get a file of the pages."""
        if name not in _FILES or name.endswith(".html"):
            raise NotFound
        return _file(name)


def _file(name: str) -> Response[bytes]:
    return Response(_FILES[name], media_type=_MEDIA_TYPES[Path(name).suffix], headers=_HEADERS)
