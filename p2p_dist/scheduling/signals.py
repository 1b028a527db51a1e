"""Stop requests: SIGTERM or SIGUSR1 to the controller (a scheduler's warning, `kill`) end it with exit code 75.

Two modes. Within `raising`, a signal interrupts whatever runs (reading, the start of Ray, the report) with `Stopped`;
every file is written atomically, so any moment will do. Within `stop_requests`, it sets a flag that the scheduler reads
between two actions, so that jobs write checkpoints first.

`Stopped` can get lost on its way: Ray's C code turns it into a SystemError, and a bare `except` ends it. So a request
is also kept until the outermost block ends: `stop_requests` has it from the start, and an error of a library that comes
after it is `Stopped` again.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from p2p_dist.errors import UserError

NUMBERS = (signal.SIGTERM, signal.SIGUSR1)
_requests: list[int] = []
"""Signals since the outermost block began."""
_blocks: list[None] = []
"""An item for each open block of the main thread."""


class Stopped(BaseException):
    """A stop was requested; no `except Exception` of a library may swallow it."""


@contextmanager
def raising() -> Iterator[None]:
    """Raise `Stopped` at the first signal while the block runs; later ones are ignored, since the end is under way."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        _requests.append(number)
        if len(_requests) == 1:
            raise Stopped

    with _block(), _handled(interrupt), restored():
        yield


@contextmanager
def restored() -> Iterator[None]:
    """Raise `Stopped` in place of an error into which a library turned it, or that of a handler of its own. A UserError
    stays: it is no library's."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if _requests or any(isinstance(cause, Stopped | SystemExit) for cause in _causes(error)):
            raise Stopped from error
        raise


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once a signal has arrived, be it before the block, where a library lost it. A
    signal that nothing has answered raises `Stopped` at the end of the block."""
    with _block():
        with _handled(lambda number, frame: _requests.append(number)):
            yield lambda: bool(_requests)
        if _requests:
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
def _block() -> Iterator[None]:
    """Forget the requests when the outermost block ends. Other threads get no signals and forget none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _blocks.append(None)
    try:
        yield
    finally:
        _blocks.pop()
        if not _blocks:
            _requests.clear()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that an error came from, as a traceback shows them."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


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
