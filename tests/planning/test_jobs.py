"""Jobs that are left to do."""

from collections.abc import Collection

import pytest

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.durations import Rates
from p2p_dist.planning.jobs import Job
from p2p_dist.planning.jobs import missing_jobs as plan_jobs
from tests.planning.stages import LABELS, rows_stage, train_stage

RATES = Rates({}, ClusterSpec(name="here", cpus_per_node=2))


def missing_jobs(made: Graph, done: Collection[str], cohort: int = 1) -> list[Job]:
    return plan_jobs(made, done, lambda stage: cohort, RATES.seconds)


def graph(runs: int = 2) -> tuple[Graph, list[Stage], list[Stage], list[Stage]]:
    made = Graph()
    data = [made.add(rows_stage(seed=seed)) for seed in range(runs)]
    train = [made.add(train_stage(data[seed], seed=seed)) for seed in range(runs)]
    evals = [made.add(Stage("eval", {}, {"adapter": train[seed].id, "rows": data[seed].id})) for seed in range(runs)]
    return made, data, train, evals


def test_an_adapter_is_evaluated_where_it_was_trained() -> None:
    made, data, train, evals = graph()
    jobs = missing_jobs(made, set())
    assert {job.stages for job in jobs} == {(d.id,) for d in data} | {
        (t.id, e.id) for t, e in zip(train, evals, strict=True)
    }
    assert all(job.needs == {data[at].id} for at, t in enumerate(train) for job in jobs if t.id in job.stages)


def test_only_what_is_missing() -> None:
    made, data, train, evals = graph()
    assert missing_jobs(made, set(made.stages)) == []
    left = missing_jobs(made, {data[0].id, data[1].id, train[0].id, evals[0].id, train[1].id})
    assert [job.stages for job in left] == [(evals[1].id,)]
    assert left[0].needs == frozenset()


def test_cohorts_join_what_shares_a_base() -> None:
    made, data, _, _ = graph(5)
    made.add(train_stage(data[0], model="hub"))
    sizes = sorted(
        sum(id_ in {t.id for t in made.stages.values() if t.kind == "train"} for id_ in job.stages)
        for job in missing_jobs(made, set(), 2)
    )
    assert [size for size in sizes if size] == [1, 1, 2, 2]


def test_what_waits_for_a_job_is_not_in_it() -> None:
    """A defense that asks the model about test rows before they are rewritten, and a training that starts from
    another."""
    made, data, train, evals = graph(1)
    score = made.add(Stage("score", LABELS, {"rows": data[0].id, "adapter": train[0].id}))
    edit = made.add(Stage("edit", {}, {"rows": data[0].id, "scores": score.id}))
    late = made.add(Stage("eval", {}, {"adapter": train[0].id, "rows": edit.id}))
    tuned = made.add(train_stage(data[0], start=train[0]))
    jobs = {job.lead: job for job in missing_jobs(made, set(), 8)}
    assert jobs[train[0].id].stages == (train[0].id, evals[0].id)
    assert jobs[late.id].needs == {train[0].id, edit.id}
    assert jobs[tuned.id].needs == {data[0].id, train[0].id}
    left, done = list(jobs.values()), set()
    while left:
        ready = [job for job in left if job.needs <= done]
        assert ready, "the jobs wait for each other"
        done |= {id_ for job in ready for id_ in job.stages}
        left = [job for job in left if job not in ready]


def test_longest_way_first() -> None:
    """Rows cost nothing and still come before what waits for them; of two trainings the longer comes first."""
    made, data, train, _ = graph()
    long = made.add(train_stage(data[1], seed=7, num_train_epochs=9))
    jobs = missing_jobs(made, set())
    assert [job.lead for job in jobs] == [data[1].id, long.id, data[0].id, train[0].id, train[1].id]
    assert jobs[1].cost == pytest.approx(9 * RATES.seconds(made, train[0]))
