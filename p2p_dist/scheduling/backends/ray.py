"""Workers under Ray: a private instance on this machine, or a running cluster.

Ray places a process group and watches its nodes: a small actor per node starts the ranks as real processes, so that
signals, exit codes and devices stay ordinary. A group over several nodes has a Ray placement group. The private
instance has a token, listens on loopback, keeps its files in a short private folder, and ends with this process
(reference: Ray attaches `ray.init()` to any instance it finds on the host unless told not to).
"""

import contextlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.planning.gpus import visible_gpus
from p2p_dist.scheduling import ray_faulty_gpus, ray_local_cluster, signals
from p2p_dist.scheduling.backend import Backend, ProcessGroup
from p2p_dist.scheduling.environment import handed_over
from p2p_dist.scheduling.gpu_locks import all_locked
from p2p_dist.scheduling.process import group_code
from p2p_dist.scheduling.ray_capacity import PATIENCE_SECONDS, Nodes, bundle_of
from p2p_dist.scheduling.ray_gcs import GcsMonitor
from p2p_dist.scheduling.ray_node import NodeActor, in_bundle
from p2p_dist.scheduling.ray_placed import Placed
from p2p_dist.scheduling.worker_pool import IdleSlots

JOIN_SECONDS = 120.0
"""Longest wait for a named cluster and its nodes."""
START_SECONDS = 90.0
"""Longest time for starts of the private instance; Ray's own limit for one start is 30 s."""
_LOST = -9
"""Exit code of a group that lost a node or an actor, as after SIGKILL."""
_PLACE_SECONDS = 0.05
"""Interval between two checks of a pending placement."""
_CODE_SECONDS = 5.0
"""Longest wait for the exit codes of ranks that were stopped."""


class RayBackend(Backend):
    """Process groups under a private Ray with `cpus` and `gpus`, or under the cluster at `address`."""

    def __init__(self, cpus: int, gpus: int, address: str | None = None, nodes: int = 1):
        super().__init__(cpus, gpus, address, nodes)
        self._folder: Path | None = None
        if address is None:
            ray_local_cluster.clear_leftovers()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{ray_local_cluster.PREFIX}{os.getpid()}-", dir="/tmp"))
        try:
            self._begin()
        except BaseException:
            self._remove_folder()
            raise

    def _begin(self) -> None:
        """Start or join Ray. Raises UserError E415, E420 and E421, and `signals.Stopped`."""
        cpus, gpus, address = self.cpus, self.gpus, self.address
        if self._folder is not None:
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
            # Ray opens its own folder to everybody; ours around it stays shut.
            options |= {"_temp_dir": str(self._folder / "r")}
        devices = {gpu.name: gpu.uuid for gpu in visible_gpus()[:gpus]} if self._folder is not None and gpus else {}
        self._locks = all_locked(devices)
        with ray_local_cluster.devices_named(list(devices) if len(devices) == gpus else []):
            self._connect(options)
        self._nodes = Nodes(ray)
        self._gcs = GcsMonitor(ray.get_runtime_context().gcs_address)
        self._remote = ray.remote(NodeActor)
        self._groups: dict[str, Placed] = {}
        self._idle: IdleSlots[Any] = IdleSlots()

    def _connect(self, options: dict[str, Any]) -> None:
        """Start the private instance, or join the cluster once all its nodes are up. Ray gives up on its own start
        after 30 s, which a busy machine may need, so it is tried again. Raises UserError E415."""
        deadline = time.monotonic() + (JOIN_SECONDS if self.address else START_SECONDS)
        with warnings.catch_warnings(), signals.kept_handlers():
            warnings.simplefilter("ignore")
            while not self._ray.is_initialized():
                try:
                    with signals.restored():
                        self._ray.init(**options)
                except Exception as error:  # a timeout of Ray's start is a plain Exception
                    if time.monotonic() > deadline:
                        raise self._no_ray(error) from error
                    time.sleep(1)
        while self.address and (alive := sum(node["Alive"] for node in self._ray.nodes())) < self.nodes:
            if time.monotonic() > deadline:
                raise user_error(
                    "E415",
                    f"Only {alive} of {self.nodes} nodes joined the Ray cluster",
                    f"--address {self.address}",
                    "run `ray status` there, or lower --nodes",
                )
            time.sleep(0.5)

    def _no_ray(self, error: Exception) -> UserError:
        what = f"No Ray cluster answers: {' '.join(str(error).split())[:200]}"
        if self.address:
            return user_error("E415", what, f"--address {self.address}", "run `ray status` there")
        what = f"Ray did not start within {START_SECONDS:.0f} s: {' '.join(str(error).split())[:200]}"
        return user_error("E415", what, "Ray on this machine", "run `p2p-dist doctor`, or add --backend local")

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, group: ProcessGroup) -> str:
        bundle = bundle_of(group, self.cpus, self.gpus)
        self._gcs.require()
        self._nodes.refuse_infeasible(group, bundle)
        placed = Placed(group, bundle)
        if (actor := self._idle.take(group)) is not None:
            placed.actors, placed.reused = [actor], True
        else:
            self._release_idle()
        if group.nodes > 1:
            placed.placement_group = self._ray.util.placement_group([bundle] * group.nodes, strategy="STRICT_SPREAD")
        name = str(len(self._groups))
        self._groups[name] = placed
        self._place(placed, seconds=5.0)
        return name

    def poll(self, name: str) -> int | None:
        placed = self._groups[name]
        group = placed.group
        if placed.code is not None or not (placed.endings or self._place_at_last(placed)):
            return placed.code
        self._note_endings(placed)
        if placed.failure is not None and None in placed.codes:
            self.stop(name)
            self._note_endings(placed, _CODE_SECONDS)
            placed.codes = [placed.failure if code is None else code for code in placed.codes]
        if None not in placed.codes:
            placed.code = placed.failure or 0
            if placed.code == 0 and group.service is not None and self._stays(placed.actors[0]):
                self._idle.put(group, placed.actors[0])
            elif placed.code == Exit.DEVICE and group.gpus:
                placed.holders = ray_faulty_gpus.hold(self._ray, self._remote, placed, self._free)
            else:
                self._free(placed)
        return placed.code

    def has_started(self, name: str) -> bool:
        return bool(self._groups[name].endings)

    def wait(self, names: Collection[str], seconds: float) -> None:
        self._gcs.check()
        groups = [self._groups[name] for name in names]
        awaited = [ending for placed in groups for ending in placed.awaited()]
        if not all(placed.endings for placed in groups):
            seconds = min(seconds, _PLACE_SECONDS)
        if awaited:
            self._ray.wait(awaited, timeout=seconds)
        else:
            time.sleep(seconds)

    def send_signal(self, name: str, number: int) -> None:
        placed = self._groups[name]
        if placed.endings:
            for actor in placed.actors:
                self._try(actor.send_signal.remote(number))
        elif placed.code is None:  # pending: nothing to signal
            placed.code = -number
            self._free(placed)

    def stop(self, name: str) -> None:
        if self._groups[name].code is None:  # a finished group's actor may have another one
            for stopping in [actor.stop.remote() for actor in self._groups[name].actors]:
                self._try(stopping)

    def quarantine(self, name: str) -> list[str]:
        return list(self._groups[name].holders)

    def give_back(self, name: str) -> None:
        holders = self._groups[name].holders
        for holder in set(holders.values()):
            self._ray.kill(holder)
        holders.clear()

    def close(self) -> None:
        for name, placed in self._groups.items():
            if placed.code is None:
                self.stop(name)
                self._free(placed)
        self._release_idle()
        self._ray.shutdown()
        self._locks.close()
        self._remove_folder()

    def _place_at_last(self, placed: Placed) -> bool:
        """Start a pending group if there is room for it, which warm workers without a job make. It counts as lost when
        nodes are missing for too long."""
        self._release_idle()
        if self._place(placed, seconds=0.0):
            return True
        if placed.code is None and self._nodes.are_lost(placed):
            what = f"for {PATIENCE_SECONDS:g} s no living nodes have had {placed.group.nodes} x {placed.bundle}"
            placed.code = self._lost(placed.group, what)
            self._free(placed)
        return False

    def _place(self, placed: Placed, seconds: float) -> bool:
        """Start the ranks once Ray has placed the group. False while it is pending."""
        if placed.placement_group is not None and not placed.placement_group.wait(seconds):
            return False
        if not placed.actors:
            placed.actors = [
                self._remote.options(**self._options(placed, index)).remote() for index in range(placed.group.nodes)
            ]
            placed.meetings = [actor.meeting_point.remote() for actor in placed.actors]
        if not placed.reused:
            ready, _ = self._ray.wait(placed.meetings, num_returns=len(placed.meetings), timeout=seconds)
            if len(ready) < len(placed.meetings):
                return False
        group, each = placed.group, placed.group.ranks_per_node
        try:
            meeting = self._ray.get(placed.meetings[0]) if group.ranks > 1 else {}
            # Arguments of an actor travel from process to process and are stored nowhere.
            environment = {**handed_over(), **meeting}
            starts = [(actor, index * each) for index, actor in enumerate(placed.actors)]
            self._ray.get([actor.start.remote(group, environment, first) for actor, first in starts])
            placed.endings = [actor.end.remote() for actor in placed.actors]
            placed.codes = [None] * group.nodes
        except self._ray.exceptions.RayActorError as error:
            self._free(placed)
            if placed.reused:  # its node died while it was idle: nothing of this group was lost
                placed.actors, placed.reused = [], False
            else:
                placed.code = self._lost(group, error)
        return bool(placed.endings)

    def _options(self, placed: Placed, index: int) -> dict[str, Any]:
        options = {"num_cpus": placed.bundle["CPU"], "num_gpus": placed.bundle.get("GPU", 0)}
        if placed.placement_group is not None:
            options["scheduling_strategy"] = in_bundle(placed.placement_group, index)
        return options

    def _note_endings(self, placed: Placed, seconds: float = 0.0) -> None:
        """Collect the exit codes that have arrived, or arrive within `seconds`; this sends no message."""
        awaited = placed.awaited()
        for ending in self._ray.wait(awaited, num_returns=len(awaited), timeout=seconds)[0] if awaited else []:
            try:
                code = int(self._ray.get(ending))
            except self._ray.exceptions.RayActorError as error:
                code = self._lost(placed.group, error)
            placed.codes[placed.endings.index(ending)] = code
        placed.failure = group_code(placed.failure, placed.codes)

    def _lost(self, group: ProcessGroup, reason: object) -> int:
        """Append Ray's message about a lost actor or node to the group's log. Returns the exit code that it counts
        as."""
        with group.log.open("a") as log:
            log.write(f"Ray: {' '.join(str(reason).split())}\n")
        return _LOST

    def _try(self, call: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayActorError):
            self._ray.get(call)

    def _stays(self, actor: Any) -> bool:
        with contextlib.suppress(self._ray.exceptions.RayActorError):
            return bool(self._ray.get(actor.has_warm_worker.remote()))
        return False

    def _release_idle(self) -> None:
        """Stop the warm workers to free their places."""
        for actor in self._idle.clear():
            self._try(actor.stop.remote())
            self._ray.kill(actor)

    def _free(self, placed: Placed) -> None:
        for actor in placed.actors:
            self._ray.kill(actor)
        if placed.placement_group is not None:
            self._ray.util.remove_placement_group(placed.placement_group)
