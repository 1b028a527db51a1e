"""Program that loses a GPU of the second of two Ray nodes, and prints as JSON what becomes of the others."""

import json
import sys
import tempfile
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.backends.ray import RayBackend

RANKS = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: None)
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
(folder / f"ready{rank}").touch()
while len(list(folder.glob("ready*"))) < 4:
    time.sleep(0.01)
time.sleep(0.5 * (rank == 3))
sys.exit([1, 0, 0, 74][rank])
"""


def main() -> None:
    """Rank 0 fails at once, and rank 3, on the other node, half a second later with a device fault."""
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=80 << 20)
    backend = RayBackend(2, 2, cluster.address, 2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = (sys.executable, "-c", RANKS, folder)
            name = backend.start(ProcessGroup(command, Path(folder, "log"), 1, 1, ranks=4, nodes=2))
            while (code := backend.poll(name)) is None:
                time.sleep(0.02)
        faulty = [device.split()[-1] for device in backend.quarantine(name)]
        left = await_gpus(3)
        backend.give_back(name)
        print(json.dumps({"code": code, "faulty": faulty, "left": left, "given back": await_gpus(4)}))
    finally:
        backend.close()
        cluster.shutdown()


def await_gpus(count: int) -> float:
    """Free GPUs of the cluster, once there are as many, or after ten seconds."""
    deadline = time.monotonic() + 10
    while (free := ray.available_resources().get("GPU", 0)) != count and time.monotonic() < deadline:
        time.sleep(0.1)
    return float(free)


if __name__ == "__main__":
    main()
