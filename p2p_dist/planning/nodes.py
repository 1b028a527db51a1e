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
    """A set of `count` nodes with `slots` slots each, and what goes wrong on them at random. Times are in seconds."""

    count: int
    slots: int
    mtbf: float = math.inf
    """Mean time between two failures of a node."""
    repair: float = 0.0
    """Time until a failed or preempted node is back."""
    seed: int = 0
    device_mtbf: float = math.inf
    """Mean time until the device of a slot fails, which is out of use from then on."""
    preempted: float = math.inf
    """Mean time between two preemptions of a node, whose jobs are asked to stop and write a checkpoint first."""

    def spread(self, width: int) -> tuple[int, int]:
        """(nodes, slots per node) of a process group."""
        return spread(width, self.slots)

    def can_hold(self, width: int) -> bool:
        """True if a process group of this width fits on idle nodes."""
        return self.spread(width)[0] <= self.count


class Room:
    """Free slots of the nodes that are up, without those whose device has failed. Best fit: a process group goes where
    it leaves the fewest slots free; among equals, to the node that has had that many free for longest."""

    def __init__(self, nodes: Nodes):
        self.nodes = nodes
        self.sound = [nodes.slots] * nodes.count
        """Slots of each node whose device works."""
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
        assert self.free[node] == self.sound[node], "jobs must be removed from a node before it goes down"
        del self.by_free[self.free[node]][node]

    def up(self, node: int) -> None:
        """Add a repaired node."""
        self.by_free[self.free[node]][node] = None

    def quarantine(self, node: int) -> None:
        """Take a free slot of a node that is up out of use."""
        self.sound[node] -= 1
        self._set(node, self.free[node] - 1)

    def can_hold(self, width: int) -> bool:
        """True if a process group of this width fits on the devices that work, with all nodes up and idle."""
        count, each = self.nodes.spread(width)
        return sum(sound >= each for sound in self.sound) >= count

    def _set(self, node: int, free: int) -> None:
        del self.by_free[self.free[node]][node]
        self.free[node] = free
        self.by_free[free][node] = None
