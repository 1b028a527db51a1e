"""What to do when a job ends: a pure decision, carried out by the scheduler."""

from dataclasses import dataclass
from typing import Literal

from p2p_dist.errors import Exit

MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Decision:
    """Retry, or give up on the job and all that waits for it."""

    action: Literal["done", "retry", "fail"]
    reason: str


def after_exit(code: int, attempts: int, outputs_there: bool) -> Decision:
    """`code` is the worker's exit code, negative for a signal; `attempts` counts this one.

    A killed worker is tried again, a worker that was asked to stop is requeued without using up an attempt, and a bug or
    a bad input is not repeated: it would end the same way.
    """
    if code == Exit.OK:
        return Decision("done", "") if outputs_there else Decision("fail", "exited with 0 but left no result")
    if code == Exit.REQUEUE:
        return Decision("retry", "stopped on request")
    if code < 0 or code > 128:
        name = f"killed by signal {-code if code < 0 else code - 128}"
        return Decision("retry", name) if attempts < MAX_ATTEMPTS else Decision("fail", f"{name}, {attempts} times")
    return Decision("fail", f"exit code {code}")
