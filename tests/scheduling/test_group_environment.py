"""Variables and options of the workers of a group."""

from pathlib import Path

import pytest

from p2p_dist.planning.jobs import Job
from p2p_dist.planning.placement import Placement
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.process_groups import MEETING, GroupSettings, build_process_group


def group(folder: Path, ranks: int = 1, gpus: int = 1, **settings_: bool) -> ProcessGroup:
    """The group of a job of one stage."""
    job, place = Job(("abc",), frozenset(), (1.0,)), Placement(ranks, 0, "none", 32, 1, 1, None)
    settings = GroupSettings(4, gpus, 8, 50, **settings_)
    return build_process_group(RunDir(folder), job, place, settings, folder / "log", {})


def test_settings_of_the_network_reach_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the beginnings of their names; a secret is not among them."""
    for name in ("NCCL_SOCKET_IFNAME", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "GLOO_SOCKET_IFNAME", "HF_TOKEN"):
        monkeypatch.setenv(name, "x")
    passed = group(tmp_path).environment
    assert {"NCCL_SOCKET_IFNAME", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "GLOO_SOCKET_IFNAME"} <= passed.keys()
    assert "HF_TOKEN" not in passed


def test_workers_on_gpus_know_it_and_keep_the_users_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    on_gpu = group(tmp_path).environment
    assert (on_gpu["P2P_DIST_DEVICE"], on_gpu["TORCH_CUDNN_SDPA_DEPRIORITIZED"]) == ("cuda", "1")
    assert on_gpu["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert on_gpu["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    monkeypatch.setenv("P2P_DIST_DEVICE", "cuda")
    assert group(tmp_path).environment["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64"
    assert "P2P_DIST_DEVICE" not in group(tmp_path, gpus=0).environment


def test_ranks_of_a_group_have_a_meeting_file(tmp_path: Path) -> None:
    assert MEETING not in group(tmp_path).environment
    assert Path(group(tmp_path, ranks=2).environment[MEETING]).parent == tmp_path


@pytest.mark.parametrize("deterministic", [True, False])
def test_fast_kernels_are_an_option_of_the_worker(tmp_path: Path, deterministic: bool) -> None:
    assert ("--nondeterministic" in group(tmp_path, deterministic=deterministic).command) is not deterministic


@pytest.mark.parametrize("repeated", [True, False])
def test_cuda_graphs_are_an_option_of_the_worker(tmp_path: Path, repeated: bool) -> None:
    assert ("--cuda-graphs" in group(tmp_path, cuda_graphs=repeated).command) is repeated
