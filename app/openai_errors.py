"""Errors as OpenAI's clients know them, for every path under the prefix of their door."""

import re

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.types import HTTPScope
from msgspec import Struct

from app import errors
from app.errors import DomainError, Flaw, InvalidInput
from app.problems import (
    PROBLEMS,
    Answer,
    Render,
    answer_error,
    headers_of,
    render_problem,
    status_of,
    title_of,
)
from app.wire.openai import ErrorBody, ErrorEnvelope

PREFIX = "/openai/v1"

_SERVER_ERROR = 500
_ANSWERS: dict[type[DomainError], tuple[int, str | None, str | None]] = {
    errors.InvalidCredentials: (401, "invalid_api_key", None),
    errors.UserRequired: (400, "user_required", None),
    errors.UserMismatch: (403, "user_mismatch", None),
    errors.ReservedId: (400, "invalid_value", "items"),
    errors.NotFound: (404, None, None),
    errors.ConversationDeleted: (400, "conversation_deleted", None),  # a 409 would be tried again
    errors.ConversationExists: (400, "conversation_exists", None),
    errors.ReplyInProgress: (400, "conversation_locked", "conversation"),
    errors.ClientIdReused: (400, "item_already_in_conversation", "items"),
    errors.IdempotencyKeyReused: (400, "idempotency_key_reused", None),
    errors.ContextExceeded: (400, "context_length_exceeded", "input"),
    errors.ModelRefused: (400, "model_refused", None),
    errors.ModelFailed: (502, "model_failed", None),
    errors.ModelUnavailable: (503, "model_unavailable", None),
    errors.TooLarge: (413, "request_too_large", None),
    errors.UnsupportedMediaType: (415, "unsupported_content_type", None),
}
"""Status, code and parameter, where they are others than those of a problem."""

_OWN_WORDS: dict[type[DomainError], str] = {
    errors.UserRequired: title_of(errors.UserRequired),
    errors.ReservedId: "An item brings an id of the form that messages of this conversation have in the native API.",
    errors.ClientIdReused: "An item brings an id that the conversation has already.",
}
"""What is said of an error here, where its own words are those of the native API."""

_CODES = (
    (r"is required", "missing_required_parameter"),
    (r"is unknown", "unknown_parameter"),
    (r".*is not supported", "unsupported_parameter"),
    (r"expected `array` of length >= 1", "empty_array"),
    (r"expected `array` of length <= .*", "array_above_max_length"),
    (r"expected `string` of length <= .*|is longer than .*", "string_above_max_length"),
    (r"expected `integer` >= .*", "integer_below_min_value"),
    (r"expected `integer` <= .*|integer value out of range", "integer_above_max_value"),
    (r"expected `number` >= .*", "decimal_below_min_value"),
    (r"expected `number` <= .*", "decimal_above_max_value"),
    (r"has more than .* members", "object_above_max_properties"),
    (r"has a name of more than .*", "property_name_above_max_length"),
    (r"(expected|must be) .*|is not written as such a value is", "invalid_type"),
    (r"(malformed JSON|invalid UTF-8|lone surrogate).*", "invalid_json"),
)
_OTHER = "invalid_value"
_PATTERNS = [(re.compile(pattern, re.DOTALL), code) for pattern, code in _CODES]
_WORDS = {
    "missing_required_parameter": "Missing required parameter: '{param}'.",
    "unknown_parameter": "Unknown parameter: '{param}'.",
    "invalid_json": "The body is no JSON that can be kept: {message}.",
}
_WORDING = "Invalid '{param}': {message}."
_PLAIN_NAME = re.compile(r"[0-9]{1,9}")


def _absent(conversation_id: str) -> str:
    return f"Conversation with id '{conversation_id}' not found."


class Refusal(DomainError):
    """The request is refused in this protocol's own words."""

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.param, self.status = code, param, status


class _Parts(Struct, frozen=True):
    status: int
    message: str
    code: str | None
    param: str | None


def is_openai(path: str) -> bool:
    """Whether a path is one of this door."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def status_at(path: str, error: type[DomainError]) -> int:
    """The status with which an error is answered at a path."""
    return _ANSWERS[error][0] if error in _ANSWERS and is_openai(path) else status_of(error)


def example_of(error: type[DomainError]) -> ErrorEnvelope:
    """An envelope of this error, as a client may meet it."""
    return _envelope_of(_EXAMPLES[error] if error in _EXAMPLES else _parts_of_kind(error, None))


def answer_openai_error(request: Request[object, object, State], error: Exception) -> Response[bytes]:
    """The answer to a request that raised, in the envelope of OpenAI's errors."""
    if type(error) is errors.NotFound and error.detail is None and "openai_conversation_id" in request.path_params:
        error.detail = _absent(request.path_params["openai_conversation_id"])
    return answer_error(request, error, render_openai_error)


def answer_as_asked(request: Request[object, object, State], error: Exception) -> Response[bytes]:
    """The answer to a request that raised, in the words of the door by which it came."""
    return (answer_openai_error if is_openai(request.scope["path"]) else answer_error)(request, error)


def render_of(scope: HTTPScope) -> Render:
    """How an error is written for who speaks to a path."""
    return render_openai_error if is_openai(scope["path"]) else render_problem


def render_openai_error(problem: DomainError, _request_id: str) -> Answer:
    """The envelope of an error."""
    parts = _parts_of(problem)
    headers = {"Content-Type": "application/json", **headers_of(problem)}
    return Answer(parts.status, headers, msgspec.json.encode(_envelope_of(parts)))


def _envelope_of(parts: _Parts) -> ErrorEnvelope:
    kind = "server_error" if parts.status >= _SERVER_ERROR else "invalid_request_error"
    return ErrorEnvelope(error=ErrorBody(message=parts.message, type=kind, param=parts.param, code=parts.code))


def _parts_of(problem: DomainError) -> _Parts:
    if isinstance(problem, Refusal):
        return _Parts(problem.status, problem.detail or "", problem.code, problem.param)
    if type(problem) is InvalidInput and problem.flaws:
        return _of_flaw(problem.flaws[0])
    return _parts_of_kind(type(problem), problem.detail)


def _parts_of_kind(kind: type[DomainError], detail: str | None) -> _Parts:
    status, code, param = _ANSWERS.get(kind, (None, None, None))
    if status is None:
        status, name = PROBLEMS[kind]
        code = name.replace("-", "_")
    return _Parts(status, _OWN_WORDS.get(kind) or detail or title_of(kind), code, param)


def _of_flaw(flaw: Flaw) -> _Parts:
    param = (flaw.parameter or flaw.header or "") if flaw.pointer is None else _param_of(flaw.pointer)
    code = next((code for pattern, code in _PATTERNS if pattern.fullmatch(flaw.message)), _OTHER)
    words = _WORDS.get(code, _WORDING if param else "Invalid request: {message}.")
    message = words.format(param=param, message=flaw.message)
    return _Parts(400, message, code, None if code == "invalid_json" else param or None)


def _param_of(pointer: str) -> str:
    """A JSON pointer as this protocol writes places: `items[0].content`."""
    param = ""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        param += f"[{name}]" if param and _PLAIN_NAME.fullmatch(name) else f".{name}" if param else name
    return param


_EXAMPLES = {
    InvalidInput: _of_flaw(Flaw(parameter="limit", message="expected `integer` <= 100")),
    errors.NotFound: _Parts(404, _absent("conv_0192a4c87c1e7d3a9f003f1c5a2b7e10"), None, None),
}
