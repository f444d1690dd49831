"""The documentation page: the OpenAPI document as one plain HTML page, without script or anything from elsewhere."""

import json
from collections.abc import Iterator
from html import escape

from msgspec import Struct

from app.openapi import Json

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .75rem; border-radius: 6px; overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .25rem .75rem; }
summary { cursor: pointer; padding: .25rem 0; }
summary b { display: inline-block; min-width: 4.5rem; }
table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid var(--line); padding: .3rem .5rem; vertical-align: top; }
td:first-child { white-space: nowrap; }
"""


class Documents(Struct, frozen=True):
    """The API's description for programs and for people, made once."""

    openapi: bytes
    docs: bytes


def render_docs(document: Json) -> bytes:
    """The page, in UTF-8."""
    return "".join(_page(document)).encode()


def _page(document: Json) -> Iterator[str]:
    info = _object(document["info"])
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{_text(info['title'])} API</title><style>{_STYLE}</style>"
    yield f"<h1>{_text(info['title'])} API {_text(info['version'])}</h1>"
    yield f'<p>For programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI {_text(document["openapi"])}).</p>'
    yield from (f"<p>{_marked(block)}</p>" for block in str(info["description"]).split("\n\n"))
    for path, methods in _object(document["paths"]).items():
        for method, operation in _object(methods).items():
            yield from _operation(path, method, _object(operation))
    yield "<h2>Shapes</h2>"
    for name, schema in _object(_object(document["components"])["schemas"]).items():
        yield f'<details id="{_text(name)}"><summary><code>{_text(name)}</code></summary>{_json(schema)}</details>'
    yield "</html>"


def _operation(path: str, method: str, operation: Json) -> Iterator[str]:
    name = _text(operation["operationId"])
    yield f'<details id="{name}"><summary><b>{method.upper()}</b> <code>{_text(path)}</code> '
    yield f"{_text(operation['summary'])} <small>[{name}]</small></summary>"
    yield f"<p>{_marked(str(operation.get('description', '')))}</p>"
    if rows := [_parameter(_object(parameter)) for parameter in _list(operation["parameters"])]:
        yield f"<table>{''.join(rows)}</table>"
    if "requestBody" in operation:
        media = _object(_object(_object(operation["requestBody"])["content"])["application/json"])
        yield f"<h4>Body</h4>{_json(media['schema'])}"
        if "example" in media:
            yield f"<p>For example:</p>{_json(media['example'])}"
    yield "<h4>Answers</h4><table>"
    for status, response in _object(operation["responses"]).items():
        yield f"<tr><td>{status}</td><td>{_marked(str(_object(response)['description']))}</td></tr>"
    yield "</table></details>"


def _parameter(parameter: Json) -> str:
    kind = f"{_text(parameter['in'])}{', required' if parameter['required'] else ''}"
    described = _marked(str(parameter.get("description", "")))
    return f"<tr><td><code>{_text(parameter['name'])}</code><br><small>{kind}</small></td><td>{described}</td></tr>"


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return escape(str(value))


def _marked(text: str) -> str:
    """Escaped, with `code` between backticks and lines of a list on their own."""
    parts = _text(text).replace("\n- ", "<br>• ").removeprefix("- ").split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _json(value: object) -> str:
    return f"<pre>{_text(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
