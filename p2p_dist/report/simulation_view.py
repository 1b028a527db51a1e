"""A simulated study as text and as JSON."""

import math
from typing import Any

from p2p_dist.config.graph import Graph
from p2p_dist.planning.nodes import Nodes
from p2p_dist.planning.plan import Plan
from p2p_dist.planning.replay import Overheads, replay
from p2p_dist.report.plan_view import hours_of, stages_of, wrapped


def to_json(plan: Plan, graph: Graph, nodes: Nodes, overheads: Overheads) -> dict[str, Any]:
    """Content of `simulation` in `p2p-dist plan --json`. `plan` covers the whole study, finished stages included."""
    outcome, time = replay(plan, graph, nodes, overheads)
    left_out = len(plan.impossible())
    ended = len(outcome.done) + len(outcome.failed)
    hours = {
        name: round(getattr(time, name) / 3600, 6) + 0.0
        for name in ("capacity", "used", "useful", "starts", "writing", "repeated", "restarts", "given_up", "lost")
    }
    return {
        "seed": nodes.seed,
        "nodes": nodes.count,
        "slots_per_node": nodes.slots,
        "mtbf_hours": _hours(nodes.mtbf),
        "device_mtbf_hours": _hours(nodes.device_mtbf),
        "preempted_hours": _hours(nodes.preempted),
        "repair_minutes": nodes.repair / 60,
        "checkpoint_every": overheads.checkpoint_every,
        "start_seconds": plan.rates.start_seconds if overheads.start is None else overheads.start,
        "write_seconds": overheads.write,
        "stages": plan.durations.origins(graph, (id_ for job in plan.jobs for id_ in job.stages)),
        "jobs": {
            "all": len(plan.jobs),
            "done": len(outcome.done),
            "failed": len(outcome.failed),
            "never_fit": left_out,
            "wait_for_ever": len(plan.jobs) - ended - left_out,
        },
        "node_failures": outcome.failures,
        "preemptions": outcome.preemptions,
        "lost_devices": outcome.lost_devices,
        "killed_attempts": sum(span.action != "done" for span in outcome.spans),
        "makespan_hours": round(time.makespan / 3600, 6),
        "bound_hours": round(time.bound / 3600, 6),
        "device_hours": hours,
        "utilisation": time.utilisation,
        "efficiency": time.efficiency,
        "goodput": time.goodput,
    }


def text(simulation: dict[str, Any], device: str) -> str:
    """Text of `p2p-dist plan --simulate` below the plan, in lines of at most 80 columns."""
    hours, jobs = simulation["device_hours"], simulation["jobs"]
    opening = (
        f"simulated from its first job, on {simulation['nodes']} x {simulation['slots_per_node']} {device}s, "
        f"seed {simulation['seed']}: {_troubles(simulation, device)}; a training is kept every "
        f"{simulation['checkpoint_every']} steps, a job takes {simulation['start_seconds']:g} s to start"
        + (f", writing takes {simulation['write_seconds']:g} s" if simulation["write_seconds"] else "")
    )
    paragraphs = [
        f"times of stages: {stages_of(simulation['stages'])}",
        f"{jobs['done']} of {jobs['all']} jobs done in {hours_of(simulation['makespan_hours'])} "
        f"(at best {hours_of(simulation['bound_hours'])})",
        f"{device} time: {hours_of(hours['used'])} used of {hours_of(hours['capacity'])} available "
        f"(utilisation {_percent(simulation['utilisation'])}); training and evaluating "
        f"alone are {_percent(simulation['efficiency'])} of it",
        f"goodput {_percent(simulation['goodput'])}: {_lost(hours)}; {_events(simulation, device)}",
    ]
    problems = {
        "failed": "given up: three attempts in a row got no further, or too few devices are left for them",
        "never_fit": "fit nowhere",
        "wait_for_ever": "wait for such a job",
    }
    paragraphs += [f"{jobs[key]} jobs {words}" for key, words in problems.items() if jobs[key]]
    lines = [*wrapped(opening, ""), *(line for paragraph in paragraphs for line in wrapped(paragraph))]
    return "\n".join(lines)


def _hours(seconds: float) -> float | None:
    return seconds / 3600 if seconds < math.inf else None


def _troubles(simulation: dict[str, Any], device: str) -> str:
    """What goes wrong, in words."""
    words = {"mtbf": "a node fails", "preempted": "a node is preempted", "device_mtbf": f"a {device} fails"}
    parts = [
        f"{what} every {simulation[f'{key}_hours']:g} h on average"
        for key, what in words.items()
        if simulation[f"{key}_hours"] is not None
    ]
    back = f", and nodes are back after {simulation['repair_minutes']:g} min"
    node = simulation["mtbf_hours"] is not None or simulation["preempted_hours"] is not None
    return ", ".join(parts) + (back if node else "") if parts else "nothing fails"


def _events(simulation: dict[str, Any], device: str) -> str:
    """How often what went wrong, and how many attempts it ended."""
    parts = [f"{simulation['node_failures']} node failures"]
    parts += [f"{simulation['preemptions']} preemptions"] if simulation["preemptions"] else []
    parts += [f"{simulation['lost_devices']} lost {device}s"] if simulation["lost_devices"] else []
    return f"{', '.join(parts)} ended {simulation['killed_attempts']} attempts"


def _lost(hours: dict[str, float]) -> str:
    words = {"repeated": "of work done again", "restarts": "of starting again", "given_up": "of jobs given up"}
    parts = ", ".join(f"{hours_of(hours[key])} {what}" for key, what in words.items() if hours[key])
    return f"{hours_of(hours['lost'])} lost ({parts})" if parts else "nothing lost"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
