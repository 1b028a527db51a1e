"""Run a study: hold its lease, prepare, start a backend, run the scheduler."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from p2p_dist import registry
from p2p_dist.errors import Exit, Problem, UserError, user_error
from p2p_dist.planning.cluster import ClusterSpec, this_machine
from p2p_dist.planning.plan import Plan
from p2p_dist.results import lease
from p2p_dist.scheduling import prepare, restart_limit, signals
from p2p_dist.scheduling.claims import Claims, Shared, Sole, meet, refuse_sharers
from p2p_dist.scheduling.other_settings import refuse_other_settings
from p2p_dist.scheduling.process_groups import GroupSettings
from p2p_dist.scheduling.progress import ProgressView, titles_of
from p2p_dist.scheduling.scheduler import Scheduler
from p2p_dist.scheduling.state import State
from p2p_dist.scheduling.study import Study
from p2p_dist.scheduling.time_left import TimeLeft


@dataclass(frozen=True)
class Launch:
    """Settings of this launch of a study; none of them changes a result's identity."""

    backend: str
    cluster: ClusterSpec
    slots: int | None = None
    cohort: int = 1
    checkpoint_every: int = 50
    stall_seconds: float = 1800.0
    address: str | None = None
    """Address of a running Ray cluster; None for this machine alone."""
    allow_change: Sequence[str] = ()
    share: bool = False
    """Lease jobs one by one, beside other controllers that do the same."""
    warm: bool = False
    """Keep workers for further jobs."""
    rows_only: bool = False
    """Stop when the rows of all trainings are built."""
    replace: bool = False
    """Accept that runs of other settings leave the report of the folder."""


def execute(study: Study, launch: Launch, console: Console) -> State:
    """Run the missing jobs under the study's lease. Raises UserError E406 when another controller has the study, E407
    when the folder holds other settings, E410 and E416 for what the hardware cannot do, E411 when the lease is lost,
    E412 on a stop request, E417 when Ray is gone, and E418 beside E412 or E417 when the last restarts made no
    progress."""
    cluster = launch.cluster
    plan = study.plan(cluster, launch.cohort, rows_only=launch.rows_only)
    refuse_impossible(plan)
    slots = _slots(launch)
    counted = restart_limit.count_restarts(study.folder, study.expansion.graph, launch.share)
    with _claims(study, plan, launch, console) as claims, counted, _stops_are_errors(study):
        console.print(f"starting the {launch.backend} backend with {slots} slots on {cluster.name}", highlight=False)
        engine = registry.load("backends", launch.backend)(
            cluster.cpus_per_node, cluster.gpus_per_node, launch.address, cluster.nodes
        )
        threads = cluster.threads_of(slots)
        settings = GroupSettings(
            threads,
            1 if cluster.gpus_per_node else 0,
            cluster.ranks_per_node,
            launch.checkpoint_every,
            launch.allow_change,
            launch.warm,
            cluster.deterministic,
            cluster.cuda_graphs,
        )
        time_left = TimeLeft(plan.jobs, slots, plan.rates.start_seconds, lambda job: min(plan.width(job), slots))
        try:
            scheduler = Scheduler(study.folder, engine, plan, slots, settings, claims, launch.stall_seconds)
            with (
                ProgressView(study.folder, titles_of_study(study), console, time_left) as view,
                signals.stop_requests() as stop_requested,
            ):
                return scheduler.run(view.look, stop_requested)
        finally:
            engine.close()


def titles_of_study(study: Study) -> dict[str, str]:
    """A title for every stage of a study (`progress.titles_of`)."""
    kinds = {id_: stage.kind for id_, stage in study.expansion.graph.stages.items()}
    return titles_of([run.to_json() for run in study.expansion.runs], kinds)


@contextmanager
def _stops_are_errors(study: Study) -> Iterator[None]:
    """Report a stop request outside the scheduler as UserError E412, so that it counts as a start without progress."""
    try:
        with signals.restored():
            yield
    except signals.Stopped as error:
        fix = "run the same command to resume"
        raise user_error("E412", "Stopped on request", str(study.folder.path), fix, Exit.REQUEUE) from error


@contextmanager
def _claims(study: Study, plan: Plan, launch: Launch, console: Console) -> Iterator[Claims]:
    """Prepare the study and own it: as a whole, or job by job."""
    with meet(study.folder) if launch.share else lease.hold(study.folder.lease) as held_lease:
        if not launch.share:
            refuse_sharers(study.folder)
            prepare.clear(study.folder)
        refuse_other_settings(study, launch.replace, launch.share)
        prepare.fetch(study, plan, console)
        prepare.write_down(study)
        if held_lease is not None:
            held_lease.check()
            yield Sole(held_lease)
            return
    shared = Shared(study.folder)
    with shared.beating():
        yield shared


def refuse_impossible(plan: Plan) -> None:
    """Refuse a plan with a job that can never run on the cluster. Raises UserError E410."""
    misfits = dict.fromkeys(misfit for _, misfit in plan.impossible())
    if misfits:
        raise UserError(
            *(Problem("E410", misfit.reason, plan.rates.cluster.name, misfit.nearest) for misfit in misfits)
        )


def _slots(launch: Launch) -> int:
    """Number of concurrent workers. Raises UserError E416 for a cluster that is not this machine, or whose GPUs are
    MIG slices here and not in its file, or more workers than GPUs."""
    cluster = launch.cluster
    if launch.address is None:
        here = this_machine()
        if cluster.nodes > 1 or cluster.gpus_per_node > here.gpus_per_node:
            what = (
                f"{cluster.name} has {cluster.nodes} node(s) with {cluster.gpus_per_node} GPUs, and this machine "
                f"has {here.gpus_per_node}"
            )
            raise user_error(
                "E416",
                what,
                "--cluster",
                "omit --cluster, or join a Ray cluster with --backend ray --address HOST:PORT",
            )
        if here.mig_slices and cluster.gpus_per_node > 1 and not cluster.mig_slices:
            what = f"{cluster.name} has whole GPUs, and this machine has MIG slices, of which a process sees one alone"
            raise user_error("E416", what, "--cluster", "set mig_slices: true in its file, or omit --cluster")
    most = cluster.nodes * cluster.slots_per_node
    if cluster.gpus_per_node and launch.slots is not None and launch.slots > most:
        raise user_error(
            "E416",
            f"{launch.slots} slots on {most} GPUs",
            "--slots",
            f"ask for at most {most} slots; --cohort joins trainings on one GPU",
        )
    return launch.slots or most
