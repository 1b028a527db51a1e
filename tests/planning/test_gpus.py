"""GPUs as nvidia-smi lists them, from the text that it prints."""

from pathlib import Path

import pytest

from p2p_dist.cli import checks
from p2p_dist.errors import UserError
from p2p_dist.planning import gpus
from p2p_dist.planning.cluster import this_machine
from p2p_dist.planning.gpus import visible_gpus

WHOLE = """GPU 0: NVIDIA H200 (UUID: GPU-aa)
GPU 1: NVIDIA H200 (UUID: GPU-bb)"""
CUT = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-11)
  MIG 1g.5gb      Device  1: (UUID: MIG-22)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)"""

UNIFIED = "if [ $1 = -L ]; then echo 'GPU 0: NVIDIA GB10 (UUID: GPU-aa)'; else echo '[N/A]'; fi"


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
        (WHOLE, "NoDevFiles", []),
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


@pytest.mark.process
@pytest.mark.parametrize(
    ("listed", "visible", "sliced"),
    [(WHOLE, None, False), (CUT, None, True), (CUT, "1", False), (CUT, "MIG-22", True), (WHOLE, "MIG-GPU-a/1/0", True)],
)
def test_this_machine_knows_its_mig_slices(
    smi: Path, listed: str, visible: str | None, sliced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (smi / "list").write_text(listed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert this_machine().mig_slices is sliced


def test_no_tool_means_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "DEVICE_FILES", tmp_path)
    assert visible_gpus({}) == []


def tool_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str | None, files: int = 1) -> None:
    """A machine with `files` GPUs in /dev, whose nvidia-smi does this; None for a machine without the tool."""
    monkeypatch.setattr(gpus, "DEVICE_FILES", tmp_path)
    for index in range(files):
        (tmp_path / f"nvidia{index}").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    if does is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)


@pytest.mark.process
@pytest.mark.parametrize(
    ("does", "message"),
    [
        (None, "not installed"),
        ("echo 'NVIDIA-SMI has failed because it lost the driver'; exit 9", "failed: NVIDIA-SMI has failed"),
        ("exec /bin/sleep 9", "did not end in"),
        (UNIFIED, "does not say how much memory GPU 0 has"),
    ],
)
def test_gpus_that_cannot_be_listed_are_refused(
    does: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study is never planned for the CPU because a driver is broken; who hides the GPUs wants the CPU."""
    tool_that(tmp_path, monkeypatch, does)
    monkeypatch.setattr(gpus, "_TIMEOUT", 0.2)
    with pytest.raises(UserError, match=f"E419.*{message}.*CUDA_VISIBLE_DEVICES"):
        visible_gpus({})
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


@pytest.mark.process
@pytest.mark.parametrize(("does", "files"), [("echo 'No devices were found'; exit 6", 1), ("exit 9", 0)])
def test_tool_without_gpus_means_the_cpu(
    does: str, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None was granted to this process, or the machine has none, such as the login node of a cluster."""
    tool_that(tmp_path, monkeypatch, does, files)
    assert visible_gpus({}) == []


def test_doctor_names_gpus_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails with the fix, where a plan would be refused."""
    tool_that(tmp_path, monkeypatch, None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (check,) = checks._devices()
    assert not check.ok
    assert "nvidia-smi is not installed" in check.line()
    assert "repair the driver" in check.line()
