"""GPUs as nvidia-smi lists them, from the text that it prints."""

from pathlib import Path

import pytest

from p2p_dist.planning.gpus import Gpu, visible_gpus

WHOLE = """GPU 0: NVIDIA H200 (UUID: GPU-aa)
GPU 1: NVIDIA H200 (UUID: GPU-bb)"""
CUT = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-11)
  MIG 1g.5gb      Device  1: (UUID: MIG-22)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a tool `nvidia-smi` that prints the file `list` for -L, and two GPUs of 40,960 MiB."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then cat {tmp_path}/list; else echo 40960; echo 40960; fi\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


@pytest.mark.process
@pytest.mark.parametrize(
    ("listed", "visible", "names"),
    [
        (WHOLE, None, ["0", "1"]),
        (WHOLE, "1", ["1"]),
        (WHOLE, "GPU-bb", ["GPU-bb"]),
        (WHOLE, "", []),
        (CUT, None, ["MIG-11", "MIG-22", "1"]),
        (CUT, "MIG-22,1", ["MIG-22", "1"]),
    ],
)
def test_gpus_have_names_of_cuda_visible_devices(smi: Path, listed: str, visible: str | None, names: list[str]) -> None:
    (smi / "list").write_text(listed)
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert [gpu.name for gpu in visible_gpus(environment)] == names


@pytest.mark.process
def test_mig_slices_have_memory_of_their_own(smi: Path) -> None:
    (smi / "list").write_text(CUT)
    sizes = {gpu.name: round(gpu.memory_gb, 1) for gpu in visible_gpus({})}
    assert sizes == {"MIG-11": 21.5, "MIG-22": 5.4, "1": 42.9}


def test_no_tool_means_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == []
    assert Gpu("0", 1.0) == Gpu("0", 1.0)
