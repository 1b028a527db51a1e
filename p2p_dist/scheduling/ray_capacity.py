"""Resources of a Ray cluster's nodes, and of the process groups that they have to hold."""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from p2p_dist.errors import user_error
from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.ray_placed import Placed

PATIENCE_SECONDS = 120.0
"""Longest time that a group waits for nodes that were lost to come back."""

Resources = Mapping[str, float]


def bundle_of(group: ProcessGroup, cpus: int, gpus: int) -> dict[str, float]:
    """Resources of a group on each of its nodes, which have so many `cpus` and `gpus`. With GPUs it takes their share
    of the cores at most: cores never keep a GPU idle. Ray counts whole cores, and ten-thousandths of one."""
    cores: float = group.cpus * group.ranks_per_node
    if not group.gpus:
        return {"CPU": cores}
    taken = group.gpus * group.ranks_per_node
    cores = min(cores, cpus * taken / gpus)
    return {"CPU": math.floor(cores) if cores >= 1 else math.floor(cores * 1e4) / 1e4, "GPU": taken}


class Nodes:
    """The nodes of the cluster, and those that it had before."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._seen: dict[str, Resources] = {}

    def refuse_infeasible(self, group: ProcessGroup, bundle: Resources) -> None:
        """Raise UserError E413 for a group that no nodes of this cluster could ever hold."""
        self._alive()
        nodes = list(self._seen.values())
        fitting = _fitting(nodes, bundle)
        if fitting < group.nodes:
            have = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            what = f"A process group needs {group.nodes} node(s) with {bundle}; the cluster has {fitting} such of "
            what += f"{len(nodes)} ({have})"
            raise user_error("E413", what, "Ray", "name the cluster at hand with --cluster")

    def are_lost(self, placed: Placed) -> bool:
        """True when the living nodes have been too few for a pending group for `PATIENCE_SECONDS`."""
        if _fitting(self._alive(), placed.bundle) >= placed.group.nodes:
            placed.lacking_since = None
        elif placed.lacking_since is None:
            placed.lacking_since = time.monotonic()
        since = placed.lacking_since
        return since is not None and time.monotonic() - since > PATIENCE_SECONDS

    def _alive(self) -> list[Resources]:
        living = {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
        self._seen |= living
        return list(living.values())


def _fitting(nodes: Iterable[Resources], bundle: Resources) -> int:
    """Number of nodes that have these resources."""
    return sum(all(node.get(name, 0) >= amount for name, amount in bundle.items()) for node in nodes)
