"""Verbs that hand a study to Slurm or to a Ray cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.cli.options import OVERRIDES, PLUGINS, RUNS_DIR, STUDY
from p2p_dist.errors import Exit

OPTION = Annotated[
    list[str] | None,
    typer.Option(
        "--run-option", help="An option for `p2p-dist run` there, such as --run-option=--cohort=4. Repeatable."
    ),
]

ENV = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        help="A variable of this environment that controller and workers get, such as HF_TOKEN. Repeatable.",
        metavar="NAME",
    ),
]


def slurm(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    plugins: PLUGINS = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of one job, with a Ray of its own over them.")] = 1,
    gpus_per_node: Annotated[
        str | None,
        typer.Option(
            help="GPUs of every node (or task of an array): 8, or with their type a100:8.", metavar="[TYPE:]N"
        ),
    ] = None,
    cpus_per_node: Annotated[int | None, typer.Option(min=1, help="Cores per node (or per task of an array).")] = None,
    tasks: Annotated[
        int | None,
        typer.Option(min=1, help="An array of so many tasks without Ray instead, each taking what is not done."),
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="Where to queue; `sinfo` lists them. Default: the site's.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Limit, such as 4:00:00; the study checkpoints and is requeued 300 s before.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="Whom to charge.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features that the nodes must have, such as h100.")] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            "--sbatch",
            help="A further option of sbatch, such as mem=64G, gres=..., mail-type=END or comment=... Repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    setup: Annotated[
        Path | None,
        typer.Option(
            help="File of shell lines that the job sources before the study: modules, an environment to activate.",
            metavar="FILE",
        ),
    ] = None,
    env: ENV = None,
    run_option: OPTION = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the call of sbatch and the script, and submit nothing.")
    ] = False,
) -> int:
    """Submit a study to Slurm, as a job or as an array. A job over several nodes starts a Ray of its own
    (slurm/study.sbatch); the tasks of an array (slurm/array.sbatch) share the study."""
    from p2p_dist.scheduling import submit_slurm
    from p2p_dist.scheduling.feasibility import refuse_infeasible
    from p2p_dist.scheduling.other_settings import refuse_other_settings
    from p2p_dist.scheduling.study import find_study, open_study

    path = find_study(study)
    opened = open_study(path, overrides or [], runs_dir)
    refuse_infeasible(opened)
    refuse_other_settings(opened, "--replace" in (run_option or ()), option="--run-option=--replace")
    request = submit_slurm.Request(
        nodes,
        gpus_per_node,
        cpus_per_node,
        partition,
        time,
        account,
        qos,
        constraint,
        tasks,
        tuple(sbatch or ()),
        setup,
        tuple(env or ()),
    )
    call = submit_slurm.command(opened, path, [*(overrides or []), *(run_option or [])], runs_dir, request)
    if dry_run:
        print(submit_slurm.shown(call))
    else:
        print(f"{opened.spec.name} submitted as job", submit_slurm.submit(opened, call, request))
    return Exit.OK


def ray(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    plugins: PLUGINS = None,
    address: Annotated[
        str, typer.Option(help="The dashboard of the cluster, which takes jobs.")
    ] = "http://127.0.0.1:8265",
    env: ENV = None,
    run_option: OPTION = None,
) -> int:
    """Submit a study to a Ray cluster and follow it. Ends with the exit code of the job. A study that runs already is
    attached to. The whole cluster must see the runs folder; RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH name the
    token."""
    from p2p_dist.scheduling import submit_ray
    from p2p_dist.scheduling.feasibility import refuse_infeasible
    from p2p_dist.scheduling.other_settings import refuse_other_settings
    from p2p_dist.scheduling.study import find_study, open_study

    path = find_study(study)
    opened = open_study(path, overrides or [], runs_dir)
    refuse_infeasible(opened)
    refuse_other_settings(opened, "--replace" in (run_option or ()), option="--run-option=--replace")
    options = [*(overrides or []), *(run_option or [])]
    return submit_ray.submit(
        opened, path, address, options, runs_dir, lambda line: print(line, file=sys.stderr, flush=True), env or ()
    )
