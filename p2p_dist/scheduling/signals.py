"""Stop requests: SIGTERM or SIGUSR1 to the controller (a scheduler's warning, `kill`) end it with exit code 75.

Two modes. Within `raising`, a signal interrupts whatever runs (reading, the start of Ray, the report) with `Stopped`;
every file is written atomically, so any moment will do. Within `stop_requests`, it sets a flag that the scheduler reads
between two actions, so that jobs write checkpoints first.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """A stop was requested; no `except Exception` of a library may swallow it."""


@contextmanager
def raising() -> Iterator[None]:
    """Raise `Stopped` at the first signal while the block runs; later ones are ignored, since the end is under way."""
    seen: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) == 1:
            raise Stopped

    with _handled(interrupt):
        yield


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once a signal has arrived. A signal that nothing has answered raises `Stopped`
    at the end of the block."""
    seen: list[int] = []
    with _handled(lambda number, frame: seen.append(number)):
        yield lambda: bool(seen)
    if seen:
        raise Stopped


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Restore the handlers after a block in which a library sets its own; an exit by such a handler is `Stopped`."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    try:
        yield
    except SystemExit as error:
        raise Stopped from error
    finally:
        _set(before)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = _set(dict.fromkeys(NUMBERS, handler))
    try:
        yield
    finally:
        _set(before)


def _set(handlers: dict[signal.Signals, Any]) -> dict[signal.Signals, Any]:
    """Set handlers and return those before; nothing in a thread, which cannot have handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number, handler in handlers.items() if handler is not None}
