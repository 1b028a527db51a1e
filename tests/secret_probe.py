"""A secret in a variable: seen by the processes that should have it, and in no text that anybody keeps."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

NAME, VALUE = "P2PTEST_TOKEN", "hf_5ecretNeverWritten"
_HASH = hashlib.sha256(VALUE.encode()).hexdigest()
_SITE = """
import hashlib, os, socket, sys
digest = hashlib.sha256(os.environ.get({name!r}, "").encode()).hexdigest()
with open({file!r}, "a") as file:
    print(digest, socket.gethostname(), *sys.orig_argv, file=file)
"""


def install(folder: Path) -> Path:
    """Make a folder for PYTHONPATH: every Python that starts with it writes a hash of the variable, its host and its
    command."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE.format(file=str(folder / "started"), name=NAME))
    return folder


def hosts_with_secret(folder: Path, module: str) -> dict[bool, set[str]]:
    """Hosts of the processes that ran `python -m module`, by whether they had the secret."""
    hosts: dict[bool, set[str]] = {True: set(), False: set()}
    for line in (folder / "started").read_text().splitlines():
        digest, host, *command = line.split(" ")
        if "-m" in command and command[command.index("-m") + 1] == module:
            hosts[digest == _HASH].add(host)
    return hosts


def leaks(folders: Iterable[Path]) -> list[Path]:
    """Files that hold the secret."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if VALUE.encode() in path.read_bytes()]
