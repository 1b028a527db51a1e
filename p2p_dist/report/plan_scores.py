"""Score methods of a plan: the model that each asks, and its memory on one device or why it has none."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from p2p_dist.config.identity import canonical
from p2p_dist.planning.placement import Misfit
from p2p_dist.planning.plan import Fit, Plan


def is_score(key: str) -> bool:
    """True for the key of a score method's placement (`planning.plan.score_setting`)."""
    return len(json.loads(key)) == 3


def of_trainings(plan: Plan) -> list[tuple[str, Fit]]:
    """Training settings and their placements."""
    return [(key, fit) for key, fit in plan.fits.items() if not is_score(key)]


def to_json(plan: Plan, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every score method with its model, the number of jobs left, and their placement or why there is none. `names` are
    the models' names by their canonical identity."""
    jobs = Counter(plan.settings.get(job.lead) for job in plan.jobs)
    found = []
    for key, fit in plan.fits.items():
        if not is_score(key):
            continue
        model, _, method = json.loads(key)
        where = (
            {"misfit": fit.reason, "nearest": fit.nearest} if isinstance(fit, Misfit) else {"placement": fit.to_json()}
        )
        found.append({"model": names[canonical(model)], "method": method["name"], "jobs": jobs[key], **where})
    return found


def lines(scores: Sequence[Mapping[str, Any]], cluster: Mapping[str, Any]) -> list[str]:
    """A line for each method and model, equal ones once; those whose memory is unknown are left out."""
    unit = "GPU" if cluster["gpus_per_node"] else "worker"
    said = []
    for one in scores:
        if "misfit" in one:
            said.append(f"{one['model']} never fits: {one['misfit']}. Would fit: {one['nearest']}")
        elif memory := one["placement"]["memory"]:
            said.append(f"{one['model']} scores rows ({one['method']}): {memory['total']:.1f} GiB on one {unit}")
    return list(dict.fromkeys(said))
