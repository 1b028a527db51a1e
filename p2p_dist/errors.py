"""Errors that a user can act on, and the exit codes of every command.

An error says what is wrong, where, what was expected and what to try. Anything else that is raised is a bug of ours and
keeps its traceback.
"""

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes: the same for the command line, the worker and the wrappers around them."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    INTEGRITY = 3
    OWNED = 4
    DEVICE = 74
    """A device is faulty; another one may do the same job."""
    REQUEUE = 75


def printable(text: str, keep: str = "") -> str:
    """Text for a terminal: control, format and surrogate characters are shown as escapes (`\\x1b`), so that a name from
    elsewhere cannot steer the terminal; those in `keep` stay."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `where` is `file:line (key.path)`, a path, or empty."""

    code: str
    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else ""
        hint = f". Try: {self.fix}" if self.fix else ""
        return printable(f"error[{self.code}]: {self.what}{place}{hint}", keep="\n")


class UserError(ValueError):
    """One or more problems, shown together and without a traceback."""

    def __init__(self, *problems: Problem, exit_code: Exit = Exit.USAGE):
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
        self.exit_code = exit_code


def user_error(code: str, what: str, where: str = "", fix: str = "", exit_code: Exit = Exit.USAGE) -> UserError:
    """A UserError with a single problem."""
    return UserError(Problem(code, what, where, fix), exit_code=exit_code)
