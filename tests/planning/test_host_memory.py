"""Memory of the host as cgroups limit it."""

from pathlib import Path

import pytest

from p2p_dist.planning import host_memory
from p2p_dist.planning.cluster import this_machine
from p2p_dist.planning.host_memory import cgroup_limits

V2 = "0::/system.slice/job_7/step_0\n"
V1 = "9:name=systemd:/\n4:cpu,memory:/slurm/job_7\n0::/\n"


def tree(tmp_path: Path, own: str, **limits: str) -> tuple[Path, Path]:
    """Text of /proc/self/cgroup, and a root with files, named by their path with `__` for `/`."""
    root = tmp_path / "cgroup"
    for name, text in limits.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "own").write_text(own)
    return tmp_path / "own", root


@pytest.mark.parametrize(
    ("own", "limits", "found"),
    [
        (V2, {"system.slice__job_7__memory.max": "8000\n", "system.slice__job_7__step_0__memory.max": "max\n"}, 8000),
        (V2, {"system.slice__memory.max": "9000", "system.slice__job_7__memory.max": "8000"}, 8000),
        (V2, {"memory.max": "7000\n"}, 7000),
        (V1, {"memory__slurm__job_7__memory.limit_in_bytes": "6000\n", "memory.max": "max"}, 6000),
        ("0::/../other\n", {"memory.max": "5000"}, 5000),
    ],
    ids=["of-the-job", "of-any-parent", "in-a-container", "version-1", "outside-the-namespace"],
)
def test_limit_of_the_own_cgroup(own: str, limits: dict[str, str], found: int, tmp_path: Path) -> None:
    assert min(cgroup_limits(*tree(tmp_path, own, **limits))) == found


@pytest.mark.parametrize(("own", "limits"), [(V2, {"system.slice__memory.max": "max\n"}), ("", {}), ("odd\n", {})])
def test_no_limit(own: str, limits: dict[str, str], tmp_path: Path) -> None:
    assert cgroup_limits(*tree(tmp_path, own, **limits)) == []


def test_plans_of_this_machine_know_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, root = tree(tmp_path, V2, **{"system.slice__job_7__memory.max": "200000000"})
    monkeypatch.setattr(host_memory, "OWN_CGROUPS", own)
    monkeypatch.setattr(host_memory, "CGROUP_ROOT", root)
    assert this_machine().memory_gb == 0.2
