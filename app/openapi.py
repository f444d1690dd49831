"""The OpenAPI document, made from the routes: each handler says what it takes and answers in its `opt`."""

import inspect
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import get_type_hints

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.routes.base import BaseRoute
from msgspec import Struct

from app import errors, sse
from app.errors import DomainError
from app.openai_errors import example_of, is_openai, status_at
from app.problems import PROBLEMS, InternalError, Problem, title_of, type_of
from app.wire.conversations import ConversationId, Key
from app.wire.openai import ErrorEnvelope, NewItem
from app.wire.sessions import SessionId

Json = dict[str, object]

REF = "#/components/schemas/{name}"
_NULL = {"type": "null"}
_GENERIC = re.compile(r"(\w+)_(\w+)_$")  # as msgspec names a Page[Message]
_COMMON_ERRORS = (errors.InvalidInput, errors.InvalidCredentials, errors.UserMismatch, errors.UserRequired)
_ADMIN_ERRORS = (errors.InvalidInput, errors.InvalidCredentials, errors.AdminRequired)
_ALWAYS_POSSIBLE = (InternalError, errors.Unavailable)
_BODY_ERRORS = (errors.RequestTimeout, errors.TooLarge, errors.UnsupportedMediaType)
_DESCRIPTION = """\
Verbatim keeps conversations between people and language models: every message once, in order, exactly as it was said,
only for its owner, found in milliseconds, gone when asked.

A request acts for one owner: the tenant of the key or token, and its user. `Authorization: Bearer` carries a service
key or a JWT; with a key that is bound to no user, `X-User-Id` names the user. What belongs to another owner is
answered like what does not exist. Operations on a tenant as a whole want one of its admin keys, and no user.

Under `/openai/v1` every error is `application/json` in the envelope of OpenAI's errors. Everywhere else it is
`application/problem+json` (RFC 9457) with one of these types:

"""

_HEADERS: dict[str, Json] = {
    "X-User-Id": {
        "description": "The user to act for: required with a key that is bound to no user, else it must equal the "
        "bound user. UTF-8, 1-255 characters.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"},
        "example": "alice",
    },
    "Idempotency-Key": {
        "description": "Marks the request, so that repeating it does it once: 1-255 visible ASCII characters, bare or "
        "quoted. The same request again is answered with what the first one made and `Idempotent-Replay: true`; "
        "another body with the same key is refused.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]*$"},
        "example": "7f3a2c1e-turn-1",
    },
    "If-Match": {
        "description": 'The version that the conversation must be at: `"<last_seq>.<revision>"`, `"<last_seq>"` for '
        "the head alone, or `*`. Else 412 with the version it is at.",
        "schema": {"type": "string", "pattern": r'^"[0-9]{1,18}(\.[0-9]{1,18})?"$|^[*]$'},
        "example": '"2.0"',
    },
    "If-None-Match": {
        "description": "ETags that the client holds: 304 when the conversation is still at one of them.",
        "schema": {"type": "string"},
        "example": '"2.0"',
    },
    "Last-Event-ID": {
        "description": "The id of the last event that the client has: the stream goes on behind it.",
        "schema": {"type": "string"},
    },
}
_ANSWER_HEADERS: dict[str, Json] = {
    "ETag": {"description": 'The conversation\'s version, `"<last_seq>.<revision>"`.', "schema": {"type": "string"}},
    "Location": {"description": "The path of what was made.", "schema": {"type": "string"}},
    "Idempotent-Replay": {
        "description": "`true`: an earlier request made it; this one only repeats the answer.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
    "x-request-id": {
        "description": "The request's own `x-request-id` when it was well-formed, else one made for it.",
        "schema": {"type": "string"},
    },
}
_TAGS = {
    "conversations": "Made, found, listed, changed, deleted, restored, forked.",
    "messages": "Appended once, in order, kept as they came; read, edited, deleted, restored.",
    "replies": "Made by the configured model, kept as they grow.",
    "events": "What happens, as it happens.",
    "stats": "What is counted: of a conversation, and of a tenant by day.",
    "sessions": "Conversations, as session-style chat backends speak of them.",
    "openai": "Conversations, as OpenAI's clients speak of them; errors come in their envelope.",
    "service": "Open to all, since it holds no data.",
}


class Operation(Struct, kw_only=True, frozen=True):
    """What a handler takes and answers, beyond its path."""

    answers: dict[int, object]
    """The type of each answer's body by status; None: no body."""
    body: tuple[type[Struct], ...] = ()
    """The types that the body can have."""
    body_is_optional: bool = False
    query: type[Struct] | None = None
    headers: tuple[str, ...] = ()
    answer_headers: tuple[str, ...] = ()
    errors: tuple[type[DomainError], ...] = ()
    example: object = None
    """Of the body."""
    events: Mapping[str, type[Struct]] = {}
    """The types of an event stream's data by the events' names."""

    def __deepcopy__(self, _memo: object) -> "Operation":
        """Itself: Litestar copies what handlers say, which takes a sixth of the time to make an application."""
        return self


def build_document(routes: Sequence[BaseRoute], version: str) -> Json:
    """The OpenAPI 3.1 document of all handlers that carry an Operation."""
    handlers = [
        (route.path_format, handler)
        for route in routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if "operation" in handler.opt
    ]
    operations: list[Operation] = [handler.opt["operation"] for _, handler in handlers]
    types: list[object] = [kind for operation in operations for kind in operation.body]
    types += [kind for operation in operations for kind in operation.answers.values() if kind is not None]
    types += [kind for operation in operations for kind in operation.events.values()]
    _, schemas = msgspec.json.schema_components([*types, Problem, ErrorEnvelope, NewItem], ref_template=REF)
    paths: dict[str, Json] = defaultdict(dict)
    for path, handler in sorted(handlers, key=lambda pair: (pair[0], min(pair[1].http_methods))):
        for method in sorted(handler.http_methods):
            paths[path][method.lower()] = _operation(path, handler)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Verbatim",
            "version": version,
            "description": _DESCRIPTION + _list_problems(),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"serviceKey": []}, {"jwt": []}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(_tidy_components(schemas).items())),
            "headers": _ANSWER_HEADERS,
            "securitySchemes": {
                "serviceKey": {"type": "http", "scheme": "bearer", "description": "`vb_<prefix>_<secret>`"},
                "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _list_problems() -> str:
    return "\n".join(f"- `{type_of(error)}` ({status}): {title_of(error)}" for error, (status, _) in PROBLEMS.items())


def _operation(path: str, handler: HTTPRouteHandler) -> Json:
    operation: Operation = handler.opt["operation"]
    is_open = handler.opt.get("is_open", False)
    is_admin = handler.opt.get("is_admin", False)
    summary, _, rest = inspect.cleandoc(handler.fn.__doc__ or "").partition("\n")
    document: Json = {
        "operationId": handler.operation_id,
        "summary": summary.rstrip("."),
        "tags": handler.resolve_tags(),
        "parameters": _parameters(path, operation, acts_for_user=not (is_open or is_admin)),
        "responses": _responses(path, operation, () if is_open else _ADMIN_ERRORS if is_admin else _COMMON_ERRORS),
    }
    if rest.strip():
        document["description"] = rest.strip()
    if is_open:
        document["security"] = []
    if is_admin:
        document["security"] = [{"serviceKey": []}]
    if operation.body:
        schemas = [_schema(kind) for kind in operation.body]
        media: Json = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
        if operation.example is not None:
            media["example"] = operation.example
        document["requestBody"] = {
            "required": not operation.body_is_optional,
            "content": {"application/json": media},
        }
    return document


def _schema(kind: object) -> Json:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REF)
    return _tidy(schema)


def _tidy_components(schemas: Mapping[str, Json]) -> Json:
    """The schemas by the names that refer to them; an enumeration is one of its own, named for its member."""
    components: Json = {_GENERIC.sub(r"\2\1", name): _tidy(schema) for name, schema in schemas.items()}
    for owner, schema in list(components.items()):
        for name, member in _object(_object(schema).get("properties")).items():
            enumeration = {"type": "string", "enum": [value for value in _list(_object(member).get("enum")) if value]}
            if not enumeration["enum"]:
                continue
            title = name.title().replace("_", "")
            if components.setdefault(title, enumeration) != enumeration:  # another of the same name
                title = f"{owner}{title}"
                components[title] = enumeration
            reference: Json = {"$ref": REF.format(name=title)}
            is_nullable = None in _list(_object(member)["enum"])
            _object(_object(schema)["properties"])[name] = {"anyOf": [reference, _NULL]} if is_nullable else reference
    return components


def _tidy(value: Json) -> Json:
    """A schema as generators of clients like it best, which says the same.

    No noise, null as a type beside the other, 64-bit integers and times as such, patterns without what only Python
    knows.
    """
    schema = {name: _tidy_part(part) for name, part in value.items() if _says_something(name, part)}
    if isinstance(schema.get("$ref"), str):
        schema["$ref"] = _GENERIC.sub(r"\2\1", str(schema["$ref"]))
    if isinstance(schema.get("pattern"), str):
        schema["pattern"] = str(schema["pattern"]).replace(r"$(?!\n)", "$").replace(r"\u0000", r"\x00")
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    if "enum" in schema:
        schema.setdefault("type", "string")
        values = _list(schema["enum"])
        if len(values) == 1:
            schema = {name: part for name, part in schema.items() if name != "enum"} | {"const": values[0]}
    for name, member in _object(schema.get("properties")).items():
        if name.endswith("_at") and not {"integer", "number"} & _types(_object(member)):
            _object(member)["format"] = "date-time"
    return _with_null(schema)


def _types(schema: Json) -> set[object]:
    kinds = schema.get("type")
    return set(_list(kinds)) or {kinds}


def _says_something(name: str, part: object) -> bool:
    if name == "title":
        return not isinstance(part, str)
    return name not in {"default", "required"} or part not in (None, [], ())


def _tidy_part(part: object) -> object:
    if isinstance(part, list):
        return [_tidy_part(item) for item in part]
    return _tidy(part) if isinstance(part, dict) else part


def _with_null(schema: Json) -> Json:
    options = _list(schema.get("anyOf"))
    others = [_object(option) for option in options if option != _NULL]
    if len(options) != 2 or len(others) != 1 or "$ref" in others[0]:  # noqa: PLR2004  # a type or null
        return schema
    (other,) = others
    rest = {name: part for name, part in schema.items() if name != "anyOf"}
    if isinstance(other.get("type"), str):
        other = other | {"type": [other["type"], "null"]}
        if "enum" in other:
            other["enum"] = [*_list(other["enum"]), None]
    return other | rest


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _parameters(path: str, operation: Operation, *, acts_for_user: bool) -> list[Json]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]} for name in names
    ]
    if operation.query is not None:
        parameters += _query_parameters(operation.query)
    headers = ("X-User-Id", *operation.headers) if acts_for_user else operation.headers
    return parameters + [{"name": name, "in": "header", "required": False, **_HEADERS[name]} for name in headers]


def _described(schema: Json) -> Json:
    """A schema whose description stands beside it."""
    rest = {name: part for name, part in schema.items() if name != "description"}
    return {"description": schema.get("description", ""), "schema": rest}


_PATH_PARAMETERS: dict[str, Json] = {
    "conversation_id": {**_described(_schema(ConversationId)), "example": "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10"},
    "message_id": {
        "description": "The message's `id` or its `client_id`.",
        "schema": {"type": "string"},
        "example": "f9873934-b5db-8f35-807d-ae0000000001",
    },
    "key": {**_described(_schema(Key)), "example": "default"},
    "session_id": {**_described(_schema(SessionId)), "example": "0192a4c8-7c1e-7d3a-9f00-3f1c5a2b7e10"},
    "openai_conversation_id": {
        "description": "The conversation's `id`: `conv_` and 32 hex digits. The native API's is understood, too.",
        "schema": {"type": "string", "pattern": "^conv_[0-9a-f]{32}$|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
        "example": "conv_0192a4c87c1e7d3a9f003f1c5a2b7e10",
    },
    "model_name": {"description": "The model's `id`.", "schema": {"type": "string"}, "example": "echo"},
    "item_id": {
        "description": "The item's `id`.",
        "schema": {"type": "string"},
        "example": "msg_f9873934b5db8f35807dae00000000010000",
    },
}


def _query_parameters(struct: type[Struct]) -> list[Json]:
    hints = get_type_hints(struct, include_extras=True)
    parameters = []
    for field in msgspec.structs.fields(struct):
        schema = _schema(hints[field.name])
        if isinstance(schema.get("type"), list):
            schema["type"] = next(kind for kind in _list(schema["type"]) if kind != "null")
        if not field.required and field.default is not None:
            schema["default"] = field.default
        parameters.append({"name": field.name, "in": "query", "required": field.required, **_described(schema)})
    return parameters


def _responses(path: str, operation: Operation, common_errors: Sequence[type[DomainError]]) -> Json:
    responses: Json = {}
    for status, kind in operation.answers.items():
        names = (*operation.answer_headers, "x-request-id")
        response: Json = {
            "description": _REASONS[status],
            "headers": _answer_headers(names),
        }
        content: Json = {} if kind is None else {"application/json": {"schema": _schema(kind)}}
        if operation.events and status != HTTPStatus.NO_CONTENT:
            content[sse.MEDIA_TYPE] = _event_stream(operation.events)
        if content:
            response["content"] = content
        responses[str(status)] = response
    possible = [*operation.errors, *_ALWAYS_POSSIBLE, *common_errors]
    if operation.body:
        possible += _BODY_ERRORS
    by_status: dict[int, list[type[DomainError]]] = defaultdict(list)
    for error in dict.fromkeys(possible):
        by_status[status_at(path, error)].append(error)
    for status, kinds in sorted(by_status.items()):
        describe = _envelope_response if is_openai(path) else _problem_response
        responses[str(status)] = {"headers": _error_headers(kinds), **describe(status, kinds)}
    return responses


def _event_stream(events: Mapping[str, type[Struct]]) -> Json:
    names = ", ".join(f"`{name}`" for name in events)
    return {
        "schema": {"description": f"Server-sent events, their `data` JSON: {names}."},
        "x-events": {name: _schema(kind) for name, kind in events.items()},
    }


def _answer_headers(names: Sequence[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


_REASONS = {
    200: "Done, or done before.",
    201: "Made.",
    204: "Done, or there is no more.",
    304: "The conversation is still at a version that the client holds.",
}


def _error_headers(kinds: list[type[DomainError]]) -> Json:
    names = ["x-request-id"]
    names += ["Retry-After"] if errors.Unavailable in kinds else []
    names += ["WWW-Authenticate"] if errors.InvalidCredentials in kinds else []
    return _answer_headers(names)


def _envelope_response(_status: int, kinds: list[type[DomainError]]) -> Json:
    return {
        "description": " Or: ".join(map(title_of, kinds)),
        "content": {
            "application/json": {
                "schema": {"$ref": REF.format(name="ErrorEnvelope")},
                "examples": {PROBLEMS[kind][1]: {"value": msgspec.to_builtins(example_of(kind))} for kind in kinds},
            }
        },
    }


def _problem_response(status: int, kinds: list[type[DomainError]]) -> Json:
    return {
        "description": " Or: ".join(f"`{type_of(kind)}`: {title_of(kind)}" for kind in kinds),
        "content": {
            "application/problem+json": {
                "schema": {"$ref": REF.format(name="Problem")},
                "examples": {
                    PROBLEMS[kind][1]: {
                        "value": {
                            "type": type_of(kind),
                            "title": title_of(kind),
                            "status": status,
                            "request_id": "5f0c8e1d2a9b4c7e",
                        }
                    }
                    for kind in kinds
                },
            }
        },
    }
