"""Deterministic kernels on a GPU, and the hardware that is part of a run's layout."""

from types import SimpleNamespace

import pytest
import torch

from p2p_dist.training.engine import Execution, hardware
from p2p_dist.training.reproducible import set_deterministic

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("gpu", "enabled"), [(True, True), (True, False), (False, True)])
def test_set_deterministic_warns_without_a_gpu_alone(gpu: bool, enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning would leave the backward passes of attention as they are, so a GPU refuses."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        set_deterministic(enabled)
        assert torch.are_deterministic_algorithms_enabled() is enabled
        assert torch.is_deterministic_algorithms_warn_only_enabled() is not gpu
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_layout_names_the_gpu_and_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers are shared out over the processors, so two GPUs of one name may draw others."""
    for count in (132, 78):
        properties = SimpleNamespace(multi_processor_count=count)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, given=properties: given)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
        assert hardware(torch.device("cuda", 0)) == f"NVIDIA H200, {count} SMs"


def test_layout_says_that_kernels_are_not_deterministic() -> None:
    assert Execution(deterministic=False).topology == f"{Execution().topology}, not deterministic"
