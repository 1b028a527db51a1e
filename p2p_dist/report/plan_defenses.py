"""Cost of each defense in a plan: the stages that its runs need, and those that no other defense needs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from p2p_dist.config.expand import Expansion
from p2p_dist.planning.plan import Plan
from p2p_dist.report.text_columns import columns, folded_columns


def by_defense(expansion: Expansion, plan: Plan) -> list[dict[str, Any]]:
    """Runs, trainings and seconds of each defense, as if nothing were done; `own` is what it adds to the study: stages
    that no other defense needs."""
    graph = expansion.graph
    ids: dict[str, set[str]] = {}
    runs: Counter[str] = Counter()
    for run in expansion.runs:
        ids.setdefault(run.cell["defense"], set()).update(run.stages)
        runs[run.cell["defense"]] += 1
    users = Counter(id_ for stages in ids.values() for id_ in stages)
    seconds = {id_: plan.durations.seconds(graph, stage) for id_, stage in graph.stages.items()}

    def cost(stages: set[str]) -> dict[str, Any]:
        trainings = sum(graph.stages[id_].kind == "train" for id_ in stages)
        return {"trainings": trainings, "seconds": round(sum(seconds[id_] for id_ in stages), 1)}

    return [
        {"defense": name, "runs": runs[name], **cost(stages), "own": cost({id_ for id_ in stages if users[id_] == 1})}
        for name, stages in ids.items()
    ]


def lines(defenses: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table in at most 80 columns; none for a study with one defense."""
    if len(defenses) < 2:
        return []
    table = [["runs", "trainings", "time", "own time", "defense (own: shared with no other one)"]]
    for one in defenses:
        times = (_time(one["seconds"]), _time(one["own"]["seconds"]))
        table.append([str(one["runs"]), str(one["trainings"]), *times, one["defense"]])
    return ["", *(columns(table) or folded_columns(table) or [])]


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
