"""Decisions at the end of a job."""

import pytest

from p2p_dist.errors import Exit
from p2p_dist.planning.policy import (
    MAX_ATTEMPTS,
    Ending,
    Start,
    after_exit,
    may_start_again,
    names_lost_peer,
    names_memory,
    names_uncertain_fault,
    next_start,
)


@pytest.mark.parametrize(
    ("ending", "action", "said"),
    [
        (Ending(0, 0, True), "done", ""),
        (Ending(0, 0, False), "fail", "left no result"),
        (Ending(75, 9, False), "retry", "stopped on request"),
        (Ending(-9, 1, False), "retry", "signal 9"),
        (Ending(137, MAX_ATTEMPTS - 1, False), "retry", "signal 9"),
        (Ending(-9, MAX_ATTEMPTS, False), "fail", "3 times in a row without progress"),
        (Ending(-9, 0, False), "retry", "signal 9"),
        (Ending(-6, 1, False, stalled=True), "retry", "made no progress"),
        (Ending(75, 1, False, stalled=True), "retry", "made no progress"),
        (Ending(-6, MAX_ATTEMPTS, False, stalled=True), "fail", "made no progress"),
        (Ending(0, 1, True, stalled=True), "done", ""),
        (Ending(1, 1, False), "fail", "exit code 1"),
        (Ending(2, 1, False), "fail", "exit code 2"),
        (Ending(1, 9, False, 32, out_of_memory=True), "retry", "micro-batch of 32"),
        (Ending(1, 1, False, 1, out_of_memory=True), "fail", "micro-batch of 1"),
        (Ending(1, 1, False, 1, out_of_memory=True, can_recompute=True), "retry", "micro-batch of 1"),
        (Ending(1, 1, False, 32, out_of_memory=True, trains=False), "fail", "in an evaluation or a scoring"),
        (Ending(Exit.DEVICE, 1, False), "retry", "device fault"),
        (Ending(Exit.DEVICE, MAX_ATTEMPTS, False), "fail", "device fault"),
        (Ending(1, 1, False, lost_peer=True), "retry", "lost another"),
        (Ending(1, MAX_ATTEMPTS, False, lost_peer=True), "fail", "lost another"),
    ],
)
def test_policy(ending: Ending, action: str, said: str) -> None:
    decision = after_exit(ending)
    assert decision.action == action
    assert said in decision.reason


def test_out_of_memory_halves_the_micro_batch() -> None:
    sizes, end = [], Ending(1, 1, False, 32, out_of_memory=True)
    while (decision := after_exit(end)).action == "retry":
        assert decision.micro_batch is not None
        sizes.append(decision.micro_batch)
        end = Ending(1, 1, False, decision.micro_batch, out_of_memory=True)
    assert sizes == [16, 8, 4, 2, 1]


def test_memory_that_ends_at_one_row_adds_checkpointing() -> None:
    """Before a job fails for lack of memory, its layers are computed again in the backward pass."""
    decision = after_exit(Ending(1, 1, False, 1, out_of_memory=True, can_recompute=True))
    assert (decision.micro_batch, decision.gradient_checkpointing) == (1, True)


def test_fault_that_comes_alike_on_two_devices_is_a_bug() -> None:
    """The job fails and the devices are given back; after one device, and after a certain fault, another is tried."""
    bug = after_exit(Ending(Exit.DEVICE, 2, False, alike=2))
    assert (bug.action, bug.give_back) == ("fail", True)
    assert "alike on other devices" in bug.reason
    others = [after_exit(Ending(Exit.DEVICE, 2, False, alike=alike)) for alike in (0, 1)]
    assert [(decision.action, decision.give_back) for decision in others] == [("retry", False)] * 2


@pytest.mark.parametrize("end", [Ending(Exit.DEVICE, 1, False, 32, out_of_memory=True, stalled=True)])
def test_device_fault_comes_before_its_consequences(end: Ending) -> None:
    assert after_exit(end).reason == "device fault"


def test_certain_fault_of_one_rank_makes_the_others_certain() -> None:
    bug, changed, sick = (["step 1", f"error[{code}]: ..."] for code in ("E322", "E316", "E318"))
    assert names_uncertain_fault([bug, ["step 1"]])
    assert names_uncertain_fault([changed])
    assert not names_uncertain_fault([bug, sick])
    assert not names_uncertain_fault([["step 1"], []])


def test_lost_peer_needs_every_failed_rank_to_say_so() -> None:
    """A rank with a bug of its own makes the others lose a peer; that is no reason to try again."""
    lost = ["Traceback", "torch.distributed.DistBackendError: NCCL error in: remote process exited"]
    assert names_lost_peer([lost, lost])
    assert names_lost_peer([lost, ["stopped"]])
    assert not names_lost_peer([lost, ["Traceback", "KeyError: 'x'"]])
    assert not names_lost_peer([["step 1"], []])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("MemoryError", True),
        ("RuntimeError: CUDA error: out of memory", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("ncclUnhandledCudaError: Call to CUDA function failed. Cuda failure 2 'out of memory'", True),
        ("Error out of memory at line 380 in file /src/csrc/pythonInterface.c", True),
        ("OSError: [Errno 12] Cannot allocate memory", True),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory", True),
        ("ValueError: the memory of an elephant", False),
    ],
)
def test_memory_is_recognised(line: str, expected: bool) -> None:
    assert names_memory(["Traceback", line]) is expected


def test_policy_progress_clears_the_count_of_fruitless_starts() -> None:
    """Starts that bring nothing are counted and progress clears the count."""
    found: list[tuple[int, bool]] = []
    start: Start | None = None
    for before, after in [
        ("a", "a"),
        ("a", "a"),
        ("a", "a"),
        ("a", "a"),
        ("a", "b"),
        ("b", "b"),
        ("b", "b"),
        ("c", "c"),
        ("c", "c"),
        ("c", "c"),
    ]:
        start = next_start(start, before)
        found.append((start.number, may_start_again(start, after)))
    assert found == [
        (1, True),
        (2, True),
        (3, False),
        (4, False),
        (5, True),
        (1, True),
        (2, True),
        (1, True),
        (2, True),
        (3, False),
    ]
    assert next_start(Start("a", 2), "a") == Start("a", MAX_ATTEMPTS)
