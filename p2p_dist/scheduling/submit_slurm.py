"""Hand a study to Slurm: check every value, ask sbatch with a list of arguments, never write values into a script."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from p2p_dist.config.identity import digest
from p2p_dist.errors import Exit, user_error
from p2p_dist.scheduling.study import Study, shipped

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.,:-]{0,127}$")
_FEATURES = re.compile(r"^[A-Za-z0-9(\[][A-Za-z0-9_.,:&|*()\[\]-]{0,127}$")
_TIME = re.compile(r"^\d{1,6}(-\d{1,2}(:\d{1,2}){0,2}|(:\d{1,2}){0,2})$")
EXPORTED = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "P2P_DIST_DATA",
    "P2P_DIST_CACHE",
    "P2P_DIST_PLUGINS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "LD_LIBRARY_PATH",
)
"""What the job gets of this environment. Tokens stay behind: sbatch would write them into Slurm's own files."""


@dataclass(frozen=True)
class Request:
    """What to ask Slurm for. With `tasks`, an array without Ray instead of one job with a Ray of its own."""

    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_node: int | None = None
    partition: str | None = None
    time: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    tasks: int | None = None


def job_name(study: Study) -> str:
    """The name by which the job of this study in this folder is found again in the queue."""
    return f"p2p-{study.spec.name}-{digest(str(study.folder.path.resolve()))[:6]}"


def command(study: Study, path: Path, options: list[str], runs_dir: Path, request: Request) -> list[str]:
    """The whole call of sbatch as a list. Raises UserError E130 for a value that is no Slurm name or time."""
    named = {"partition": request.partition, "account": request.account, "qos": request.qos}
    for key, value in named.items():
        _check(key, value, _NAME, "letters, digits and _ . , : -")
    _check("constraint", request.constraint, _FEATURES, "names of features, joined with & | , and brackets")
    _check("time", request.time, _TIME, "minutes, or [days-]hours:minutes[:seconds]")
    logs = runs_dir.resolve() / study.spec.name / "slurm"
    call = ["sbatch", "--parsable", f"--job-name={job_name(study)}", f"--chdir={Path.cwd()}"]
    call += [f"--export={','.join(name for name in EXPORTED if name in os.environ)}"]
    call += [
        f"--{key}={value}"
        for key, value in {**named, "constraint": request.constraint, "time": request.time}.items()
        if value is not None
    ]
    if request.tasks is None:
        call += [f"--nodes={request.nodes}", f"--output={logs}/%j.out"]
    else:
        call += [f"--array=0-{request.tasks - 1}", f"--output={logs}/%A_%a.out"]
    if request.gpus_per_node:
        call += [f"--gpus-per-node={request.gpus_per_node}"]
    if request.cpus_per_node is not None:
        call += [f"--cpus-per-task={request.cpus_per_node}"]
    script = shipped("slurm") / ("study.sbatch" if request.tasks is None else "array.sbatch")
    return [*call, str(script), str(path.resolve()), *options, "--runs-dir", str(runs_dir.resolve())]


def submit(study: Study, call: list[str]) -> str:
    """Submit once; returns the job's number. Raises UserError E131 without Slurm, E132 when the study is in the queue
    already (exit code 4), E133 for what sbatch says."""
    for program in ("sbatch", "squeue"):
        if shutil.which(program) is None:
            raise user_error(
                "E131",
                f"no {program} on the PATH",
                "submit slurm",
                "submit from a login node of the cluster; --dry-run works anywhere",
            )
    queued = _ask(["squeue", "--noheader", "--format=%A", f"--name={job_name(study)}", f"--user={os.getuid()}"])
    if queued:
        raise user_error(
            "E132",
            f"{study.spec.name} is in the queue as job {queued.split()[0]}",
            "submit slurm",
            "wait, or scancel it",
            Exit.OWNED,
        )
    study.folder.path.joinpath("slurm").mkdir(parents=True, exist_ok=True)
    return _ask(call, {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}).partition(
        ";"
    )[0]


def shown(call: list[str]) -> str:
    """The call and its script, for `--dry-run`."""
    script = next(part for part in call if part.endswith(".sbatch"))
    return f"{shlex.join(call)}\n\n{Path(script).read_text()}"


def _ask(call: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120, env=environment)
    if done.returncode != 0:
        said = "".join(char for char in done.stderr.strip() if char.isprintable() or char == "\n")
        raise user_error("E133", f"{call[0]} says: {said}", shlex.join(call[:3]), "`sinfo` shows partitions and limits")
    return done.stdout.strip()


def _check(key: str, value: str | None, pattern: re.Pattern[str], expected: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise user_error(
            "E130", f"got {value!r}, expected {expected}", f"--{key}", "as `sinfo` and `sacctmgr` print it"
        )
