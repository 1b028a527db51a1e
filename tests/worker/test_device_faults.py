"""Errors of a device, those of a program, and the check before the first job."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from p2p_dist.errors import Exit, UserError
from p2p_dist.modeling.base import Base
from p2p_dist.training.reproducible import refusal_of
from p2p_dist.worker import device_faults, model_job
from p2p_dist.worker.__main__ import Worker
from p2p_dist.worker.device_faults import device_error, fault_of, preflight, product_problem, understood

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be ...", "E318"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "E318"),
        ("CUDA error: an illegal memory access was encountered\nXid 79: GPU has fallen off the bus", "E318"),
        ("CUDA error: an illegal memory access was encountered", "E322"),
        ("CUDA error: misaligned address", "E322"),
        ("CUDA error: an illegal instruction was encountered", "E322"),
        ("CUDA error: unspecified launch failure", "E322"),
        ("CUDA error: device-side assert triggered", None),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", None),
        ("shape '[3]' is invalid for input of size 4", None),
    ],
)
def test_faults_of_a_device_are_told_from_bugs(text: str, code: str | None) -> None:
    """Certain faults of a device, errors that may be a bug as well, and bugs."""
    error = fault_of(RuntimeError(text))
    assert (error and error.problems[0].code) == code
    assert error is None or error.exit_code == Exit.DEVICE


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
    assert preflight() < 2


def gpu(free: int = 1 << 34) -> SimpleNamespace:
    """A stand-in for `torch.cuda` with one GPU."""
    return SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        set_device=lambda number: None,
        current_device=lambda: 0,
        mem_get_info=lambda: (free, 1 << 34),
    )


@pytest.mark.parametrize(
    ("free", "product", "problem"),
    [(1 << 34, None, None), (1 << 20, None, "only 0.0 of 16.0 GiB are free"), (1 << 34, "is wrong", "is wrong")],
)
def test_preflight_looks_at_memory_and_a_product(
    free: int, product: str | None, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "cuda", gpu(free))
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


def test_gpu_that_does_not_answer_in_time_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check ends while the call to the driver still waits."""
    answer = threading.Event()
    monkeypatch.setattr(torch, "cuda", gpu())
    monkeypatch.setattr(device_faults, "product_problem", lambda device: answer.wait(30) and None)
    monkeypatch.setattr(device_faults, "LIMIT_SECONDS", 0.05)
    preflight.cache_clear()
    try:
        with pytest.raises(UserError, match=r"E318.*within 0\.05 s") as refused:
            preflight()
        assert refused.value.exit_code == Exit.DEVICE
        assert not answer.is_set()
    finally:
        answer.set()
        preflight.cache_clear()


@pytest.mark.process
def test_worker_on_a_hung_gpu_ends_at_once() -> None:
    """The thread that waits for the driver does not keep the process, and the exit code is that of the fault."""
    code = (
        "import threading, types, torch\n"
        "from p2p_dist.worker import __main__ as worker, device_faults\n"
        "device_faults.LIMIT_SECONDS = 0.05\n"
        "device_faults._problem = lambda: threading.Event().wait()\n"
        "worker.Worker._run = lambda *_: device_faults.preflight()\n"
        "worker.end(worker.main(['--study-dir', '.', '--stages', 'x']))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "E318" in ended.stderr) == (Exit.DEVICE, True)


def test_gpu_is_checked_before_the_ranks_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank with a sick GPU ends before any other rank waits for it."""
    met: list[str] = []
    monkeypatch.setattr(model_job, "StopFlag", lambda: None)
    monkeypatch.setattr(model_job, "join", lambda: met.append("joined"))
    monkeypatch.setattr(model_job, "preflight", lambda: met.append("checked") or _raise(device_error("sick")))
    with pytest.raises(UserError, match="E318"):
        model_job.run_model_job(None, [], model_job.ExecutionOptions(), None)  # type: ignore[arg-type]
    assert met == ["checked"]


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(("device", "code"), [("cuda", Exit.DEVICE), ("cpu", Exit.INTEGRITY)])
def test_weights_that_changed_on_a_gpu_are_tried_on_another(device: str, code: Exit) -> None:
    checksum = SimpleNamespace(holds=lambda model: False)
    with pytest.raises(UserError, match="E316") as refused:
        Base.check(SimpleNamespace(device=torch.device(device), model=None, weight_checksum=checksum))  # type: ignore[arg-type]
    assert refused.value.exit_code == code
