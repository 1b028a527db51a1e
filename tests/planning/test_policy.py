"""What happens when a job ends."""

import pytest

from p2p_dist.planning.policy import MAX_ATTEMPTS, Ending, Start, after_exit, may_start_again, names_memory, next_start


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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("MemoryError", True),
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
