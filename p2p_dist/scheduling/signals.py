"""Being asked to stop: SIGTERM or SIGUSR1 to the controller (a scheduler's warning, `kill`) set a flag and nothing
else."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def requests() -> Iterator[Callable[[], bool]]:
    """While the block runs, the yielded function says whether a signal has come. The old handlers come back
    afterwards."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
