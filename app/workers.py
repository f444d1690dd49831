"""Several processes on one socket: started, started again when one is lost, stopped together."""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from app.logs import cause_of

RESTART_SECONDS = 1.0
"""Between two starts of a worker, else one that cannot live would take all of a core."""

_LOOK_SECONDS = 0.2
_SIGNALS = {signal.SIGTERM, signal.SIGINT}
_GOOD_ENDS = {0, -signal.SIGTERM, -signal.SIGINT}
_logger = logging.getLogger("verbatim")

Serve = Callable[[int, Callable[[], None]], None]
"""Serves until SIGTERM, or until a descriptor has nobody who could write to it; says when it is ready."""


class Workers:
    """The processes, as their parent sees them."""

    def __init__(self, count: int, serve: Serve, on_stop: Callable[[], None]) -> None:
        self._count, self._serve, self._on_stop = count, serve, on_stop
        self._started_at: dict[int, float] = {}
        self._is_stopping = False
        self._has_failed = False

    def run(self, on_ready: Callable[[], None]) -> int:
        """Until all have ended: after SIGTERM or SIGINT, or because one was never ready. The exit code."""
        # A parent that is killed leaves its end of one pipe; workers that are ready write to the other.
        self._life, self._own_life = os.pipe()
        self._ready, self._tell_ready = os.pipe()
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        for _ in range(self._count):
            self._start()
        ready_count = 0
        while self._started_at:
            if select.select([self._ready], [], [], _LOOK_SECONDS)[0]:
                was_ready = ready_count >= self._count
                ready_count += len(os.read(self._ready, 1024))
                if ready_count >= self._count and not was_ready:
                    on_ready()
            self._look(has_served=ready_count > 0)
        return int(self._has_failed)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._is_stopping = True
        self._on_stop()
        for pid in self._started_at:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number)

    def _look(self, *, has_served: bool) -> None:
        for pid, started_at in [*self._started_at.items()]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self._started_at[pid]
            if self._is_stopping:  # the server passes on the signal that ended it
                self._has_failed |= os.waitstatus_to_exitcode(status) not in _GOOD_ENDS
            elif has_served:
                _logger.error("a worker was lost", extra={"fields": {"status": os.waitstatus_to_exitcode(status)}})
                time.sleep(max(0.0, started_at + RESTART_SECONDS - time.monotonic()))
                self._start()
            else:
                self._has_failed = True
                self._stop(signal.SIGTERM, None)

    def _start(self) -> None:
        # A signal in between waits: until the parent knows the worker, and the worker ends by it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if not self._is_stopping:
                pid = os.fork()
                if not pid:
                    self._work()
                self._started_at[pid] = time.monotonic()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _work(self) -> NoReturn:
        """In the worker; it never returns, else what its parent has opened would be closed twice."""
        code = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C goes to the parent, which passes it on
            os.close(self._own_life)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._serve(self._life, lambda: _tell(self._tell_ready))
            code = 0
        except Exception as error:  # noqa: BLE001  # a fork must not return to its parent's code
            _logger.error("broken", extra={"fields": cause_of(error)})  # noqa: TRY400  # a traceback would show an error's words
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _tell(descriptor: int) -> None:
    os.write(descriptor, b".")
