"""The log: one JSON object a line, with what happened and never with what was said."""

import logging
import sys
import time
import traceback
from asyncio import get_running_loop
from contextlib import suppress
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO, cast

import msgspec
from asyncpg import PostgresError

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is served in this context."""

_QUIET = {"yoyo": logging.WARNING, "httpx": logging.WARNING, "httpcore": logging.WARNING, "uvicorn": logging.ERROR}
_encode = msgspec.json.Encoder(enc_hook=lambda value: type(value).__name__).encode


def cause_of(error: BaseException) -> dict[str, str]:
    """What may be told of an error: its class, its place, SQLSTATE and constraint; never its words.

    A driver's words hold what a client said (its `detail` the whole row).
    """
    cause = {"error": type(error).__name__}
    if isinstance(error, PostgresError):
        fields = {"sqlstate": error.sqlstate, "constraint": getattr(error, "constraint_name", None)}
        cause |= {name: value for name, value in fields.items() if value}
    if frames := traceback.extract_tb(error.__traceback__):
        cause["place"] = f"{frames[-1].filename}:{frames[-1].lineno}"
    return cause


def log_broken(logger: logging.Logger, error: BaseException) -> None:
    """Says that something broke, and what may be told of it; no traceback, which ends in its words."""
    logger.error("broken", extra={"fields": cause_of(error)})


@lru_cache(maxsize=1)
def _second(created: int) -> str:
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _line(created: float, level: str, logger: str, message: str) -> dict[str, object]:
    line: dict[str, object] = {
        "time": f"{_second(int(created))}.{int(created % 1 * 1000):03d}+00:00",
        "level": level,
        "logger": logger,
        "message": message,
    }
    if (request_id := REQUEST_ID.get()) is not None:
        line["request_id"] = request_id
    return line


class JsonFormatter(logging.Formatter):
    """A record as a JSON object: time, level, logger, message, the request's id, and the record's own `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without the words of any exception: others than ourselves put them behind their first line."""
        message = record.getMessage()
        if not record.name.startswith("verbatim"):
            message = message.partition("\n")[0]
        line = _line(record.created, record.levelname.lower(), record.name, message)
        if record.exc_info and record.exc_info[1] is not None:
            line |= cause_of(record.exc_info[1])
        line |= getattr(record, "fields", {})
        return _encode(line).decode()


class LineLogger:
    """Writes lines of one kind, as JsonFormatter would; what logging does around each costs more than the line.

    What comes in one turn of the event loop is written at its end, by one system call.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._lines: list[bytes] = []

    def info(self, message: str, fields: dict[str, object]) -> None:
        """One line, if the level is logged."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        handlers = self._logger.root.handlers
        if len(handlers) == 1 and isinstance(handlers[0].formatter, JsonFormatter) and not self._logger.handlers:
            handler = cast("logging.StreamHandler[TextIO]", handlers[0])
            line = _line(time.time(), "info", self._logger.name, message)
            line.update(fields)
            if not self._lines:
                get_running_loop().call_soon(self._write, handler.stream, context=Context())
            self._lines.append(_encode(line))
        else:
            self._logger.info(message, extra={"fields": fields})

    def _write(self, stream: TextIO) -> None:
        lines, self._lines = b"\n".join([*self._lines, b""]), []
        with suppress(OSError, ValueError):  # a reader of the log that left
            stream.write(lines.decode())
            stream.flush()


def configure_logs(level: str) -> None:
    """Sends all logs of this process to stderr as JSON, from a level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # a reader of the log that left is no reason to write tracebacks
    for name, least in _QUIET.items():  # httpx would write URLs whole
        logging.getLogger(name).setLevel(least)
