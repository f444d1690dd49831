"""What can go wrong, in the words of the domain.

A `DomainError` carries data and no HTTP; `problems.py` gives each its status, type and title.
The docstring of each class is the `title` a client reads and never varies.
"""

from msgspec import Struct


class Flaw(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One thing wrong with a request: where it is, and what is wrong with it."""

    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None
    message: str


class DomainError(Exception):
    """The request cannot be served."""

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidInput(DomainError):
    """The request is malformed."""

    def __init__(self, *flaws: Flaw, detail: str | None = None) -> None:
        super().__init__(detail or (flaws[0].message if flaws else None))
        self.flaws = flaws


class ReservedId(InvalidInput):
    """A client id has the form of a message id of this conversation."""


class UserRequired(InvalidInput):
    """The key acts for no user of its own: name one in X-User-Id."""


class InvalidCredentials(DomainError):
    """The request carries no valid credentials."""


class UserMismatch(DomainError):
    """X-User-Id names another user than the credentials."""


class AdminRequired(DomainError):
    """Only an admin key of the tenant can do this."""


class NotFound(DomainError):
    """There is no such thing here."""


class Conflict(DomainError):
    """The request conflicts with what is stored."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__()
        self.conversation_id = conversation_id


class ConversationExists(Conflict):
    """A conversation with this id or key exists."""


class ConversationDeleted(Conflict):
    """The conversation with this id is deleted."""


class KeyTaken(Conflict):
    """Another conversation has taken the key."""


class ReplyInProgress(Conflict):
    """A reply is being made in this conversation."""

    def __init__(self, conversation_id: str, message_id: str) -> None:
        super().__init__(conversation_id)
        self.message_id = message_id


class PreconditionFailed(DomainError):
    """The conversation is not at the version that If-Match names."""

    def __init__(self, last_seq: int, revision: int) -> None:
        super().__init__()
        self.last_seq = last_seq
        self.revision = revision


class RequestTimeout(DomainError):
    """The request did not arrive in time."""


class TooLarge(DomainError):
    """The request is larger than the limit."""


class UnsupportedMediaType(DomainError):
    """The body must be application/json."""


class ContextExceeded(DomainError):
    """The newest turn is larger than the context of the model."""


class IdempotencyKeyReused(DomainError):
    """The Idempotency-Key was used before with another body."""


class ClientIdReused(DomainError):
    """A client id is stored already with another message or under another key."""


class Unavailable(DomainError):
    """The service cannot do this now; try again."""

    def __init__(self, retry_after_seconds: int = 1) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class ModelUnavailable(Unavailable):
    """The model cannot answer now; try again."""

    def __init__(self, detail: str, retry_after_seconds: int = 1) -> None:
        super().__init__(retry_after_seconds)
        self.detail = detail


class ModelFailed(DomainError):
    """The model failed to give a whole answer."""


class ModelRefused(DomainError):
    """The model refuses this conversation."""
