"""Variables that a user hands to the workers of a cluster by name (`--env HF_TOKEN`). Values are never recorded."""

import os
import re
from collections.abc import Iterable

from p2p_dist.errors import user_error

HANDED_OVER = "P2P_DIST_ENV"
"""Environment of a controller: names, comma-separated, of the variables that its workers on other nodes get too."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = re.compile(r"(RAY|SLURM|SBATCH|P2P_DIST)_.*|CUDA_VISIBLE_DEVICES|RANK|WORLD_SIZE|LOCAL_RANK|MASTER_.*")


def checked(names: Iterable[str]) -> tuple[str, ...]:
    """Names without repetition. Raises UserError E137 for a name that is none, that the scheduler sets itself, or that
    is not set here."""
    unique = tuple(dict.fromkeys(names))
    for name in unique:
        if not _NAME.fullmatch(name):
            # The text may be NAME=SECRET, so it is not repeated.
            raise user_error("E137", "--env expects the name of a variable", "--env", "write --env HF_TOKEN")
        if _RESERVED.fullmatch(name):
            raise user_error("E137", f"{name} is set by the scheduler itself", "--env", f"omit --env {name}")
        if name not in os.environ:
            raise user_error("E137", f"{name} is not set here", "--env", f"run `export {name}=...` before")
    return unique


def handed_over() -> dict[str, str]:
    """Variables that workers on other nodes get from this controller."""
    names = os.environ.get(HANDED_OVER, "").split(",")
    return {name: os.environ[name] for name in names if name in os.environ}
