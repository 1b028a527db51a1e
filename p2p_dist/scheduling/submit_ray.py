"""Submission of a study to a Ray cluster as a job: pack code and configs, submit once, follow, return its exit code.

Ray's own command line turns every failure into 1 and starts a second copy when called twice. Here the submission id is
the study's, so that a second call attaches to the running job, and the exit code is that of the study's process.
"""

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from p2p_dist import external_plugins
from p2p_dist.config.identity import digest
from p2p_dist.errors import user_error
from p2p_dist.scheduling import environment, handover, ray_jobs, submissions
from p2p_dist.scheduling.process_groups import PASSED_ON
from p2p_dist.scheduling.study import CONFIGS, Study, shipped
from p2p_dist.scheduling.submissions import Submission

_CODE = (".py", ".html", ".css", ".js", ".csv")
"""File types of the package."""
STOP_SECONDS = 300
"""Time between Ray's SIGTERM and SIGKILL when the job is stopped: the study writes checkpoints."""
_RETRY = "run `ray status` there, read its logs, and run the same command again"
_NO_AGENT = (
    f"{_RETRY}; where another Ray runs on the head's machine, `ray start --dashboard-agent-listen-port=PORT` "
    "(both want 52365)"
)
AGENT_SECONDS = 60.0
"""Longest wait for a cluster that was just started and cannot start jobs yet."""


def submission_id(study: Study) -> str:
    """Id of the job: the same for the same runs in the same folder, whoever submits them."""
    runs = sorted(id_ for run in study.expansion.runs for id_ in run.stages)
    return f"p2p-{study.spec.name}-{digest([str(study.folder.path.resolve()), runs])}"


def entrypoint(options: list[str], runs_dir: Path, variables: Path | None = None) -> list[str]:
    """Command of the driver, as a list; it joins the cluster that it runs on. `variables` is the file of variables that
    it takes first."""
    module = ["p2p_dist"] if variables is None else ["p2p_dist.scheduling.ray_driver", str(variables)]
    return [
        "python",
        "-m",
        *module,
        "run",
        "study.yaml",
        *options,
        "--runs-dir",
        str(runs_dir.resolve()),
        "--backend",
        "ray",
        "--address",
        "auto",
    ]


def submit(
    study: Study,
    path: Path,
    address: str,
    options: list[str],
    runs_dir: Path,
    say: Callable[[str], None],
    variables: Sequence[str] = (),
) -> int:
    """Submit the study, or attach to it where it runs; pass its output to `say` and return its exit code. `variables`
    are names that the job gets from this environment.

    Raises UserError E137 for a variable that cannot be handed over, E140 when no cluster answers at `address`, E141
    when the job ended without an exit code, E142 when the cluster refuses it, E146 when variables have no private
    place.
    """
    names = environment.checked(variables)
    client = ray_jobs.connect(address)
    name = submission_id(study)
    known = {job.submission_id: job.status.value for job in client.list_jobs() if job.submission_id}
    if known.get(name) in ray_jobs.ACTIVE:
        ignored = "; --env is ignored" if names else ""
        say(f"{name} runs already; attached to it{ignored}")
        asyncio.run(_follow(client, name, say))
        return _exit_code(client, name)
    if name in known:
        client.delete_job(name)
    file = handover.write(study.folder, names) if names else None
    try:
        _start(client, name, path, entrypoint(options, runs_dir, file))
    except BaseException:  # an interrupt too must leave no file with values of variables
        _discard(file)
        raise
    _record(study, name, address, names, say)
    say(f"{name} submitted; it continues when this command is stopped, and the same command attaches to it again")
    asyncio.run(_follow(client, name, say))
    _discard(file)  # a job that never started has not taken it
    return _exit_code(client, name)


def _discard(file: Path | None) -> None:
    if file is not None:
        file.unlink(missing_ok=True)


def _record(study: Study, name: str, address: str, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Record the job in the run folder, where this machine has it."""
    record = Submission("ray", name, submissions.now(), None, address, tuple(names))
    try:
        submissions.append(study.folder, record)
    except OSError as error:
        say(f"cannot record the job in {study.folder.path}: {error.strerror}; `cancel` and `logs` work on the cluster")


def pack(folder: Path, path: Path, package: Path, configs: Path) -> None:
    """Copy code, configs and the study file at `path` into a new folder; nothing else goes to the cluster."""
    files = {Path("p2p_dist", file.relative_to(package)): file for file in _code(package)}
    files |= {
        Path("configs", file.relative_to(configs)): file for kind in CONFIGS for file in configs.glob(f"{kind}/*.yaml")
    }
    for name, source in {**files, **packed_plugins(), Path("study.yaml"): path}.items():
        if not name.name.startswith("."):  # an editor's own files
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def packed_plugins() -> dict[Path, Path]:
    """The files of the folders in P2P_DIST_PLUGINS, by their place in the packed folder: plugins/0/attacks/NAME.py."""
    return {
        Path("plugins", str(number), file.relative_to(folder)): file
        for number, folder in enumerate(external_plugins.folders())
        for kind in external_plugins.KINDS
        for file in sorted((folder / kind).glob("*.py"))
    }


def _code(package: Path) -> Iterator[Path]:
    """Yield the files of a package and its packages. Everything else among them (a repository, runs, environments,
    caches, rows, weights) is no package or no code. Linked folders are not entered; a linked file counts as its
    target."""
    for folder, inner, names in os.walk(package):
        inner[:] = [name for name in inner if Path(folder, name, "__init__.py").is_file()]
        yield from (Path(folder, name) for name in names if name.endswith(_CODE))


def _start(client: Any, name: str, path: Path, command: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="p2p-pack-") as folder:
        pack(Path(folder), path, Path(__file__).parents[1], shipped("configs"))
        variables = {key: os.environ[key] for key in PASSED_ON if key in os.environ and key != "PYTHONPATH"}
        variables["RAY_JOB_STOP_WAIT_TIME_S"] = str(STOP_SECONDS)
        if count := len(external_plugins.folders()):
            variables[external_plugins.VARIABLE] = os.pathsep.join(f"plugins/{number}" for number in range(count))
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                # Ray hands the entry point to a shell; every part is quoted.
                client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=name,
                    runtime_env={"working_dir": folder, "env_vars": variables},
                )
                return
            except RuntimeError as error:
                no_agent = "No available agent" in str(error)
                if not no_agent or time.monotonic() > deadline:
                    what = f"The Ray cluster refuses the job: {' '.join(str(error).split())[-300:]}"
                    raise user_error("E142", what, "submit ray", _NO_AGENT if no_agent else _RETRY) from error
            time.sleep(1.0)


async def _follow(client: Any, name: str, say: Callable[[str], None]) -> None:
    async for text in client.tail_job_logs(name):
        for line in text.splitlines():
            say("".join(char for char in line if char.isprintable() or char == "\t"))


def _exit_code(client: Any, name: str) -> int:
    info = client.get_job_info(name)
    if info.driver_exit_code is None:
        raise user_error(
            "E141",
            f"{name} is {info.status.value}: {info.message}",
            "submit ray",
            "run `p2p-dist status`, and the same command to resume",
        )
    return int(info.driver_exit_code)
