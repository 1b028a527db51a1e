"""Checksums of the files of a stage that other stages and the report read: `checksums.json`.

The file is written before the stage's marker, and whoever reads a file of the stage checks it first, since no format
of ours but `result.json` notices a flipped bit. A stage of an older version has no such file: it is read as it is, with
a warning.
"""

import functools
import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from p2p_dist.errors import Exit, Problem, UserError
from p2p_dist.results import atomic, confined, jsonfile
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.lease import check_fence
from p2p_dist.results.rundir import StageDir

_AGAIN = "delete the stage's folder and run the study again"


def write(stage: StageDir, files: Mapping[str, Path | bytes]) -> None:
    """Record the files of a stage, name (relative to the stage's folder) -> content or where it lies now.

    Raises UserError E411 after a takeover of the lease.
    """
    check_fence()
    digests = {name: sha256_of(content) for name, content in files.items()}
    atomic.write_json(stage.checksums, {"sha256": digests})


def write_folder(stage: StageDir, name: str, folder: Path) -> None:
    """Record all files of a folder that will be the folder `name` of the stage."""
    write(stage, {f"{name}/{path.name}": path for path in sorted(folder.iterdir())})


def problem(stage: StageDir, names: Iterable[str] | None = None) -> Problem | None:
    """Reason why these files of a stage (default: all that are recorded) must not be used, or None: E519 for one that
    is not what was written, E521 for damaged checksums."""
    try:
        recorded = _recorded(stage)
    except Damaged as error:
        fix = f"{_AGAIN}; or delete this file, and the stage is used unchecked"
        return Problem("E521", f"damaged checksums: {error}", str(stage.checksums), fix)
    for name in recorded if names is None else names:
        if recorded and (why := _difference(stage.path / name, recorded.get(name))):
            return Problem("E519", f"{name} is not what the stage wrote: {why}", str(stage.path / name), _AGAIN)
    return None


def require(stage: StageDir, names: Iterable[str] | None = None) -> None:
    """Check files of a stage before they are used. Raises UserError E519 or E521 (exit code 3); warns (W303) where the
    stage has no checksums."""
    if damage := problem(stage, names):
        raise UserError(damage, exit_code=Exit.INTEGRITY)
    if not exist(stage):
        _warn(str(stage.path))


def adapter(stage: StageDir) -> Path:
    """Adapter folder of a finished training, all of whose files were checked. Raises UserError as `require` does."""
    require(stage)
    return stage.adapter


def content(stage: StageDir, path: Path, most: int = confined.LARGEST_JSON) -> bytes:
    """Checked content of one file of a stage. Raises FileNotFoundError, Damaged and UserError as `require` does."""
    read = confined.read_bytes(path, most)
    require(stage, [str(path.relative_to(stage.path))])
    return read


def exist(stage: StageDir) -> bool:
    """True if the stage has checksums: False for a stage of an older version."""
    return confined.kind_of(stage.checksums) != "missing"


def _recorded(stage: StageDir) -> dict[str, str]:
    """Recorded SHA-256 by name; empty for a stage without checksums. Raises Damaged."""
    try:
        digests = jsonfile.read_object(stage.checksums).get("sha256")
    except FileNotFoundError:
        return {}
    if not isinstance(digests, dict) or not digests or not all(isinstance(digest, str) for digest in digests.values()):
        raise Damaged("no SHA-256 by file name")
    return digests


def _difference(path: Path, expected: str | None) -> str:
    """Difference of a file from its record; empty where there is none."""
    if expected is None:
        return "it has no recorded sha256"
    try:
        digest = sha256_of(path)
    except FileNotFoundError:
        return "it is missing"
    except (Damaged, OSError) as error:
        return f"it is {error}"
    return "" if digest == expected else f"expected sha256 {expected[:12]}, found {digest[:12]}"


def sha256_of(content: Path | bytes) -> str:
    """SHA-256 of bytes or of a regular file. Raises FileNotFoundError and Damaged as `confined.open_file` does."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    hashed = hashlib.sha256()
    with confined.open_file(content) as file:
        while part := file.read(1 << 20):
            hashed.update(part)
    return hashed.hexdigest()


@functools.cache
def _warn(folder: str) -> None:
    """Say once that a stage is used unchecked."""
    what = "no checksums (written by an older version); its files are used unchecked"
    print(f"warning[W303]: {what} at {folder}", file=sys.stderr)
