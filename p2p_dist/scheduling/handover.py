"""Handover of variables to a job of a Ray cluster: a private file in the run folder, deleted when the job has read it.

Ray's own way, `runtime_env["env_vars"]`, is stored by the cluster and shown by its dashboard and by `ray job list`, so
no secret may be in it. Only the path of the file is.
"""

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from p2p_dist.errors import user_error
from p2p_dist.results.rundir import RunDir


def write(folder: RunDir, names: Sequence[str]) -> Path:
    """Write the values of the named variables into a new file of mode 0600. Raises UserError E146 where the run folder
    cannot keep a file private."""
    path = folder.handover(secrets.token_hex(16)).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        what = f"Cannot write into the run folder: {error.strerror}"
        fix = "submit where the cluster's runs folder is writable, or put the token into the cluster's HF_HOME"
        raise user_error("E146", what, str(path.parent), fix) from error
    with os.fdopen(descriptor, "w") as file:
        private = os.fstat(descriptor).st_mode & 0o077 == 0
        if private:
            json.dump({name: os.environ[name] for name in names}, file)
    if not private:
        path.unlink()
        what = "The file system of the run folder shows private files to others"
        raise user_error("E146", what, str(path.parent), "choose another --runs-dir, or omit --env")
    return path


def take(path: Path) -> dict[str, str]:
    """Read the variables and delete their file. Raises UserError E146."""
    try:
        variables: dict[str, str] = json.loads(path.read_text())
        path.unlink()
    except OSError as error:
        what = f"Cannot read the variables of --env: {error.strerror}"
        fix = "use a --runs-dir that the cluster sees, submit as the user who started Ray, and submit again"
        raise user_error("E146", what, str(path), fix) from error
    return variables
