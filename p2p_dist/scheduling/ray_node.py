"""The actor that starts a gang's ranks on one node of a Ray cluster."""

import asyncio

from p2p_dist.scheduling import process
from p2p_dist.scheduling.backend import Gang
from p2p_dist.scheduling.worker_pool import WorkerSlot


class NodeActor:
    """A worker slot on one node."""

    def __init__(self) -> None:
        self._slot = WorkerSlot()

    def meeting_point(self) -> dict[str, str]:
        import ray.util

        return process.meeting_point(ray.util.get_node_ip_address())

    def start(self, gang: Gang, environment: dict[str, str], first: int) -> None:
        self._slot.start(gang, environment, first)

    async def end(self) -> int:
        """Answers when this node's ranks have ended, with their code. Other calls are carried out meanwhile."""
        while (code := self._slot.poll()) is None:
            await asyncio.sleep(process.LOOK_SECONDS)
        return code

    def is_kept(self) -> bool:
        return self._slot.is_kept()

    def ask(self, number: int) -> None:
        self._slot.ask(number)

    def stop(self) -> None:
        self._slot.stop()
