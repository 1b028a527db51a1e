"""Workers under Ray: this study's own instance on this machine, or a cluster that runs already.

Ray places a gang and watches its nodes: a small actor per node starts the ranks as real processes, so that signals,
exit codes and devices stay ordinary. One actor is on one node by itself; a gang of several nodes has a placement group.
The own instance has a token, listens on loopback, keeps its files in a short private folder, and ends with this process
(reference: Ray attaches `ray.init()` to any instance it finds on the host unless told not to).
"""

import contextlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2p_dist.errors import user_error
from p2p_dist.scheduling import ray_local_cluster
from p2p_dist.scheduling.backend import Backend, Gang
from p2p_dist.scheduling.ray_gcs import Store
from p2p_dist.scheduling.ray_node import NodeActor
from p2p_dist.scheduling.worker_pool import Waiting

JOIN_SECONDS = 120.0
"""How long to wait for a cluster that is named and for its nodes."""
_LOST = -9
"""A node or actor that is gone counts as killed."""
_PLACE_SECONDS = 0.05
"""How often to ask whether a gang has its place by now."""


@dataclass
class _Placed:
    """A gang and what Ray has given it so far."""

    gang: Gang
    bundle: dict[str, int]
    group: Any = None
    actors: list[Any] = field(default_factory=list)
    meetings: list[Any] = field(default_factory=list)
    reused: bool = False
    """Whether the actor did another gang before, and its worker stayed."""
    endings: list[Any] = field(default_factory=list)
    """What each actor will answer when its ranks have ended; nothing before they were started."""
    codes: list[int | None] = field(default_factory=list)
    """What they have answered."""
    code: int | None = None


class RayBackend(Backend):
    """Gangs in placement groups of an own local Ray with `cpus` and `gpus`, or of the cluster at `address`."""

    def __init__(self, cpus: int, gpus: int, address: str | None = None, nodes: int = 1):
        super().__init__(cpus, gpus, address, nodes)
        self._folder: Path | None = None
        if address is None:
            ray_local_cluster.clear_leftovers()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{ray_local_cluster.PREFIX}{os.getpid()}-", dir="/tmp"))
            ray_local_cluster.set_environment(self._folder / "token")
        import ray  # seconds to import, and only needed here
        import ray.util

        self._ray: Any = ray
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if self._folder is None:
            options |= {"address": address}
        else:
            options |= {
                "address": "local",
                "num_cpus": cpus,
                "num_gpus": gpus,
                "include_dashboard": False,
                "object_store_memory": 128 << 20,
            }
            options |= {
                "_temp_dir": str(self._folder / "r")
            }  # Ray opens its own folder to everybody; ours around it stays shut
        self._connect(options)
        self._store = Store(ray.get_runtime_context().gcs_address)
        self._remote = ray.remote(NodeActor)
        self._gangs: dict[str, _Placed] = {}
        self._waiting: Waiting[Any] = Waiting()

    def _connect(self, options: dict[str, Any]) -> None:
        """Start the own instance, or join the cluster as soon as it is there with all its nodes. Raises UserError
        E415."""
        deadline = time.monotonic() + (JOIN_SECONDS if self.address else 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while not self._ray.is_initialized():
                try:
                    self._ray.init(**options)
                except (ConnectionError, RuntimeError) as error:
                    if time.monotonic() > deadline:
                        what = f"no Ray cluster answers: {' '.join(str(error).split())[:200]}"
                        own = ("Ray on this machine", "`p2p-dist doctor`, or --backend local")
                        where, fix = (f"--address {self.address}", "`ray status` there") if self.address else own
                        raise user_error("E415", what, where, fix) from error
                    time.sleep(1)
        while self.address and (alive := sum(node["Alive"] for node in self._ray.nodes())) < self.nodes:
            if time.monotonic() > deadline:
                raise user_error(
                    "E415",
                    f"{alive} of {self.nodes} nodes have come",
                    f"--address {self.address}",
                    "`ray status` there, or a lower --nodes",
                )
            time.sleep(0.5)

    def start(self, gang: Gang) -> str:
        bundle = {
            "CPU": gang.cpus * gang.ranks_per_node,
            **({"GPU": gang.gpus * gang.ranks_per_node} if gang.gpus else {}),
        }
        self._store.require()
        self._refuse_infeasible(gang, bundle)
        placed = _Placed(gang, bundle)
        if (actor := self._waiting.take(gang)) is not None:
            placed.actors, placed.reused = [actor], True
        else:
            self._give_up_waiting()
        if gang.nodes > 1:
            placed.group = self._ray.util.placement_group([bundle] * gang.nodes, strategy="STRICT_SPREAD")
        name = str(len(self._gangs))
        self._gangs[name] = placed
        self._place(placed, seconds=5.0)
        return name

    def poll(self, name: str) -> int | None:
        placed = self._gangs[name]
        gang = placed.gang
        if placed.code is not None or not (placed.endings or self._place(placed, seconds=0.0)):
            return placed.code
        self._note_endings(placed)
        codes = placed.codes
        failed = next((code for code in codes if code), None)
        if failed is not None and None in codes:
            self.stop(name)
            codes = [code if code is not None else failed for code in codes]
        if None not in codes:
            placed.code = failed or 0
            if placed.code == 0 and gang.service is not None and self._stays(placed.actors[0]):
                self._waiting.put(gang, placed.actors[0])
            else:
                self._free(placed)
        return placed.code

    def wait(self, names: Collection[str], seconds: float) -> None:
        self._store.check()
        gangs = [self._gangs[name] for name in names]
        awaited = [
            ending
            for placed in gangs
            for ending, code in zip(placed.endings, placed.codes, strict=True)
            if code is None
        ]
        if not all(placed.endings for placed in gangs):
            seconds = min(seconds, _PLACE_SECONDS)
        if awaited:
            self._ray.wait(awaited, timeout=seconds)
        else:
            time.sleep(seconds)

    def ask(self, name: str, number: int) -> None:
        placed = self._gangs[name]
        if placed.endings:
            for actor in placed.actors:
                self._try(actor.ask.remote(number))
        elif placed.code is None:  # it waits for its place, and need not
            placed.code = -number
            self._free(placed)

    def stop(self, name: str) -> None:
        if self._gangs[name].code is None:  # else its actor may have another gang by now
            for stopping in [actor.stop.remote() for actor in self._gangs[name].actors]:
                self._try(stopping)

    def close(self) -> None:
        for name, placed in self._gangs.items():
            if placed.code is None:
                self.stop(name)
                self._free(placed)
        self._give_up_waiting()
        self._ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _refuse_infeasible(self, gang: Gang, bundle: dict[str, int]) -> None:
        """Raises UserError E413 for a gang that no set of living nodes could ever hold."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        fitting = [node for node in nodes if all(node.get(name, 0) >= wanted for name, wanted in bundle.items())]
        if len(fitting) < gang.nodes:
            have = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            what = (
                f"a gang wants {gang.nodes} node(s) with {bundle}, and the cluster has {len(fitting)} such of "
                f"{len(nodes)} ({have})"
            )
            raise user_error("E413", what, "Ray", "plan for the cluster at hand: --cluster")

    def _place(self, placed: _Placed, seconds: float) -> bool:
        """Start the ranks once Ray has the gang's place. False while it has not."""
        if placed.group is not None and not placed.group.wait(seconds):
            return False
        if not placed.actors:
            placed.actors = [
                self._remote.options(**self._options(placed, at)).remote() for at in range(placed.gang.nodes)
            ]
            placed.meetings = [actor.meeting_point.remote() for actor in placed.actors]
        if not placed.reused:
            ready, _ = self._ray.wait(placed.meetings, num_returns=len(placed.meetings), timeout=seconds)
            if len(ready) < len(placed.meetings):
                return False
        gang, each = placed.gang, placed.gang.ranks_per_node
        try:
            environment = self._ray.get(placed.meetings[0]) if gang.ranks > 1 else {}
            starts = [(actor, at * each) for at, actor in enumerate(placed.actors)]
            self._ray.get([actor.start.remote(gang, environment, first) for actor, first in starts])
            placed.endings = [actor.end.remote() for actor in placed.actors]
            placed.codes = [None] * gang.nodes
        except self._ray.exceptions.RayActorError as error:
            self._free(placed)
            if placed.reused:  # its node went while it waited: nothing of this gang was lost
                placed.actors, placed.reused = [], False
            else:
                placed.code = self._lost(gang, error)
        return bool(placed.endings)

    def _options(self, placed: _Placed, at: int) -> dict[str, Any]:
        options = {"num_cpus": placed.bundle["CPU"], "num_gpus": placed.bundle.get("GPU", 0)}
        if placed.group is not None:
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(placed.group, at)
        return options

    def _note_endings(self, placed: _Placed) -> None:
        """Take the answers that have come; asking for them costs no message."""
        awaited = [ending for ending, code in zip(placed.endings, placed.codes, strict=True) if code is None]
        for ending in self._ray.wait(awaited, num_returns=len(awaited), timeout=0)[0] if awaited else []:
            try:
                code = int(self._ray.get(ending))
            except self._ray.exceptions.RayActorError as error:
                code = self._lost(placed.gang, error)
            placed.codes[placed.endings.index(ending)] = code

    def _lost(self, gang: Gang, error: Exception) -> int:
        """Write what Ray says of a lost actor into the gang's log, which may be empty. Returns the code that it counts
        as."""
        with gang.log.open("a") as log:
            log.write(f"Ray: {' '.join(str(error).split())}\n")
        return _LOST

    def _try(self, call: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayActorError):
            self._ray.get(call)

    def _stays(self, actor: Any) -> bool:
        with contextlib.suppress(self._ray.exceptions.RayActorError):
            return bool(self._ray.get(actor.is_kept.remote()))
        return False

    def _give_up_waiting(self) -> None:
        """Workers that wait leave their places to whoever comes."""
        for actor in self._waiting.clear():
            self._try(actor.stop.remote())
            self._ray.kill(actor)

    def _free(self, placed: _Placed) -> None:
        for actor in placed.actors:
            self._ray.kill(actor)
        if placed.group is not None:
            self._ray.util.remove_placement_group(placed.group)
