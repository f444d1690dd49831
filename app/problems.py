"""Problem details (RFC 9457) for everything that can go wrong: the one place that knows domain errors and HTTP."""

import logging
import os
import re
from collections.abc import Callable
from typing import Annotated

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import HTTPScope
from msgspec import Meta, Struct

from app import errors
from app.errors import DomainError, Flaw
from app.headers import raw_header_values
from app.logs import log_broken

MEDIA_TYPE = "application/problem+json"
_logger = logging.getLogger("verbatim.problems")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:~-]{1,128}")


class MethodNotAllowed(DomainError):
    """The path does not know this method."""


class HeadTooLarge(DomainError):
    """The request's line and headers are larger than the limit."""


class InternalError(DomainError):
    """The service failed; the log has this request_id."""


PROBLEMS: dict[type[DomainError], tuple[int, str]] = {
    errors.InvalidInput: (400, "invalid-input"),
    errors.ReservedId: (400, "reserved-id"),
    errors.UserRequired: (400, "user-required"),
    errors.InvalidCredentials: (401, "invalid-credentials"),
    errors.UserMismatch: (403, "user-mismatch"),
    errors.AdminRequired: (403, "admin-required"),
    errors.NotFound: (404, "not-found"),
    MethodNotAllowed: (405, "method-not-allowed"),
    errors.RequestTimeout: (408, "request-timeout"),
    errors.ConversationExists: (409, "conversation-exists"),
    errors.ConversationDeleted: (409, "conversation-deleted"),
    errors.KeyTaken: (409, "key-taken"),
    errors.ReplyInProgress: (409, "reply-in-progress"),
    errors.PreconditionFailed: (412, "precondition-failed"),
    errors.TooLarge: (413, "too-large"),
    errors.UnsupportedMediaType: (415, "unsupported-media-type"),
    errors.ContextExceeded: (422, "context-exceeded"),
    errors.IdempotencyKeyReused: (422, "idempotency-key-reused"),
    errors.ClientIdReused: (422, "client-id-reused"),
    errors.ModelRefused: (422, "model-refused"),
    HeadTooLarge: (431, "head-too-large"),
    InternalError: (500, "internal-error"),
    errors.ModelFailed: (502, "model-failed"),
    errors.Unavailable: (503, "unavailable"),
    errors.ModelUnavailable: (503, "model-unavailable"),
}


class Problem(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What went wrong, by RFC 9457."""

    type: Annotated[str, Meta(description="`urn:verbatim:problem:<name>`: stable, made for programs.")]
    title: Annotated[str, Meta(description="Never varies for a type.")]
    status: int
    detail: Annotated[str, Meta(description="What is special about this occurrence.")] | None = None
    errors: Annotated[tuple[Flaw, ...], Meta(description="What is wrong with the input, and where.")] = ()
    conversation_id: Annotated[str, Meta(description="The conversation in the way.")] | None = None
    message_id: Annotated[str, Meta(description="The reply in the way.")] | None = None
    last_seq: Annotated[int, Meta(description="Of the conversation's version now.")] | None = None
    revision: Annotated[int, Meta(description="Of the conversation's version now.")] | None = None
    request_id: Annotated[str, Meta(description="Also in the header `x-request-id`, and in the log.")]


class Answer(Struct, frozen=True):
    """A problem as it goes out, whatever carries it."""

    status: int
    headers: dict[str, str]
    body: bytes


Render = Callable[[DomainError, str], Answer]
"""Writes an error as an answer to the request of an id."""


def new_request_id() -> str:
    """An id for a request that has none."""
    return os.urandom(16).hex()


def request_id_of(scope: HTTPScope) -> str:
    """The gateway's x-request-id when it is well-formed, else one made for this request."""
    state: dict[str, object] = scope.setdefault("state", {})
    if not isinstance(request_id := state.get("request_id"), str):
        given = raw_header_values(scope, b"x-request-id")
        is_good = len(given) == 1 and _REQUEST_ID.fullmatch(given[0])
        request_id = given[0].decode() if is_good else new_request_id()
        state["request_id"] = request_id
    return request_id


def type_of(error: type[DomainError]) -> str:
    """The `type` of an error's problem."""
    return f"urn:verbatim:problem:{PROBLEMS[error][1]}"


def status_of(error: type[DomainError]) -> int:
    """The HTTP status of an error's problem."""
    return PROBLEMS[error][0]


def error_named(name: str) -> type[DomainError] | None:
    """The error whose problem has this name."""
    return next((error for error, (_, known) in PROBLEMS.items() if known == name), None)


def title_of(error: type[DomainError]) -> str:
    """The `title` of an error's problem: the first line of its docstring."""
    return (error.__doc__ or "").partition("\n")[0]


def answer_error(
    request: Request[object, object, State], error: Exception, render: Render | None = None
) -> Response[bytes]:
    """The answer to a request that raised: a problem, whatever was raised; `render` writes it otherwise."""
    problem = _translate(error)
    if isinstance(problem, InternalError):
        log_broken(_logger, error)
    answer = (render or render_problem)(problem, request_id_of(request.scope))
    headers = answer.headers
    if isinstance(error, HTTPException):
        headers |= {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    return Response(answer.body, status_code=answer.status, media_type=headers.pop("Content-Type"), headers=headers)


def render_problem(problem: DomainError, request_id: str) -> Answer:
    """The problem that an error of the domain is."""
    status, _ = PROBLEMS[type(problem)]
    body = Problem(
        type=type_of(type(problem)),
        title=title_of(type(problem)),
        status=status,
        detail=problem.detail,
        errors=getattr(problem, "flaws", ()),
        conversation_id=getattr(problem, "conversation_id", None),
        message_id=getattr(problem, "message_id", None),
        last_seq=getattr(problem, "last_seq", None),
        revision=getattr(problem, "revision", None),
        request_id=request_id,
    )
    return Answer(status, {"Content-Type": MEDIA_TYPE, **headers_of(problem)}, msgspec.json.encode(body))


def headers_of(problem: DomainError) -> dict[str, str]:
    """What HTTP wants to be said with an error, in whatever words it is answered."""
    if isinstance(problem, errors.Unavailable):
        return {"Retry-After": str(problem.retry_after_seconds)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(problem, errors.InvalidCredentials) else {}


def _translate(error: Exception) -> DomainError:
    match error:
        case DomainError():
            return error
        case MethodNotAllowedException():
            return MethodNotAllowed()
        case NotFoundException():
            return errors.NotFound()
        case HTTPException(status_code=413):
            return errors.TooLarge("the body is larger than the limit")
        case HTTPException(status_code=status) if 400 <= status < 500:  # noqa: PLR2004  # the class of client errors
            return errors.InvalidInput(detail="the request is malformed")
        case _:
            return InternalError()
