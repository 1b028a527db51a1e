"""Verbs for a study that runs elsewhere: stop it, read its log."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.cli.options import RUNS_DIR, STUDY_OR_RUNS
from p2p_dist.cli.run_folders import run_folder
from p2p_dist.errors import Exit

ADDRESS = Annotated[str | None, typer.Option(help="Dashboard of the Ray cluster. Default: the recorded one.")]


def cancel(
    study: STUDY_OR_RUNS,
    runs_dir: RUNS_DIR = Path("runs"),
    address: ADDRESS = None,
    now: Annotated[bool, typer.Option("--now", help="Slurm: end the job without a checkpoint.")] = False,
) -> int:
    """Stop a study on Slurm, Ray or this host. Running trainings write a checkpoint first; the command that
    started it resumes."""
    from p2p_dist.scheduling import control

    print(control.cancel(run_folder(study, runs_dir), now, address))
    return Exit.OK


def logs(
    study: STUDY_OR_RUNS,
    run: Annotated[
        str | None,
        typer.Argument(help="A stage id, or labels of a run such as attack=badnets,seed=0.", metavar="RUN"),
    ] = None,
    runs_dir: RUNS_DIR = Path("runs"),
    lines: Annotated[int, typer.Option(min=1, help="Number of lines from the end.")] = 100,
    address: ADDRESS = None,
) -> int:
    """Print the end of a study's newest log, or of a run's. The first line, on standard error, says where it is."""
    from p2p_dist.scheduling import control

    folder = run_folder(study, runs_dir)
    place, text = control.run_log(folder, run, lines) if run else control.study_log(folder, lines, address)
    print(place, file=sys.stderr, flush=True)
    print("\n".join(text))
    return Exit.OK
