"""Program that shows how Ray places process groups, and prints it as JSON. `python probe_pending.py nodes | slices`"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from p2p_dist.errors import UserError
from p2p_dist.scheduling import gpu_locks, ray_capacity
from p2p_dist.scheduling.backend import ProcessGroup, Service
from p2p_dist.scheduling.backends.ray import RayBackend

SERVE = """
import json, os, sys, time
from p2p_dist.worker_protocol import DONE
for line in sys.stdin:
    until = json.loads(line)["arguments"][0]
    while not os.path.exists(until):
        time.sleep(0.05)
    os.write(1, DONE)
"""
SHOW = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"


def main() -> None:
    """On two nodes of two GPUs, or on a machine whose only GPU is cut into two slices."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"nodes": two_nodes, "slices": slices}[sys.argv[1]](Path(folder))))


def two_nodes(folder: Path) -> dict[str, object]:
    """A group of two GPUs behind workers that stay, and one over two nodes of which one dies."""
    from ray.cluster_utils import Cluster  # a private instance has to be started before Ray is imported

    cluster = Cluster()
    nodes = [cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=80 << 20) for _ in range(2)]
    backend = RayBackend(2, 2, cluster.address, 2)
    try:
        singles = [backend.start(staying(folder, number)) for number in range(4)]
        await_true(lambda: all(backend.poll(name) is None and backend.has_started(name) for name in singles))
        wide = backend.start(ProcessGroup((sys.executable, "-c", SHOW), folder / "wide", 1, 1, ranks=2))
        pending = not backend.has_started(wide)
        for number in range(4):
            (folder / f"stop{number}").touch()
        await_true(lambda: all([backend.poll(name) == 0 for name in (*singles, wide)]))
        endless = ProcessGroup((sys.executable, "-c", "import time; time.sleep(90)"), folder / "log", 1, 1, {}, 4, 2)
        name = backend.start(endless)
        await_true(lambda: backend.poll(name) is None and backend.has_started(name))
        cluster.remove_node(nodes[1])
        await_true(lambda: backend.poll(name) is not None)
        ray_capacity.PATIENCE_SECONDS = 2.0
        again = backend.start(endless)
        await_true(lambda: backend.poll(again) is not None)
        said = (folder / "log").read_text().splitlines()[-1]
        return {"pending": pending, "codes": [backend.poll(name), backend.poll(again)], "said": said}
    finally:
        backend.close()
        cluster.shutdown()


def staying(folder: Path, number: int) -> ProcessGroup:
    """A job for a worker that stays afterwards; it ends when `stop{number}` is there."""
    service = Service((sys.executable, "-c", SERVE), (str(folder / f"stop{number}"),), {})
    return ProcessGroup((), folder / f"log{number}", 1, 1, service=service)


def slices(folder: Path) -> list[str]:
    """What two jobs under a private Ray are given, and what a second controller is told."""
    gpu_locks.FOLDER = folder / "locks"
    backend = RayBackend(2, 2)
    try:
        logs = [folder / f"slice{number}" for number in range(2)]
        names = [backend.start(ProcessGroup((sys.executable, "-c", SHOW), log, 1, 1)) for log in logs]
        await_true(lambda: all([backend.poll(name) == 0 for name in names]))
        return [*sorted(log.read_text().strip() for log in logs), refusal()]
    finally:
        backend.close()


def refusal() -> str:
    """The error of a second controller that wants one of the slices."""
    try:
        gpu_locks.all_locked({"MIG-22": "MIG-22", "0": "GPU-bb"})
    except UserError as error:
        return str(error)
    return ""


def await_true(holds: Callable[[], bool]) -> None:
    """Wait half a minute at most. Raises TimeoutError."""
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)


if __name__ == "__main__":
    main()
