"""Provenance: versions of the relevant libraries and a digest of this package's source."""

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
    installed = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def launches(folder: RunDir) -> list[dict[str, Any]]:
    """Launches of a study, oldest first. Raises UserError E508 when the file is damaged: appending would lose its
    content."""
    problems: list[Problem] = []
    content = records.read(folder.provenance, records.Launches, problems)
    if problems:
        fix = "move it away; the record of earlier commands is then lost"
        raise UserError(Problem("E508", problems[0].what, problems[0].where, fix), exit_code=Exit.INTEGRITY)
    return list(content.get("launches", ()))


@functools.cache
def code_digest() -> str:
    """Digest of the package's source files."""
    root = Path(__file__).parents[1]
    return atomic.digest_of(sorted(root.rglob("*.py")), root)
