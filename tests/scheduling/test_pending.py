"""Process groups that wait for a place: they lose no attempt, and get the place that others of the study leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.ray_capacity import bundle_of
from tests.dummy_study import DummyStudy, endings

BUSY = "for i in range(8): print(i, flush=True); time.sleep(0.5)"


@pytest.mark.parametrize("backend", ["ray"], indirect=True)
def test_waiting_for_a_place_is_no_stall(backend: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three jobs of four seconds on two GPUs, with a limit of two seconds without a sign of work."""
    state, folder = DummyStudy(tmp_path, monkeypatch, backend).run(BUSY, jobs=3, slots=3, stall=2)  # type: ignore[arg-type]
    assert (len(state.done), state.failed) == (3, [])
    assert [end["code"] for end in endings(folder)] == [0, 0, 0]


def placed(what: str, path: str = os.environ["PATH"]) -> object:
    """What the probe prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CUDA_VISIBLE"))}
    probe = [sys.executable, str(Path(__file__).with_name("probe_pending.py")), what]
    done = subprocess.run(
        probe, env={**environment, "PATH": path}, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_groups_get_the_places_that_are_left() -> None:
    """Warm workers give way to a group that needs a whole node; a dead node is waited for, and costs an attempt."""
    found = placed("nodes")
    assert isinstance(found, dict)
    assert "no living nodes have had 2 x" in found.pop("said")
    assert found == {"pending": True, "codes": [-9, -9]}


def test_ray_hands_out_slices_by_their_names(tmp_path: Path) -> None:
    """It holds their locks: another controller is refused."""
    tool = tmp_path / "nvidia-smi"
    slices = ["  MIG 1g.5gb  Device  0: (UUID: MIG-11)", "  MIG 1g.5gb  Device  1: (UUID: MIG-22)"]
    (tmp_path / "list").write_text("\n".join(["GPU 0: NVIDIA A100 (UUID: GPU-aa)", *slices]))
    tool.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then cat {tmp_path}/list; else echo 40960; fi\n')
    tool.chmod(0o755)
    found = placed("slices", f"{tmp_path}:{os.environ['PATH']}")
    assert isinstance(found, list)
    assert found[:2] == ["MIG-11", "MIG-22"]
    assert "E421" in found[2]
    assert "uses GPU MIG-22" in found[2]


@pytest.mark.parametrize(
    ("cores", "ranks", "gpus", "node", "expected"),
    [
        (4, 1, 0, (8, 0), {"CPU": 4}),
        (12, 1, 1, (96, 8), {"CPU": 12, "GPU": 1}),
        (96, 8, 1, (96, 8), {"CPU": 96, "GPU": 8}),
        (1, 1, 1, (1, 8), {"CPU": 0.125, "GPU": 1}),
        (1, 8, 1, (1, 8), {"CPU": 1, "GPU": 8}),
        (1, 1, 1, (1, 3), {"CPU": 0.3333, "GPU": 1}),
    ],
)
def test_cores_keep_no_gpu_idle(
    cores: int, ranks: int, gpus: int, node: tuple[int, int], expected: dict[str, float]
) -> None:
    """Where Slurm gives a job one core, all GPUs of a node work."""
    assert bundle_of(ProcessGroup((), Path("log"), cores, gpus, ranks=ranks), *node) == expected


@pytest.mark.parametrize(("gpus", "slots", "threads"), [(8, 1, 12), (8, 16, 12), (0, 2, 96), (128, 1, 1)])
def test_a_rank_has_its_share_of_the_cores(gpus: int, slots: int, threads: int) -> None:
    cluster = ClusterSpec(name="c", nodes=2, cpus_per_node=96, gpus_per_node=gpus)
    assert cluster.threads_of(slots) == threads
