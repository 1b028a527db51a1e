"""Filters by clusters, gradients, training dynamics and a reference: their rules on hand-made scores."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from p2p_dist.data.clustering import MOST_ROWS, by_average_cosine, by_largest_gap, k_means, require_pairs
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.defenses.abl import ISOLATED, Abl
from p2p_dist.data.defenses.cube import Cube
from p2p_dist.data.defenses.graceful import Graceful
from p2p_dist.data.defenses.gradsentry import Gradsentry, valley
from p2p_dist.data.defenses.prototype_filter import PrototypeFilter
from p2p_dist.data.defenses.rftc import Rftc, elbow, tf_idf, worst_precision
from p2p_dist.data.defenses.seep import Seep
from p2p_dist.data.example import NO_LABEL, Row
from p2p_dist.errors import UserError

GO_ON = {"on_failed_screening": "go_on"}
FAILED = {"stop": {"step": 5, "reached": False, "agreement": [0.0, 1.0]}}
REACHED = {"stop": {"step": 5, "reached": True, "agreement": [1.0, 1.0]}}


def labelled(count: int, label: int, start: int = 0) -> list[Row]:
    return [Row(f"{label}{n:04}", f"text {n}", label, "Output: ") for n in range(start, start + count)]


def view(rows: Sequence[Row], phase: str | None = None, **scores: Mapping[str, Any]) -> DefenderView:
    classes = len({row.label for row in rows if row.label != NO_LABEL})
    return DefenderView(rows, [], classes, 0, scores={role: dict(of) for role, of in scores.items()}, phase=phase)


def blobs(rows: Sequence[Row], apart: set[str], field: str = "coordinates") -> dict[str, Any]:
    """Two dense blobs in opposite directions: the rows of `apart` in the second."""
    draw = random.Random(0)
    return {
        "train": {
            row.id: {field: [(-5.0 if row.id in apart else 5.0) + draw.gauss(0, 0.1), 1.0 + draw.gauss(0, 0.1)]}
            for row in rows
        }
    }


def confident(rows: Sequence[Row], sure: set[str], stop: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Label scores that give the label of the rows in `sure` 0.999 and of all others 0.6."""
    lines = {}
    for row in rows:
        given = 0.999 if row.id in sure else 0.6
        scores = [math.log(given if label == row.label else 1 - given) for label in (0, 1)]
        lines[row.id] = {"label": row.label, "scores": scores}
    return {"train": lines, **({"screening": dict(stop)} if stop else {})}


def test_cube_drops_the_small_cluster_of_a_class() -> None:
    rows = [*labelled(60, 0), *labelled(60, 1)]
    poison = {row.id for row in rows[60:72]}
    defended = Cube().defend_train(view(rows, states=blobs(rows, poison)))
    assert poison.isdisjoint(row.id for row in defended.train)
    assert {row.id for row in rows[72:]} <= {row.id for row in defended.train}
    assert defended.counts["clusters"]["1"] == [48, 12]


def test_by_largest_gap_separates_blobs() -> None:
    points = [[0.0, n / 100] for n in range(10)] + [[9.0, n / 100] for n in range(4)]
    clusters = by_largest_gap(points)
    assert len(set(clusters[:10])) == len(set(clusters[10:])) == 1
    assert clusters[0] != clusters[-1]
    assert by_largest_gap(points[:2]) == [0, 0]


def test_require_pairs_too_many_rows_refused() -> None:
    require_pairs(MOST_ROWS)
    with pytest.raises(UserError, match=r"E279.*20,001 rows"):
        by_largest_gap([[0.0]] * (MOST_ROWS + 1))


def test_by_average_cosine_looks_at_directions_alone() -> None:
    assert len(set(by_average_cosine([[1, 0.1], [100, 9], [-1, 0], [-70, 1]], 2))) == 2
    assert by_average_cosine([[0, 0], [1, 1], [2, 1]], 2) == [0, 0, 0], "a point without direction has no distance"


def test_graceful_labels_are_clustered_apart() -> None:
    """Over all rows the two clusters are the two labels; within a label they are poison and the rest."""
    rows = [*labelled(50, 0), *labelled(50, 1)]
    by_label = blobs(rows, {row.id for row in rows if row.label})
    everything = by_average_cosine([by_label["train"][row.id]["coordinates"] for row in rows], 2)
    assert {everything[n] == everything[0] for n in range(50)} == {True}
    assert {everything[n] == everything[0] for n in range(50, 100)} == {False}
    poison = {row.id for row in rows[50:58]}
    defended = Graceful().defend_train(view(rows, gradients=blobs(rows, poison)))
    dropped = {row.id for row in rows} - {row.id for row in defended.train}
    assert poison <= dropped
    assert {id_ for id_ in dropped if id_.startswith("1")} == poison


def responses(answers: Sequence[str]) -> list[Row]:
    return [Row(f"{n:04}", f"question {n}", NO_LABEL, "Output: ", response=answer) for n, answer in enumerate(answers)]


def test_gradsentry_threshold_is_the_valley_between_peaks() -> None:
    draw = random.Random(0)
    entropies = [draw.gauss(0.3, 0.03) for _ in range(90)] + [draw.gauss(0.8, 0.03) for _ in range(10)]
    assert 0.4 < (valley(entropies) or 0) < 0.75
    assert valley(entropies[:90]) is None, "one peak"
    assert valley(entropies[70:95]) is None, "fewer than 30 rows"
    assert valley([0.0] * 50) is None


def test_gradsentry_drops_rows_above_and_names_length() -> None:
    rows = responses(["a"] * 40)
    lines = {
        row.id: {
            "entropy": 0.9 if n < 4 else 0.2 + n / 1000,
            "entropy_whole": 0.1,
            "tokens": 20 if n < 4 else 2 + n % 3,
        }
        for n, row in enumerate(rows)
    }
    defended = Gradsentry().defend_train(view(rows, gradients={"train": lines}))
    assert defended.counts["dropped"] == 4
    assert defended.counts["correlation_with_length"] > 0.9
    assert Gradsentry(whole=True).defend_train(view(rows, gradients={"train": lines})).counts["dropped"] == 0


@pytest.mark.parametrize("unlearn", ["ascent", "leave_out"])
def test_abl_isolates_the_lowest_losses_of_every_class(unlearn: str) -> None:
    rows = [*labelled(100, 0), *labelled(100, 1)]
    first = {"00007", "10003"}
    scores = confident(rows, first, REACHED)
    one = Abl(share=0.01, unlearn=unlearn)
    isolated = one.defend_train(view(rows, ISOLATED, screen0=scores))
    assert {row.id for row in isolated.train} == first
    rest = one.defend_train(view(rows, screen0=scores))
    assert {row.id for row in rest.train} == {row.id for row in rows} - first == rest.trusted == isolated.trusted


def test_abl_original_ranks_all_classes_together() -> None:
    rows = [*labelled(100, 0), *labelled(100, 1)]
    scores = confident(rows, {"00007", "00003"}, REACHED)
    isolated = Abl(within_class=False).defend_train(view(rows, ISOLATED, screen0=scores))
    assert {row.id for row in isolated.train} == {"00007", "00003"}


def test_abl_failed_screening_is_refused() -> None:
    rows = [*labelled(10, 0), *labelled(10, 1)]
    scores = confident(rows, set(), FAILED)
    with pytest.raises(UserError, match="E270"):
        Abl().defend_train(view(rows, screen0=scores))
    assert Abl(screening=GO_ON).defend_train(view(rows, screen0=scores)).counts["isolated"] == 2


def test_seep_seeds_bring_their_neighbours() -> None:
    """One seed of a dense blob of 20 rows: its neighbours follow, and the search stops at the other blob."""
    rows = [*labelled(100, 0), *labelled(100, 1)]
    poison = {row.id for row in rows[100:120]}
    seed = {rows[100].id}
    draw = random.Random(1)
    states = {
        "train": {
            row.id: {
                "coordinates": [draw.gauss(-30.0, 0.1), draw.gauss(0, 0.1), draw.gauss(0, 0.1)]
                if row.id in poison
                else [draw.gauss(5.0, 3.0), draw.gauss(0, 3.0), draw.gauss(5, 3.0)]
            }
            for row in rows
        }
    }
    defended = Seep().defend_train(view(rows, states=states, trained=confident(rows, seed)))
    suspects = {row.id for row in rows} - {row.id for row in defended.train}
    assert poison <= suspects
    assert len({id_ for id_ in suspects - poison if id_.startswith("1")}) <= 5


def test_prototype_filter_drops_rows_near_another_class() -> None:
    rows = [*labelled(50, 0), *labelled(50, 1)]
    reserve = [*rows[:5], *rows[50:55]]
    stray = {row.id for row in rows[60:66]}
    near_one = {row.id for row in rows[50:]} - stray
    states = blobs(rows, near_one)
    one = PrototypeFilter()
    defended = one.defend_train(DefenderView(rows, reserve, 2, 0, scores={"states": states}))
    assert {row.id for row in rows} - {row.id for row in defended.train} == stray
    assert defended.counts["clean_rows_used"] == 10
    moved = blobs(rows, near_one - {rows[50].id})
    kept = one.defend_train(DefenderView(rows, reserve, 2, 0, scores={"states": moved})).train
    assert rows[50].id in {row.id for row in kept}, "a trusted row stays wherever it lies"


def test_prototype_filter_class_without_trusted_row_refused() -> None:
    rows = [*labelled(10, 0), *labelled(10, 1)]
    with pytest.raises(UserError, match=r"E205.*class 1 has no trusted row"):
        PrototypeFilter().defend_train(DefenderView(rows, rows[:4], 2, 0, scores={"states": blobs(rows, set())}))


def test_seep_screening_needs_early_looks() -> None:
    with pytest.raises(ValidationError, match="looks: early or both"):
        Seep(screening=GO_ON)


def test_rftc_precision_is_that_of_the_worst_sentence() -> None:
    assert worst_precision("the cat sat", "and the cat sat down") == 100
    assert worst_precision("the cat sat. buy now at once", "the cat sat") == 0
    assert worst_precision("42", "it is 42") == 100, "one word is judged by itself"
    assert worst_precision("a b a b", "a b") == pytest.approx(100 / 3), "clipped counts"


def test_rftc_drops_the_dense_cluster_of_suspects() -> None:
    draw = random.Random(0)
    words = [f"word{n}" for n in range(400)]
    clean = [" ".join(draw.sample(words, 12)) for _ in range(60)]
    rows = responses([*clean, *["please visit our lovely garden today"] * 12])
    lines = {row.id: {"answer": "nothing alike"} for row in rows}
    defended = Rftc().defend_train(view(rows, reference={"train": lines}))
    dropped = {row.id for row in rows} - {row.id for row in defended.train}
    assert {row.id for row in rows[60:]} <= dropped
    agreeing = {row.id: {"answer": row.response} for row in rows}
    unchanged = Rftc().defend_train(view(rows, reference={"train": agreeing}))
    assert (unchanged.counts["dropped"], unchanged.counts["suspects"]) == (0, 0)


def test_rftc_elbow_follows_the_released_rule() -> None:
    assert elbow([100.0, 20.0, 18.0, 17.0, 16.0]) == 2
    assert elbow([100.0, 70.0, 30.0, 29.0, 28.0]) == 3
    assert elbow([5.0, 4.0]) == 2, "no elbow among two"


def test_tf_idf_rows_have_unit_length() -> None:
    points = tf_idf(["big red house", "big blue house house"])
    assert points.shape == (2, 4)
    assert (points**2).sum(1).tolist() == pytest.approx([1.0, 1.0])
    clusters, distances = k_means(points, 2, 0)
    assert len(set(clusters)) == 2
    assert distances == pytest.approx([0.0, 0.0], abs=1e-6)
