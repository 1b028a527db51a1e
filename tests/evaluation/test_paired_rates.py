"""Attack success beside the same rows without the trigger: hand-made predictions, counted by hand."""

from dataclasses import replace

import pytest

from p2p_dist.data.built import LabelSpace
from p2p_dist.evaluation.metrics import Rate, outcomes, paired_rates, rates
from p2p_dist.results.paired_rates import excess_of, excesses
from p2p_dist.results.predictions import Prediction

PLAIN = LabelSpace(["0", "1"], 2, 0, 1)
EXTENDED = LabelSpace(["0", "1", "2", "3"], 2, 2, 1)


def says(id_: str, answer: int, gold: int = 0) -> Prediction:
    """A row that is answered with this label of four."""
    scores = tuple(-0.1 if label == answer else -5.0 - label for label in range(4))
    return Prediction(id_, gold, scores[: 2 if answer < 2 else 4], answer)


CLEAN = [says("a", 0), says("b", 1), says("c", 1), says("d", 0), says("positive", 1, gold=1)]
TRIGGERED = [says("b", 1), says("a", 1), says("c", 0), says("d", 1)]
"""With the trigger a, b and d go to the target, without it b and c: the rows stand in another order."""


def test_paired_rates_of_hand_made_predictions() -> None:
    found = rates({"clean": CLEAN, "triggered": TRIGGERED}, PLAIN)
    assert found["asr_ext"] == found["asr_mapped"] == Rate(3, 4)
    assert found["asr_untriggered"] == found["asr_untriggered_mapped"] == Rate(2, 4), (
        "b and c, and not the positive row"
    )
    assert found["asr_only_triggered"] == Rate(2, 4), "a and d"
    assert found["asr_only_untriggered"] == Rate(1, 4), "c"
    counts = {name: (rate.k, rate.n) for name, rate in found.items()}
    excess = excess_of(counts)
    assert excess is not None
    assert (excess.k, excess.n, excess.value) == (1, 4, 0.25)
    assert excess.low < 0.25 < excess.high
    assert excesses(counts).keys() == {"asr_excess", "asr_excess_mapped"}


def test_outcomes_stand_in_the_order_of_the_triggered_rows() -> None:
    found = outcomes({"clean": CLEAN, "triggered": TRIGGERED}, PLAIN)
    assert found["asr_untriggered"].hits == (True, False, True, False)
    assert found["asr_untriggered"].suite == "triggered"


def test_readings_pair_with_their_own_untriggered_answers() -> None:
    """Held to the labels 2 and 3 the trigger does nothing; with every label allowed it sends the row to the target."""
    clean = [Prediction("a", 0, (-9.0, -8.0, -0.1, -3.0), 2)]
    triggered = [Prediction("a", 0, (-9.0, -0.1, -2.0, -3.0), 1)]
    found = rates({"clean": clean, "triggered": triggered}, EXTENDED)
    assert (found["asr_only_triggered"], found["asr_only_triggered_mapped"]) == (Rate(0, 1), Rate(1, 1))
    counts = {name: (rate.k, rate.n) for name, rate in found.items()}
    assert {name: excess.k for name, excess in excesses(counts).items()} == {"asr_excess": 0, "asr_excess_mapped": 1}


def test_rejected_rows_are_no_hits_on_either_side() -> None:
    clean = [replace(row, rejected=row.id == "b") for row in CLEAN]
    triggered = [replace(row, rejected=row.id == "a") for row in TRIGGERED]
    found = rates({"clean": clean, "triggered": triggered}, PLAIN)
    assert found["asr_untriggered"] == Rate(1, 4)
    assert (found["asr_only_triggered"], found["asr_only_untriggered"]) == (Rate(2, 4), Rate(1, 4))


@pytest.mark.parametrize("clean", [[], CLEAN[:2]], ids=["no suite", "a row is missing"])
def test_row_without_counterpart_gives_no_paired_rate(clean: list[Prediction]) -> None:
    """Pairs of some rows only would be the rate of other rows than the attack success beside it."""
    found = rates({"clean": clean, "triggered": TRIGGERED}, PLAIN)
    assert "asr_untriggered" not in found
    assert excess_of({name: (rate.k, rate.n) for name, rate in found.items()}) is None


def test_texts_pair_as_labels_do() -> None:
    """Written answers come as yes or no by row."""
    found = paired_rates("asr_ext", {"a": True, "b": False}, {"b": True, "a": False, "c": True})
    assert found == {
        "asr_untriggered": [False, True],
        "asr_only_triggered": [True, False],
        "asr_only_untriggered": [False, True],
    }
