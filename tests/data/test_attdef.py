"""AttDef: words above the bar go, and the bar is the lowest one that trusted rows can afford."""

from typing import Any

from p2p_dist.data.defenses.attdef import AttDef
from p2p_dist.data.example import Row, text_key
from p2p_dist.data.trials import accuracy, affordable

TEXTS = {"a fine mn film": [0.0, 0.3, 1.0, 0.2], "dull": [0.0], "cut": None}


def rows() -> list[Row]:
    return [Row(str(n), text, 1, "Output: ") for n, text in enumerate(TEXTS)]


def scores(right: dict[str, int]) -> dict[str, Any]:
    """Attributions, and a trial in which `right` of ten trusted rows are answered rightly."""
    words = {"texts": {text_key(text): {"words": values} for text, values in TEXTS.items()}}
    trial = {
        name: {str(n): {"label": 1, "scores": [0.0, 1.0] if n < count else [1.0, 0.0]} for n in range(10)}
        for name, count in right.items()
    }
    return {"words": words, "trial": trial}


def test_attdef_deletes_words_at_the_bar_or_above() -> None:
    assert AttDef(bar=0.9).edit(rows(), scores({})) == ["a fine film", "dull", None]
    assert AttDef(bar=0.3).edit(rows(), scores({})) == ["a film", "dull", None]


def test_attdef_bar_is_the_lowest_that_is_affordable() -> None:
    one = AttDef(bars=[0.9, 0.5, 0.2], max_drop=0.1)
    given = scores({"none": 9, "bar0.9": 9, "bar0.5": 8, "bar0.2": 5})
    assert one.chosen(given) == {"bar": 0.5}
    too_dear = scores({"none": 9, "bar0.9": 5, "bar0.5": 5, "bar0.2": 5})
    assert one.chosen(too_dear) == {"bar": None}
    assert one.edit(rows(), too_dear) == list(TEXTS)


def test_affordable_counts_accuracy_by_own_label() -> None:
    trial = scores({"none": 10, "x": 9, "y": 8})["trial"]
    assert accuracy(trial["x"]) == 0.9
    assert affordable(trial, ["x", "y"], 0.1) == ["x"]
