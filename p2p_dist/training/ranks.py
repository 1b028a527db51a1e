"""The ranks of a process group: one process each, started with the variables that torchrun sets, and what they tell
each other.

Nothing but tensors and JSON goes between ranks. One rank alone needs no process group, and every method is then free.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from p2p_dist.errors import user_error
from p2p_dist.results.atomic import write_json

_AT_ONCE = 1 << 26
"""Numbers that are compared at a time, in double precision."""
TIMEOUT = timedelta(minutes=30)
"""Timeout of a collective. A hang is found sooner from outside, by the lack of steps (DeepSpeed's own groups
ignore this)."""


MEETING = "P2P_DIST_MEETING"
"""Variable that names the group's meeting file (`scheduling.process_groups`)."""


@dataclass(frozen=True)
class Ranks:
    """This process among its process group."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """True if this rank writes files and logs for the process group."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """True if the flag is set on at least one rank."""
        return bool(flag) if self.world == 1 else bool(self.sum(torch.tensor([float(flag)], device=_device())).item())

    def from_main(self, tensor: torch.Tensor) -> torch.Tensor:
        """The main rank's tensor, in place; shapes and types must agree."""
        if self.world > 1:
            distributed.broadcast(tensor, src=0)
        return tensor

    def json_from_main(self, value: Any) -> Any:
        """The main rank's value, as JSON."""
        return value if self.world == 1 else self.gather_json(value if self.main else None)[0]

    def gather_json(self, value: Any) -> list[Any]:
        """Every rank's value, as JSON, in the order of ranks."""
        if self.world == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        size = torch.tensor([text.numel()], device=_device())
        sizes = [torch.empty_like(size) for _ in range(self.world)]
        distributed.all_gather(sizes, size)
        widest = max(int(each) for each in sizes)
        padded = torch.zeros(widest, dtype=torch.uint8, device=_device())
        padded[: text.numel()] = text
        texts = [torch.empty_like(padded) for _ in range(self.world)]
        distributed.all_gather(texts, padded)
        return [json.loads(bytes(each[: int(n)].cpu().numpy())) for each, n in zip(texts, sizes, strict=True)]

    def same(self, tensor: torch.Tensor) -> bool:
        """True if all ranks hold the same numbers (compared by the sum and the sum of squares in double precision)."""
        if self.world == 1:
            return True
        sums = torch.zeros(2, dtype=torch.double, device=tensor.device)
        for part in tensor.detach().flatten().split(_AT_ONCE):
            values = part.double()
            sums += torch.stack([values.sum(), values.square().sum()])
        fingerprint = sums.to(_device())
        low, high = fingerprint.clone(), fingerprint.clone()
        distributed.all_reduce(low, op=distributed.ReduceOp.MIN)
        distributed.all_reduce(high, op=distributed.ReduceOp.MAX)
        return bool(torch.equal(low, high))


def take_device(environment: Mapping[str, str] = os.environ) -> None:
    """Make this rank's GPU the current one of this thread; nothing happens without a GPU."""
    if torch.cuda.is_available():
        # A scheduler that hides the other devices leaves one visible, whatever the local rank.
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def join(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Take this process's place in its process group, as RANK, WORLD_SIZE and LOCAL_RANK say; alone when they are not
    set.

    Raises UserError E310 when only some of what a process group needs is there.
    """
    world = int(environment.get("WORLD_SIZE", "1"))
    take_device(environment)
    if world == 1:
        return Ranks()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise user_error(
            "E310",
            f"WORLD_SIZE={world} but {', '.join(missing)} not set",
            "environment",
            "start the ranks with torchrun or through p2p-dist run",
        )
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", **_meeting(environment, world))
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def _meeting(environment: Mapping[str, str], world: int) -> dict[str, Any]:
    """Arguments by which the ranks find each other: the port in the environment, or one that rank 0 opens and writes
    into the group's meeting file. A port is open from the moment that it is chosen, so that none can be taken twice."""
    if MEETING not in environment:
        return {"timeout": TIMEOUT}
    rank, host, file = int(environment["RANK"]), environment["MASTER_ADDR"], Path(environment[MEETING])
    options: dict[str, Any] = {"world_size": world, "timeout": TIMEOUT, "wait_for_workers": False}
    if rank == 0:
        store = TCPStore(host, 0, is_master=True, **options)
        write_json(file, {"port": store.port})
        port = store.port
    else:
        port = _awaited_port(file)
        store = TCPStore(host, port, is_master=False, **options)
    os.environ["MASTER_PORT"] = str(port)
    return {"store": store, "rank": rank, "world_size": world, "timeout": TIMEOUT}


def _awaited_port(file: Path) -> int:
    """The port in a meeting file, once rank 0 has written it."""
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 has not written {file}")
        time.sleep(0.05)
    return int(json.loads(file.read_text())["port"])


def leave() -> None:
    """Close the process group, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device() -> torch.device:
    """Device on which small tensors must lie to be sent: NCCL moves only tensors on the GPU."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
