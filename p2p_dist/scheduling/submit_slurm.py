"""Submission of a study to Slurm: values are checked and travel as arguments of sbatch, never inside a script."""

import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from p2p_dist.config.identity import digest
from p2p_dist.errors import Exit, user_error
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import environment, sbatch_options, slurm, submissions
from p2p_dist.scheduling.study import Study, shipped
from p2p_dist.scheduling.submissions import Submission

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.,:-]{0,127}$")
_FEATURES = re.compile(r"^[A-Za-z0-9(\[][A-Za-z0-9_.,:&|*()\[\]-]{0,127}$")
_GPUS = re.compile(r"^(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}:)?\d{1,4}$")
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
"""Variables of this environment that every job gets. Others, tokens above all, are named with --env."""
_USER = (f"--user={os.getuid()}",)


@dataclass(frozen=True)
class Request:
    """Resources and options of a Slurm job. With `tasks`, an array without Ray instead of one job with a Ray of its
    own."""

    nodes: int = 1
    gpus_per_node: str | None = None
    """Number of GPUs, or TYPE:NUMBER."""
    cpus_per_node: int | None = None
    partition: str | None = None
    time: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    tasks: int | None = None
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, KEY=VALUE."""
    setup: Path | None = None
    """File of shell lines that the job runs before the study."""
    variables: tuple[str, ...] = ()
    """Names of further variables of this environment that the job gets."""


def job_name(study: Study) -> str:
    """Name under which the job of this study in this folder is found in the queue."""
    return f"p2p-{study.spec.name}-{digest(str(study.folder.path.resolve()))[:6]}"


def command(study: Study, path: Path, options: list[str], runs_dir: Path, request: Request) -> list[str]:
    """Build the call of sbatch as a list of arguments.

    Raises UserError E130 for a value that is no Slurm name, time or number of GPUs, E134 for an option that would break
    the job, E136 for a setup file that is missing, E137 for a variable that cannot be handed over.
    """
    named = {"partition": request.partition, "account": request.account, "qos": request.qos}
    features = {"constraint": request.constraint, "time": request.time}
    extra = sbatch_options.parse(request.sbatch, {**named, **features})
    for key, value in named.items():
        _check(key, extra.get(key, value), _NAME, "letters, digits and _ . , : -")
    feature = extra.get("constraint", request.constraint)
    _check("constraint", feature, _FEATURES, "names of features, joined with & | , and brackets")
    _check("time", extra.get("time", request.time), _TIME, "minutes, or [days-]hours:minutes[:seconds]")
    _check("gpus-per-node", request.gpus_per_node, _GPUS, "a number, or TYPE:NUMBER such as a100:8")
    logs = RunDir(runs_dir.resolve() / study.spec.name).slurm_logs
    exported = dict.fromkeys((*EXPORTED, *environment.checked(request.variables)))
    call = ["sbatch", "--parsable", f"--job-name={job_name(study)}", f"--chdir={Path.cwd()}"]
    call += [f"--export={','.join(name for name in exported if name in os.environ)}"]
    call += [f"--{key}={value}" for key, value in {**named, **features}.items() if value is not None]
    if request.tasks is None:
        call += [f"--nodes={request.nodes}", f"--output={logs}/%j.out"]
    else:
        call += [f"--array=0-{request.tasks - 1}", f"--output={logs}/%A_%a.out"]
    if request.gpus_per_node is not None and request.gpus_per_node != "0":
        call += [f"--gpus-per-node={request.gpus_per_node}"]
    if request.cpus_per_node is not None:
        call += [f"--cpus-per-task={request.cpus_per_node}"]
    call += sbatch_options.arguments(extra)
    script = shipped("slurm") / ("study.sbatch" if request.tasks is None else "array.sbatch")
    setup = ["--setup", str(_setup_file(request.setup))] if request.setup is not None else []
    return [*call, str(script), *setup, str(path.resolve()), *options, "--runs-dir", str(runs_dir.resolve())]


def submit(study: Study, call: list[str], request: Request) -> str:
    """Submit once, record the job in the run folder, and return its number.

    Raises UserError E131 without Slurm, E132 when the study is in the queue already (exit code 4), E133 for what sbatch
    reports.
    """
    for program in ("sbatch", "squeue"):
        if shutil.which(program) is None:
            raise user_error(
                "E131",
                f"no {program} on the PATH",
                "submit slurm",
                "submit from a login node of the cluster; --dry-run works anywhere",
            )
    clusters = [word for word in call if word.startswith("--clusters=")]
    answer = slurm.ask(["squeue", *clusters, "--noheader", "--format=%A", f"--name={job_name(study)}", *_USER])
    queued = [word for word in answer.split() if word.isdigit()]
    if queued:
        raise user_error(
            "E132",
            f"{study.spec.name} is in the queue as job {queued[0]}",
            "submit slurm",
            "wait for it, or run `p2p-dist cancel`",
            Exit.OWNED,
        )
    submissions.read(study.folder)  # a damaged record is refused before anything is submitted
    study.folder.slurm_logs.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    number, _, cluster = slurm.ask(call, {**os.environ, "PATH": path}).partition(";")
    setup = str(request.setup.resolve()) if request.setup else None
    record = Submission("slurm", number, submissions.now(), cluster or None, None, request.variables, setup)
    submissions.append(study.folder, record)
    return number


def shown(call: list[str]) -> str:
    """Call and script, for `--dry-run`."""
    script = next(part for part in call if part.endswith(".sbatch"))
    return f"{shlex.join(call)}\n\n{Path(script).read_text()}"


def _setup_file(path: Path) -> Path:
    """Absolute path of a setup file. Raises UserError E136."""
    try:
        path.read_text()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        fix = "name a file of shell lines that every node can read"
        raise user_error("E136", f"Cannot read the setup file {path}: {why}", "--setup", fix) from error
    return path.resolve()


def _check(key: str, value: str | None, pattern: re.Pattern[str], expected: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise user_error(
            "E130", f"got {value!r}, expected {expected}", f"--{key}", "write it as `sinfo` and `sacctmgr` print it"
        )
