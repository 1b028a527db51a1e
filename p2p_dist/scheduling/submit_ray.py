"""Hand a study to a Ray cluster as a job: pack code and configs, submit once, follow it, end with its own exit code.

Ray's own command line turns every failure into 1 and starts a second copy when asked twice. Here the submission id is
the study's, so that asking again while it runs attaches to it, and the exit code is what the study's process ended
with.
"""

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from p2p_dist import external_plugins
from p2p_dist.config.identity import digest
from p2p_dist.errors import user_error
from p2p_dist.scheduling.process_groups import PASSED_ON
from p2p_dist.scheduling.study import CONFIGS, Study, shipped

_CODE = (".py", ".html", ".css", ".js", ".csv")
"""Kinds of files that the package consists of."""
_RUNNING = ("PENDING", "RUNNING")
_LOOK = "`ray status` there, and its logs; the same command tries again"
_NO_AGENT = (
    f"{_LOOK}; where another Ray runs on the head's machine, `ray start --dashboard-agent-listen-port=PORT` "
    "(both want 52365)"
)
AGENT_SECONDS = 60.0
"""How long a cluster that was just started may take until it can start jobs."""


def submission_id(study: Study) -> str:
    """The same for the same runs in the same folder, whoever submits them."""
    runs = sorted(id_ for run in study.expansion.runs for id_ in run.stages)
    return f"p2p-{study.spec.name}-{digest([str(study.folder.path.resolve()), runs])}"


def entrypoint(options: list[str], runs_dir: Path) -> list[str]:
    """What the cluster runs, as a list; the driver joins the cluster that it is on."""
    return [
        "python",
        "-m",
        "p2p_dist",
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
    study: Study, path: Path, address: str, options: list[str], runs_dir: Path, say: Callable[[str], None]
) -> int:
    """Submit the study or attach to it where it runs, pass on what it says, and return its exit code.

    Raises UserError E140 when no cluster answers at `address`, E141 when the job ended without an exit code of its own,
    E142 when the cluster does not take it.
    """
    from ray.job_submission import JobSubmissionClient

    try:
        client: Any = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        fix = (
            "the dashboard's address, such as http://127.0.0.1:8265; a cluster with a token needs "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here too"
        )
        raise user_error(
            "E140", f"no Ray cluster answers: {str(error).splitlines()[0]}", f"--address {address}", fix
        ) from error
    name = submission_id(study)
    known = {job.submission_id: job.status.value for job in client.list_jobs() if job.submission_id}
    if known.get(name) in _RUNNING:
        say(f"{name} runs already; attached to it")
    else:
        if name in known:
            client.delete_job(name)
        _start(client, name, path, entrypoint(options, runs_dir))
        say(f"{name} submitted; it goes on when this command is stopped, and the same command attaches to it again")
    asyncio.run(_follow(client, name, say))
    return _exit_code(client, name)


def pack(folder: Path, path: Path, package: Path, configs: Path) -> None:
    """Code, configs and the study file at `path` into a new folder; nothing else goes to the cluster."""
    wanted = {Path("p2p_dist", file.relative_to(package)): file for file in _code(package)}
    wanted |= {
        Path("configs", file.relative_to(configs)): file for kind in CONFIGS for file in configs.glob(f"{kind}/*.yaml")
    }
    for name, source in {**wanted, **packed_plugins(), Path("study.yaml"): path}.items():
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
    """The files of a package and of the packages in it. What else lies among them (a repository, runs, environments,
    caches, rows, weights) is either no package or no code. Linked folders are not entered; a linked file counts as what
    it links to."""
    for found, inner, names in os.walk(package):
        inner[:] = [name for name in inner if Path(found, name, "__init__.py").is_file()]
        yield from (Path(found, name) for name in names if name.endswith(_CODE))


def _start(client: Any, name: str, path: Path, command: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="p2p-pack-") as folder:
        pack(Path(folder), path, Path(__file__).parents[1], shipped("configs"))
        variables = {key: os.environ[key] for key in PASSED_ON if key in os.environ and key != "PYTHONPATH"}
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
                    what = f"the cluster does not take the job: {' '.join(str(error).split())[-300:]}"
                    raise user_error("E142", what, "submit ray", _NO_AGENT if no_agent else _LOOK) from error
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
            "`p2p-dist status`; the same command goes on",
        )
    return int(info.driver_exit_code)
