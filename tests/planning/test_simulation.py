"""The simulator: cases worked out by hand, and what must hold whatever the jobs and the failures."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_dist.errors import UserError
from p2p_dist.planning.jobs import Job, longest_ways
from p2p_dist.planning.loads import Load, Piece
from p2p_dist.planning.nodes import Nodes, Room
from p2p_dist.planning.replay import account
from p2p_dist.planning.simulation import Outcome, simulate

STEPS = (470, 1880, 6314)
SECONDS = (0.055, 0.055, 0.068, 0.070, 0.095)
"""Per step for 0.6, 1.7, 4, 8 and 14 billion parameters, as assumed for an H200."""


def load(
    name: str, seconds: float, width: int = 1, start: float = 0.0, every: float = math.inf, needs: Sequence[str] = ()
) -> Load:
    return Load(Job((name,), (frozenset(needs),), (seconds,)), width, start, (Piece(seconds, every),))


def longest_first(loads: Sequence[Load]) -> list[Load]:
    ways = longest_ways([one.job for one in loads], {one.job.lead: one.seconds for one in loads})
    return sorted(loads, key=lambda one: -ways[one.job.lead])


def makespan(*loads: Load, nodes: Nodes) -> float:
    return simulate(loads, nodes).makespan


def test_gangs_take_whole_nodes_and_wait_for_all_of_them() -> None:
    wide = [load("a", 10, 8), load("b", 10, 8)]
    assert makespan(*wide, nodes=Nodes(2, 4)) == 20
    assert makespan(load("a", 10, 4), load("b", 10, 4), nodes=Nodes(2, 4)) == 10
    assert makespan(*(load(name, 10, 2) for name in "abcd"), nodes=Nodes(1, 4)) == 20
    assert makespan(load("a", 10, 3), load("b", 4), load("c", 4), nodes=Nodes(1, 4)) == 10
    with pytest.raises(ValueError, match="wider than 2 x 4 slots: a"):
        simulate([load("a", 1, 9)], Nodes(2, 4))


def test_a_wide_job_is_not_overtaken() -> None:
    """Three slots are free and the next job wants four: the short one behind it waits too."""
    outcome = simulate([load("first", 5), load("wide", 5, 4), load("short", 1)], Nodes(1, 4))
    assert {span.lead: (span.begin, span.end) for span in outcome.spans} == {
        "first": (0, 5),
        "wide": (5, 10),
        "short": (10, 11),
    }


def test_jobs_wait_for_what_they_need() -> None:
    """8 and 4 side by side; what needs the 4 starts at 4, and ends before the 8 does."""
    outcome = simulate(
        [
            load("long", 8),
            load("short", 4),
            load("later", 3, needs=("short",)),
            load("last", 1, needs=("long", "later")),
        ],
        Nodes(1, 2),
    )
    assert {span.lead: (span.begin, span.end) for span in outcome.spans} == {
        "short": (0, 4),
        "later": (4, 7),
        "long": (0, 8),
        "last": (8, 9),
    }


def failing_at(monkeypatch: pytest.MonkeyPatch, *gaps: float) -> None:
    """Node 0 fails after the first gap, then a gap after each time it is back."""
    left = list(gaps)
    monkeypatch.setattr(
        "p2p_dist.planning.simulation.Random.expovariate", lambda self, rate: left.pop(0) if left else 1e9
    )


def test_a_killed_job_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s to start, 10 s of work kept every 3 s; the node fails at 9 (7 s of work, 6 kept) and is away for 5: start
    again at 14, 2 + 4 more seconds, end at 20. Of 15 used seconds 12 are useful, 1 was done twice and 2 went into
    starting again."""
    failing_at(monkeypatch, 9.0)
    loads, nodes = [load("a", 10, start=2, every=3)], Nodes(1, 1, mtbf=1, repair=5)
    outcome = simulate(loads, nodes)
    assert [(span.begin, span.end, span.after, span.action) for span in outcome.spans] == [
        (0, 9, 6, "retry"),
        (14, 20, 10, "done"),
    ]
    found = account(loads, outcome, nodes)
    assert (found.used, found.useful, found.repeated, found.restarts, found.given_up) == (15, 12, 1, 2, 0)
    assert (found.makespan, found.bound, found.capacity) == (20, 12, 20)
    assert found.goodput == pytest.approx(12 / 15)
    assert found.utilisation == pytest.approx(15 / 20)
    assert found.efficiency == pytest.approx(10 / 20)


def test_a_gang_dies_with_one_of_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both nodes of the gang are lost to it at 6, one of them is up: the narrow job, which comes later, waits behind
    the gang."""
    failing_at(monkeypatch, 6.0, 1e9)
    loads, nodes = [load("gang", 10, 4, every=5), load("narrow", 1)], Nodes(2, 2, mtbf=1, repair=2)
    outcome = simulate(loads, nodes)
    assert [(span.lead, span.begin, span.end) for span in outcome.spans] == [
        ("gang", 0, 6),
        ("gang", 8, 13),
        ("narrow", 13, 14),
    ]
    assert account(loads, outcome, nodes).repeated == 4


def test_simulation_gives_up_hopeless_jobs_and_their_dependents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that never gets further is given up, and one that waits for it never starts."""
    failing_at(monkeypatch, 9.0, 9.0, 9.0)
    loads, nodes = [load("a", 10), load("b", 1, needs=("a",)), load("c", 1)], Nodes(1, 1, mtbf=1)
    outcome = simulate(loads, nodes)
    assert (outcome.done, outcome.failed) == ({"c"}, {"a"})
    found = account(loads, outcome, nodes)
    assert (found.given_up, found.useful, found.bound) == (27, 1, 1)


def test_a_preempted_job_loses_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s to start and 10 s of work; the node is asked for at 9, with 7 s of work, which are kept. Back at 14, the job
    starts again and ends at 19: 2 s were lost to starting. An evaluation, which has no checkpoints, begins anew."""
    failing_at(monkeypatch, 9.0)
    loads, nodes = [load("a", 10, start=2, every=3)], Nodes(1, 1, repair=5, preempted=1)
    outcome = simulate(loads, nodes)
    assert [(span.begin, span.end, span.after, span.action) for span in outcome.spans] == [
        (0, 9, 7, "retry"),
        (14, 19, 10, "done"),
    ]
    assert (outcome.failures, outcome.preemptions) == (0, 1)
    found = account(loads, outcome, nodes)
    assert (found.repeated, found.restarts, found.lost) == (0, 2, 2)
    failing_at(monkeypatch, 9.0)
    assert [span.end for span in simulate([load("eval", 10)], nodes).spans] == [9, 24]


def test_a_job_is_preempted_as_often_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop on request is no attempt that failed: four of them without progress do not end the job."""
    failing_at(monkeypatch, 9.0, 9.0, 9.0, 9.0)
    assert simulate([load("eval", 10)], Nodes(1, 1, preempted=1)).done == {"eval"}


def test_a_lost_device_is_used_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two devices one fails at 4 and ends one of two jobs, which goes on behind the other: 10 s, kept every 3 s."""
    failing_at(monkeypatch, 4.0)
    monkeypatch.setattr("p2p_dist.planning.simulation.Random.randrange", lambda self, stop: stop - 1)
    loads, nodes = [load("a", 10, every=3), load("b", 10, every=3)], Nodes(1, 2, device_mtbf=1)
    outcome = simulate(loads, nodes)
    assert [(span.lead, span.begin, span.end, span.after) for span in outcome.spans] == [
        ("b", 0, 4, 3),
        ("a", 0, 10, 10),
        ("b", 10, 17, 10),
    ]
    assert outcome.lost_devices == 1


def test_jobs_too_wide_for_the_devices_left_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide job, and one that comes later, can never start again; a narrow one can."""
    failing_at(monkeypatch, 4.0)
    loads = [load("wide", 10, 2), load("narrow", 1), load("later", 1, 2, needs=("narrow",))]
    outcome = simulate(loads, Nodes(1, 2, device_mtbf=1))
    assert (outcome.done, outcome.failed) == ({"narrow"}, {"wide", "later"})


def test_only_pieces_that_ended_are_kept() -> None:
    made = Load(Job(("train", "eval"), (frozenset(), frozenset()), (10.0, 4.0)), 1, 0.0, (Piece(10, 4), Piece(4)))
    assert [made.surviving(done) for done in (3.9, 4, 9.9, 10, 13.9, 14)] == [0, 4, 8, 10, 10, 14]


def test_a_gang_goes_where_it_leaves_the_least_room() -> None:
    room = Room(Nodes(3, 4))
    room.take(((1, 2),))
    assert room.find(2) == ((1, 2),)
    assert room.find(3) == ((0, 3),)
    assert room.find(8) == ((0, 4), (2, 4))
    room.down(0)
    assert room.find(8) is None
    room.up(0)
    assert room.find(8) == ((2, 4), (0, 4))


def study(count: int) -> list[Load]:
    """Runs of five sizes and three tasks, as many of each, 25 s to start each."""
    steps = STEPS[-1:] if count == 30 else STEPS
    return [load(f"{at}", steps[at // 5 % len(steps)] * SECONDS[at % 5], start=25) for at in range(count)]


@pytest.mark.parametrize(
    ("count", "nodes", "most"), [(30, 1, 1.07), (2250, 1, 1.01), (2250, 4, 1.01), (2250, 16, 1.01)]
)
def test_longest_first_is_near_the_bound(count: int, nodes: int, most: float) -> None:
    loads, there = longest_first(study(count)), Nodes(nodes, 8)
    found = account(loads, simulate(loads, there), there)
    assert found.bound <= found.makespan <= most * found.bound


def test_a_simulation_that_would_never_end_is_refused() -> None:
    """A job that starts over at every preemption, and one that waits for six nodes that never are up together."""
    with pytest.raises(UserError, match=r"E143.*no job gets any further.*--preempted.*Try"):
        simulate([load("a", 100, start=10)], Nodes(2, 1, preempted=3.6))
    with pytest.raises(UserError, match=r"E143.*no job gets any further"):
        simulate([load("a", 1, width=6)], Nodes(6, 1, mtbf=0.001, repair=1000))
    seldom = simulate([load("a", 200)], Nodes(1, 1, preempted=40, seed=2))
    assert seldom.done == {"a"}
    assert seldom.preemptions > 100, "long in vain, and still ends"


def test_nothing_to_do_takes_no_time() -> None:
    assert makespan(nodes=Nodes(1, 1)) == 0


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Load], Nodes]:
    """Up to 14 jobs that may need earlier ones, on up to 4 nodes of up to 4 slots that fail often or never."""
    nodes = Nodes(
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([math.inf, 200.0, 30.0])),
        draw(st.sampled_from([0.0, 7.0])),
        draw(st.integers(0, 3)),
        draw(st.sampled_from([math.inf, math.inf, 100.0])),
        draw(st.sampled_from([math.inf, 50.0])),
    )
    wide = [width for width in range(1, nodes.count * nodes.slots + 1) if nodes.can_hold(width)]
    loads: list[Load] = []
    for at in range(draw(st.integers(0, 14))):
        needs = (
            draw(st.lists(st.sampled_from([one.job.lead for one in loads]), max_size=2, unique=True)) if loads else []
        )
        seconds, start, every = (
            draw(st.integers(0, 40)),
            draw(st.integers(0, 5)),
            draw(st.sampled_from([math.inf, 2.0, 10.0])),
        )
        loads.append(load(f"job {at}", float(seconds), draw(st.sampled_from(wide)), float(start), every, needs))
    return longest_first(loads), nodes


@settings(max_examples=150, deadline=None)
@given(cases())
def test_what_always_holds(case: tuple[list[Load], Nodes]) -> None:
    loads, nodes = case
    outcome = simulate(loads, nodes)
    found = account(loads, outcome, nodes)
    assert_no_slot_is_used_twice(outcome, nodes)
    assert_inputs_come_first(loads, outcome)
    assert found.makespan >= found.bound - 1e-6
    assert found.used == pytest.approx(found.useful + found.lost)
    assert found.used <= found.capacity + 1e-6
    assert min(found.repeated, found.restarts, found.given_up) >= -1e-6
    assert simulate(loads, nodes) == outcome, "the same seed, the same course"
    waits_for_failed = {one.job.lead for one in loads} - outcome.done - outcome.failed
    assert bool(waits_for_failed) <= bool(outcome.failed)
    if nodes.mtbf == nodes.device_mtbf == nodes.preempted == math.inf:
        assert outcome.done == {one.job.lead for one in loads}
        assert found.lost == 0
        assert found.goodput in (None, 1.0)


def assert_no_slot_is_used_twice(outcome: Outcome, nodes: Nodes) -> None:
    for node in range(nodes.count):
        here = [
            (span.begin, span.end, slots) for span in outcome.spans for place, slots in span.places if place == node
        ]
        for moment, _, _ in here:
            assert sum(slots for begin, end, slots in here if begin <= moment < end) <= nodes.slots


def assert_inputs_come_first(loads: Sequence[Load], outcome: Outcome) -> None:
    ended = {span.lead: span.end for span in outcome.spans if span.action == "done"}
    begun = {span.lead: span.begin for span in reversed(outcome.spans)}
    for one in loads:
        assert all(ended[need] <= begun[one.job.lead] for need in one.job.needs if one.job.lead in begun)
