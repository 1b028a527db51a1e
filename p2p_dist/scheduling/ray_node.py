"""Ray actor that starts the ranks of a process group on one node."""

import asyncio
import os
import socket
from typing import Any

from p2p_dist.scheduling import process
from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.worker_pool import WorkerSlot


class NodeActor:
    """A worker slot on one node."""

    def __init__(self) -> None:
        self._slot = WorkerSlot()

    def meeting_point(self) -> dict[str, str]:
        import ray.util

        return process.meeting_point(ray.util.get_node_ip_address())

    def start(self, group: ProcessGroup, environment: dict[str, str], first: int) -> None:
        self._slot.start(group, environment, first)

    async def end(self) -> int:
        """Wait for the ranks of this node and return their exit code. Other calls are served meanwhile."""
        while (code := self._slot.poll()) is None:
            await asyncio.sleep(process.POLL_SECONDS)
        return code

    def devices(self) -> list[str]:
        """GPUs that Ray has given to this actor."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return [f"{socket.gethostname()} GPU {name}" for name in visible.split(",") if name]

    def faulty_devices(self) -> list[str]:
        """Those of them on which a rank of this node ended with a device fault."""
        return self._slot.faulty_devices(self.devices())

    def node(self) -> str:
        """Ray's id of this node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def has_warm_worker(self) -> bool:
        return self._slot.has_warm_worker()

    def send_signal(self, number: int) -> None:
        self._slot.send_signal(number)

    def stop(self) -> None:
        self._slot.stop()


def on_node(node: str) -> Any:
    """Ray's strategy for an actor that belongs on one node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def in_bundle(placement_group: Any, index: int) -> Any:
    """Ray's strategy for an actor that belongs into a bundle of a placement group."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(placement_group, index)
