"""Allocation of slots on equal nodes to process groups."""

import math
from dataclasses import dataclass

Places = tuple[tuple[int, int], ...]
"""Allocation of one job: (node, slots taken on it) pairs."""


def spread(width: int, slots: int) -> tuple[int, int]:
    """(nodes, ranks per node) of a process group of `width` ranks: the fewest nodes of `slots` slots that hold it
    evenly."""
    nodes = next(count for count in range(-(-width // slots), width + 1) if width % count == 0)
    return nodes, width // nodes


@dataclass(frozen=True)
class Nodes:
    """A set of `count` nodes with `slots` slots each that fail at random: `mtbf` is a node's mean time between failures
    and `repair` its downtime, in seconds."""

    count: int
    slots: int
    mtbf: float = math.inf
    repair: float = 0.0
    seed: int = 0

    def spread(self, width: int) -> tuple[int, int]:
        """(nodes, slots per node) of a process group."""
        return spread(width, self.slots)

    def can_hold(self, width: int) -> bool:
        """True if a process group of this width fits on idle nodes."""
        return self.spread(width)[0] <= self.count


class Room:
    """Free slots of the nodes that are up. Best fit: a process group goes where it leaves the fewest slots free; among
    equals, to the node that has had that many free for longest."""

    def __init__(self, nodes: Nodes):
        self.nodes = nodes
        self.free = [nodes.slots] * nodes.count
        self.by_free: list[dict[int, None]] = [{} for _ in range(nodes.slots + 1)]
        """Number of free slots -> the nodes that are up and have that many, oldest first."""
        self.by_free[nodes.slots] = dict.fromkeys(range(nodes.count))

    def find(self, width: int) -> Places | None:
        """Find places for a process group of this many slots; None if it does not fit now."""
        count, each = self.nodes.spread(width)
        chosen: list[int] = []
        for nodes in self.by_free[each:]:
            for node in nodes:
                chosen.append(node)
                if len(chosen) == count:
                    return tuple((node, each) for node in chosen)
        return None

    def take(self, places: Places) -> None:
        """Allocate places that `find` returned."""
        for node, slots in places:
            self._set(node, self.free[node] - slots)

    def give(self, places: Places) -> None:
        """Free allocated places."""
        for node, slots in places:
            self._set(node, self.free[node] + slots)

    def down(self, node: int) -> None:
        """Remove a failed node; its jobs must have been removed before."""
        assert self.free[node] == self.nodes.slots, "jobs must be removed from a node before it goes down"
        del self.by_free[self.free[node]][node]

    def up(self, node: int) -> None:
        """Add a repaired node."""
        self.by_free[self.free[node]][node] = None

    def _set(self, node: int, free: int) -> None:
        del self.by_free[self.free[node]][node]
        self.free[node] = free
        self.by_free[free][node] = None
