"""Faults of a device: a check before the first job, and the exit code of an error that another device may not have."""

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.training.ranks import take_device
from p2p_dist.training.reproducible import fix_workspace, refusal_of

REQUIRED = "P2P_DIST_DEVICE"
"""Variable of a worker that was given a GPU: it must not compute on the CPU."""
LEAST_FREE = 1 << 30
"""Bytes that must be free on a GPU before a job."""
LIMIT_SECONDS = 60.0
"""Longest time of the check; a driver that is not kept loaded takes seconds for every GPU of a node."""
_SIDE = 256
_FAULTS = (
    "ecc error",
    "uncorrectable",
    "xid",
    "fallen off the bus",
    "devices is/are busy or unavailable",
    "device(s) is/are busy or unavailable",
    "system not yet initialized",
    "driver shutting down",
    "cuda driver initialization failed",
    "unable to determine the device handle",
    "nvml_error_gpu_is_lost",
    "cuda unknown error",
)
"""Parts of messages of CUDA, its driver and NVML, in small letters, that tell of a device and not of a program."""
_FAULTS_OR_BUGS = (
    "unspecified launch failure",
    "hardware stack error",
    "illegal instruction",
    "misaligned address",
    "illegal memory access",
    "launch timed out",
)
"""Parts of messages of CUDA that a sick device and a bug in a kernel have in common."""


def fault_of(error: BaseException) -> UserError | None:
    """Error E318 or, where a bug in a kernel says the same, E322 for an error that may tell of a faulty device; None
    for any other error."""
    if isinstance(error, UserError):
        return None
    if line := _line_with(_FAULTS, str(error)):
        return device_error(line)
    if line := _line_with(_FAULTS_OR_BUGS, str(error)):
        what = f"{line} (the device is at fault, or a kernel has a bug)"
        return user_error("E322", what, place(), "report it if other devices end alike", Exit.DEVICE)
    return None


def _line_with(parts: tuple[str, ...], text: str) -> str | None:
    """The first line that has one of these parts, whatever the case of its letters."""
    return next((line.strip() for line in text.splitlines() if any(part in line.lower() for part in parts)), None)


def understood(error: BaseException) -> UserError | None:
    """The error of a user or a device behind an error of torch; None for a bug."""
    return fault_of(error) or refusal_of(error)


def device_error(what: str) -> UserError:
    """Error E318, with the exit code of a device fault."""
    return user_error("E318", what, place(), "use another device, and look at `nvidia-smi -q`", Exit.DEVICE)


def place() -> str:
    """Name of this process's device for messages."""
    return f"{os.uname().nodename}, CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}"


@functools.cache
def preflight() -> float:
    """Check this process's GPU once, before it meets other ranks, and return the seconds it took: the driver answers
    in time, memory is free, and a small product is right. Nothing is checked without a GPU.

    Raises UserError E317 for a torch without CUDA where a GPU was given, and E318 (exit code 74) for a fault.
    """
    started = time.perf_counter()
    try:
        problem = _within(LIMIT_SECONDS, _problem)
    except TimeoutError as error:
        raise device_error(f"the GPU has not answered within {LIMIT_SECONDS:g} s") from error
    except RuntimeError as error:  # every error of a device that does nothing else is its own
        raise device_error(f"the GPU does not answer: {str(error).splitlines()[0]}") from error
    if problem:
        raise device_error(problem)
    return time.perf_counter() - started


def _problem() -> str | None:
    """The defect of this process's GPU; None for a sound one, and without a GPU. Raises as `preflight` does, and
    RuntimeError."""
    if not torch.cuda.is_available():
        if os.environ.get(REQUIRED) == "cuda":
            raise _no_cuda()
        return None
    take_device()  # of this thread
    fix_workspace()  # before the product
    free, total = torch.cuda.mem_get_info()
    if free < LEAST_FREE:
        return f"only {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free: another process holds the GPU"
    return product_problem(torch.device("cuda", torch.cuda.current_device()))


def _within(seconds: float, check: Callable[[], str | None]) -> str | None:
    """The result of a check. Raises TimeoutError when it takes too long: it is then left behind in its thread,
    since nothing interrupts a call of the driver."""
    thread = ThreadPoolExecutor(1)
    try:
        return thread.submit(check).result(seconds)
    finally:
        thread.shutdown(wait=False)


def _no_cuda() -> UserError:
    """A worker was given a GPU and torch has none."""
    if not torch.backends.cuda.is_built():
        what = "a GPU was given to a worker, and this torch is built without CUDA"
        return user_error("E317", what, "torch", "install a torch with CUDA, or plan without GPUs")
    return device_error("a GPU was given to a worker, and torch cannot use it")


def product_problem(device: torch.device) -> str | None:
    """Compare a product of small whole numbers, exact in every type, with the host's, in bfloat16 and float32."""
    numbers = torch.arange(_SIDE * _SIDE).view(_SIDE, _SIDE)
    left, right = (numbers * 7 % 5 - 2).double(), (numbers * 3 % 7 - 3).double()
    expected = left @ right
    for dtype in (torch.float32, torch.bfloat16):
        product = left.to(device, dtype) @ right.to(device, dtype)
        if not torch.equal(product.double().cpu(), expected.to(dtype).double()):
            return f"a product of small numbers in {str(dtype).removeprefix('torch.')} is wrong"
    return None
