"""With what something was made: the versions of what matters and a digest of this package's own source."""

import functools
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from p2p_dist.errors import Exit, Problem, UserError
from p2p_dist.results import atomic, records
from p2p_dist.results.rundir import RunDir

_VERSIONS = ("p2p-dist", "torch", "transformers", "peft", "ray", "deepspeed")


def versions() -> dict[str, str]:
    """Installed versions of this package and of the libraries that can change a number."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def launches(folder: RunDir) -> list[dict[str, Any]]:
    """Every launch of a study, oldest first. Raises UserError E508 when the file is damaged: writing on would lose what
    it had."""
    problems: list[Problem] = []
    found = records.read(folder.provenance, records.Launches, problems)
    if problems:
        fix = "move it away; which commands made the study so far is then not known"
        raise UserError(Problem("E508", problems[0].what, problems[0].where, fix), exit_code=Exit.INTEGRITY)
    return list(found.get("launches", ()))


@functools.cache
def code_digest() -> str:
    """A digest of the package's own source files."""
    root = Path(__file__).parents[1]
    return atomic.digest_of(sorted(root.rglob("*.py")), root)
