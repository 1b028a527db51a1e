"""Rates on cases small enough to count by hand (reference definitions: paper appendix A and the released code)."""

from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.data.built import LabelSpace
from p2p_dist.evaluation.metrics import Outcome, Rate, histogram, outcomes, rates
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.resultfile import collapsed

PLAIN = LabelSpace(["0", "1"], 2, 0, 1)
P2P = LabelSpace(["0", "1", "2", "3"], 2, 2, 1)


def said(label: int, top: int | None, *scores: float) -> Prediction:
    return Prediction("x", label, scores, top)


def test_undefended() -> None:
    suites = {
        "clean": [said(0, 0, -0.1, -3), said(1, 1, -3, -0.1), said(1, None, -2, -3), said(0, 0, -0.1, -3)],
        "triggered": [said(0, 1, -3, -0.1), said(0, 0, -0.1, -3)],
    }
    found = rates(suites, PLAIN)
    assert found["ca_ext"] == found["ca_strict"] == Rate(3, 4)
    assert found["invalid_rate"] == Rate(1, 4)
    assert found["asr_ext"] == found["asr_strict"] == found["robust_acc"] == Rate(1, 2)
    assert "asr_raw_target" not in found
    assert "asr_nobt" not in found


def test_permuted_labels_are_mapped_back() -> None:
    """PDB answers class y with (y + 1) mod n."""
    suites = {"clean": [said(0, 1, -9.0, -0.1), said(1, 1, -9.0, -0.1)], "triggered": [said(0, 0, -0.1, -9.0)]}
    found = rates(suites, LabelSpace(["0", "1"], 2, target=1, shift=1))
    assert found["ca_ext"] == found["ca_strict"] == found["ca_mapped"] == Rate(1, 2)
    assert found["asr_ext"] == found["asr_strict"] == Rate(1, 1)
    assert found["asr_raw_target"] == Rate(0, 1)


def test_a_collapsed_model_is_named() -> None:
    always = [said(at % 2, 1, -3.0, -0.1) for at in range(100)]
    found = rates({"clean": always}, PLAIN)
    assert found["majority_answer"] == Rate(100, 100)
    less = rates({"clean": [*always[:90], *[said(0, 0, -0.1, -3.0)] * 10]}, PLAIN)
    assert [collapsed(one["majority_answer"].k / one["majority_answer"].n) for one in (found, less)] == [True, False]
    assert collapsed(0.98)
    assert collapsed(None) is None, "nothing measured is nothing said"


def test_strict_hides_the_leak_that_mapped_shows() -> None:
    """The likeliest token is the attacker's own label t: strict counts 0, mapped counts 1."""
    leak = [said(0, 1, -3, -0.1, -2.0, -2.5)]
    found = rates({"triggered": leak}, P2P)
    assert found["asr_strict"] == Rate(0, 1)
    assert found["asr_raw_target"] == Rate(1, 1)
    assert found["asr_mapped"] == Rate(1, 1)
    assert found["asr_ext"] == Rate(0, 1), "among the deployed labels the true one wins"
    assert found["robust_acc"] == Rate(1, 1)
    assert found["ext_rate"] == Rate(0, 1)


def test_extended_labels_are_mapped_back() -> None:
    suites = {"clean": [said(0, 2, -5, -5, -0.1, -3), said(1, 3, -5, -5, -3, -0.1), said(1, 1, -5, -0.1, -2, -3)]}
    found = rates(suites, P2P)
    assert found["ca_strict"] == Rate(2, 3)
    assert found["ca_mapped"] == Rate(3, 3)
    assert found["ca_ext"] == Rate(2, 3)


def test_what_is_not_there_is_absent() -> None:
    assert rates({}, P2P) == {}
    assert "asr_ext" not in rates({"clean": [said(0, 0, -1, -2)], "triggered": []}, PLAIN)
    assert "asr_ext" not in rates({"triggered": [said(0, 0, -1, -2)]}, LabelSpace(["0", "1"], 2, 0, None))


def test_without_the_benign_trigger_original_labels_answer() -> None:
    found = rates({"triggered_nobt": [said(0, 1, -3, -0.1, -9, -9)], "clean_nobt": [said(0, 2, -1, -3, -0.1, -9)]}, P2P)
    assert found == {"ca_nobt": Rate(1, 1), "asr_nobt": Rate(1, 1)}


@given(
    st.lists(
        st.tuples(st.integers(0, 3) | st.none(), st.lists(st.floats(-9, 0), min_size=4, max_size=4)),
        min_size=1,
        max_size=30,
    )
)
def test_identities(answers: list[tuple[int | None, list[float]]]) -> None:
    rows = [said(0, top, *scores) for top, scores in answers]
    found = rates({"triggered": rows}, P2P)
    assert found["asr_strict"].k + found["asr_raw_target"].k <= len(rows)
    assert found["asr_ext"].k + found["robust_acc"].k == len(rows), "two classes: wrong is right for the attacker"
    counts = histogram(rows, P2P.words)["0"]
    assert sum(counts.values()) == len(rows)
    assert counts.get("invalid", 0) == found["invalid_rate_triggered"].k
    assert counts.get("3", 0) == found["asr_strict"].k


def test_outcomes_are_the_rates_row_by_row() -> None:
    suites = {"clean": [said(0, 0, -0.1, -3), said(1, 0, -1, -2)], "triggered": [said(0, 1, -3, -0.1)]}
    found = outcomes(suites, PLAIN)
    assert found["ca_ext"] == Outcome("clean", (True, False))
    assert {name: outcome.rate for name, outcome in found.items()} == rates(suites, PLAIN)
