"""Quality of the scheduler's order against the lower bound, and cost of a decision. Pure: nothing is trained.

Simulated studies: runs of five model sizes over attacks (and over defenses, seeds and data sets for the large one),
each a job of one slot that takes its steps times the assumed seconds per step of its size, and 25 s to start. The
makespan of the scheduler's order (longest first) is divided by the lower bound (all work over all slots, or the longest
job); random order and the order of the grid are there for comparison. `python -m bench.schedule` in the project's root.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random
from statistics import mean

from bench import common
from p2p_dist.planning.jobs import Job, longest_ways
from p2p_dist.planning.loads import Load, Piece
from p2p_dist.planning.nodes import Nodes
from p2p_dist.planning.policy import startable
from p2p_dist.planning.replay import account
from p2p_dist.planning.simulation import simulate

SECONDS_PER_STEP = (0.055, 0.055, 0.068, 0.070, 0.095)
"""Assumed for 0.6, 1.7, 4, 8 and 14 billion parameters on an H200."""
STEPS = (470, 1880, 6300)
"""Three epochs of 5,000, 20,000 and 67,200 rows in batches of 32."""
START = 25.0
SHUFFLES = 20
SMALL, LARGE = 1.07, 1.01
BUDGET = 0.050
"""Seconds that the scheduler may take per job."""


def grid(attacks: int, defenses: int, seeds: int, steps: Sequence[int]) -> list[Load]:
    """Every combination, the smallest model first."""
    times = [
        seconds * count for seconds in SECONDS_PER_STEP for _ in range(attacks * defenses * seeds) for count in steps
    ]
    return [Load(Job((f"{at:06d}",), frozenset(), (took,)), 1, START, (Piece(took),)) for at, took in enumerate(times)]


def longest_first(loads: Sequence[Load]) -> list[Load]:
    """The order of `planning.jobs`."""
    ways = longest_ways([load.job for load in loads], {load.job.lead: load.seconds for load in loads})
    return sorted(loads, key=lambda load: -ways[load.job.lead])


def over_bound(loads: Sequence[Load], nodes: Nodes) -> float:
    """Simulated makespan over the lower bound."""
    account_of_run = account(loads, simulate(loads, nodes), nodes)
    return account_of_run.makespan / account_of_run.bound


def order(name: str, loads: list[Load], nodes: Nodes, goal: float, shuffles: int) -> common.Figure:
    """One study on one cluster; the gates say that every job ended and that no slot did two things at once."""
    outcome = simulate(longest_first(loads), nodes)
    changes = sorted([*((span.begin, 1) for span in outcome.spans), *((span.end, -1) for span in outcome.spans)])
    most = max(accumulate(change for _, change in changes))
    gates = [
        common.Gate("jobs that did not end", float(len(loads) - len(outcome.done)), 0.0),
        common.Gate("jobs side by side", float(most), float(nodes.count * nodes.slots)),
    ]
    random = Random(0)
    shuffled = [over_bound(random.sample(loads, len(loads)), nodes) for _ in range(shuffles)]
    facts = {
        "jobs": len(loads),
        "random order": round(mean(shuffled), 4),
        "worst random": round(max(shuffled), 4),
        "grid order": round(over_bound(loads, nodes), 4),
    }
    return common.Figure(
        f"makespan, {name}",
        "lower bound",
        over_bound(longest_first(loads), nodes),
        goal,
        at_most=True,
        gates=gates,
        facts=facts,
    )


def decision(loads: list[Load], repeats: int) -> common.Figure:
    """Seconds of one look of the scheduler at all its waiting jobs when nothing is free or ready, which is the longest
    look there is."""
    jobs = [replace(load.job, inputs=(frozenset({"not there"}),) * len(load.job.stages)) for load in loads]
    times = []
    for _ in range(repeats):
        started = time.process_time()
        list(startable(jobs, set(), lambda job: True))
        times.append(time.process_time() - started)
    started = time.process_time()
    outcome = simulate(longest_first(loads), Nodes(128, 8))
    simulated = time.process_time() - started
    facts = {
        "jobs": len(loads),
        "milliseconds of one look": round(1000 * min(times), 3),
        "microseconds per simulated job": round(1e6 * simulated / len(loads), 1),
    }
    gates = [common.Gate("jobs that did not end", float(len(loads) - len(outcome.done)), 0.0)]
    return common.Figure(
        "one look at all waiting jobs", "50 ms", min(times) / BUDGET, 1.0, at_most=True, gates=gates, facts=facts
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    options = common.parser(__doc__ or "").parse_args(arguments)
    small, large = grid(6, 1, 1, STEPS[-1:]), grid(6, 5, 5, STEPS)
    shuffles = 1 if options.smoke else SHUFFLES
    figures = [order("30 jobs on 8 slots", small, Nodes(1, 8), SMALL, shuffles)]
    figures += [
        order(f"2,250 jobs on {8 * nodes} slots", large, Nodes(nodes, 8), LARGE, shuffles)
        for nodes in ((1,) if options.smoke else (1, 4, 16))
    ]
    return common.show(options, [*figures, decision(large, options.repeats)])


if __name__ == "__main__":
    sys.exit(main())
