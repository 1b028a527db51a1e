"""Errors of a device, those of a program, and the check before the first job."""

from types import SimpleNamespace

import pytest
import torch

from p2p_dist.errors import Exit, UserError
from p2p_dist.training.reproducible import refusal_of
from p2p_dist.worker import device_faults
from p2p_dist.worker.__main__ import Worker
from p2p_dist.worker.device_faults import fault_of, preflight, product_problem, understood

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be ...", True),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", True),
        ("CUDA error: unspecified launch failure", True),
        ("CUDA error: device-side assert triggered", False),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("shape '[3]' is invalid for input of size 4", False),
    ],
)
def test_faults_of_a_device_are_told_from_bugs(text: str, fault: bool) -> None:
    assert (fault_of(RuntimeError(text)) is not None) is fault


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("CUDA error: uncorrectable ECC error encountered", Exit.DEVICE),
        ("put_ does not have a deterministic implementation, but you set ...", Exit.USAGE),
    ],
)
def test_worker_ends_with_the_exit_code_of_the_fault(
    text: str, code: int, tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError(text)

    monkeypatch.setattr(Worker, "_run", fail)
    assert Worker().run(["--study-dir", str(tmp_path), "--stages", "x"]) == code
    assert "error[E31" in capsys.readouterr().err


def test_operation_without_a_deterministic_kernel_is_named() -> None:
    """The name comes from torch's own message, which this asks torch for."""
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as refused:
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert "operation put_ has no" in str(refusal_of(refused.value))
    assert understood(ValueError("something else")) is None


def test_worker_with_a_gpu_never_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA in torch no other device helps; with it, the device is at fault."""
    monkeypatch.setenv(device_faults.REQUIRED, "cuda")
    for built, code in ((False, Exit.USAGE), (True, Exit.DEVICE)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda built=built: built)
        preflight.cache_clear()
        with pytest.raises(UserError) as refused:
            preflight()
        assert refused.value.exit_code == code
    monkeypatch.delenv(device_faults.REQUIRED)
    assert preflight() == 0.0


@pytest.mark.parametrize(
    ("free", "product", "problem"),
    [(1 << 34, None, None), (1 << 20, None, "only 0.0 of 16.0 GiB are free"), (1 << 34, "is wrong", "is wrong")],
)
def test_preflight_looks_at_memory_and_a_product(
    free: int, product: str | None, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(is_available=lambda: True, current_device=lambda: 0, mem_get_info=lambda: (free, 1 << 34))
    monkeypatch.setattr(torch, "cuda", memory)
    monkeypatch.setattr(device_faults, "product_problem", lambda device: product)
    preflight.cache_clear()
    try:
        if problem is None:
            assert preflight() < 2
            return
        with pytest.raises(UserError, match=problem) as refused:
            preflight()
        assert refused.value.exit_code == Exit.DEVICE
    finally:
        preflight.cache_clear()


def test_small_product_is_exact_on_a_sound_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers are right in every type; one wrong number is found."""
    assert product_problem(torch.device("cpu")) is None
    right = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a, b) + (a.dtype == torch.bfloat16))
    assert "bfloat16 is wrong" in str(product_problem(torch.device("cpu")))
