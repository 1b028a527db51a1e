"""GPU use in progress lines: the driver's tool is asked and not waited for."""

import sys
import time

import pytest
import torch

from p2p_dist.training.gpu_use import GpuUse


def heard(command: list[str]) -> dict[str, int]:
    """The values that are known once the tool had time to answer."""
    gpu = GpuUse(command)
    assert gpu.to_dict() == {}, "the first call only asks"
    for _ in range(200):
        if facts := gpu.to_dict():
            return facts
        if gpu._asked is None:
            break
        time.sleep(0.05)
    return gpu.to_dict()


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        ("87, 12000", {"gpu_percent": 87, "gpu_mib": 12000}),
        ("[N/A], 12000", {"gpu_mib": 12000}),
        ("", {}),
        ("No devices were found", {}),
    ],
)
def test_what_the_tool_says(answer: str, facts: dict[str, int]) -> None:
    assert heard([sys.executable, "-c", f"print({answer!r})"]) == facts


def test_a_tool_that_hangs_holds_nobody_up() -> None:
    gpu = GpuUse([sys.executable, "-c", "import time; time.sleep(60)"])
    started = time.monotonic()
    assert [gpu.to_dict() for _ in range(100)] == [{}] * 100
    assert time.monotonic() - started < 5
    assert gpu._asked is not None
    gpu._asked.kill()
    gpu._asked.communicate()


def test_without_a_gpu_nothing_is_asked() -> None:
    assert GpuUse.of(torch.device("cpu")).command is None


@pytest.mark.gpu
def test_a_real_driver_answers() -> None:
    gpu = GpuUse.of(torch.device("cuda", 0))
    assert gpu.command is not None
    assert set(heard(list(gpu.command))) == {"gpu_percent", "gpu_mib"}
