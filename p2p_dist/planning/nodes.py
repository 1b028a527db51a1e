"""Equal nodes with slots, some of which are taken: where a gang goes."""

import math
from dataclasses import dataclass

Places = tuple[tuple[int, int], ...]
"""(node, slots taken there) of one job."""


def spread(width: int, slots: int) -> tuple[int, int]:
    """(nodes, ranks on each) of a gang of `width` ranks: as few nodes of so many slots as hold it evenly."""
    nodes = next(count for count in range(-(-width // slots), width + 1) if width % count == 0)
    return nodes, width // nodes


@dataclass(frozen=True)
class Nodes:
    """`count` nodes of `slots` slots that fail at random: `mtbf` is a node's mean time between failures and `repair`
    the time it is away, in seconds."""

    count: int
    slots: int
    mtbf: float = math.inf
    repair: float = 0.0
    seed: int = 0

    def spread(self, width: int) -> tuple[int, int]:
        """(nodes, slots on each) of a gang."""
        return spread(width, self.slots)

    def can_hold(self, width: int) -> bool:
        """Whether a gang fits when everything is free."""
        return self.spread(width)[0] <= self.count


class Room:
    """The free slots of every node that is up. A gang goes where it leaves the least room over, and to the node that
    has had that much room for longest among equals."""

    def __init__(self, nodes: Nodes):
        self.nodes = nodes
        self.free = [nodes.slots] * nodes.count
        self.by_free: list[dict[int, None]] = [{} for _ in range(nodes.slots + 1)]
        """Free slots -> the nodes that are up and have as many, oldest first."""
        self.by_free[nodes.slots] = dict.fromkeys(range(nodes.count))

    def find(self, width: int) -> Places | None:
        """Where a gang of this many slots could go now, or None."""
        count, each = self.nodes.spread(width)
        found: list[int] = []
        for nodes in self.by_free[each:]:
            for node in nodes:
                found.append(node)
                if len(found) == count:
                    return tuple((node, each) for node in found)
        return None

    def take(self, places: Places) -> None:
        """Take what `find` found."""
        for node, slots in places:
            self._set(node, self.free[node] - slots)

    def give(self, places: Places) -> None:
        """Free it again."""
        for node, slots in places:
            self._set(node, self.free[node] + slots)

    def down(self, node: int) -> None:
        """The node is away; nobody is on it any more."""
        assert self.free[node] == self.nodes.slots, "jobs are taken off a node before it goes"
        del self.by_free[self.free[node]][node]

    def up(self, node: int) -> None:
        """It is back."""
        self.by_free[self.free[node]][node] = None

    def _set(self, node: int, free: int) -> None:
        del self.by_free[self.free[node]][node]
        self.free[node] = free
        self.by_free[free][node] = None
