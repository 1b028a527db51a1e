"""With what something was made: the versions of what matters and a digest of this package's own source."""

import functools
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from p2p_dist.results import atomic

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


@functools.cache
def code_digest() -> str:
    """A digest of the package's own source files."""
    root = Path(__file__).parents[1]
    return atomic.digest_of(sorted(root.rglob("*.py")), root)
