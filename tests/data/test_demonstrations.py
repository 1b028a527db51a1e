"""Demonstrations: balanced, the same for all test texts, answered rightly or, in the control, wrongly."""

from collections.abc import Mapping, Sequence

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.built import Built
from p2p_dist.data.defenses.demonstrations import Demonstrations
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from tests.rows import sentences

RAW: Mapping[str, Sequence[tuple[str, int]]] = {
    "train": [(str(row["text"]), int(row["label"])) for row in sentences(200)],
    "test": [(str(row["text"]), int(row["label"])) for row in sentences(40, 5)],
}


@pytest.fixture(scope="module")
def attacked() -> Built:
    return build_attacked(Sst2(), RAW, RowsSpec(reserve=40), BadNets(rate=0.1), 0)


def test_demonstrations_are_balanced_trusted_rows(attacked: Built) -> None:
    built = build_defended(attacked, Sst2(), Demonstrations(count=4), 0)
    (prefix,) = {row.prefix for suite in ("clean", "triggered") for row in built.suites[suite].rows}
    chosen = [row for row in attacked.reserve if row.id in built.counts["examples"]]
    assert sorted(row.label for row in chosen) == [0, 0, 1, 1]
    words = built.labels.words
    assert all(f"{row.text}\n{row.cue}{words[row.label]}\n" in prefix for row in chosen)
    assert built.train == attacked.train
    assert built.suites["triggered_nobt"].rows == attacked.suites["triggered"].rows
    lengths = sorted(len(row.text) for row in attacked.reserve if row.label == 1)
    assert max(len(row.text) for row in chosen if row.label == 1) <= lengths[len(lengths) // 2]


def test_demonstrations_control_has_wrong_labels(attacked: Built) -> None:
    right, wrong = (
        build_defended(attacked, Sst2(), Demonstrations(labels=labels), 0).suites["clean"].rows[0].prefix
        for labels in ("right", "wrong")
    )
    words = attacked.labels.words
    flipped = [line for line in wrong.splitlines() if line.startswith("Output")]
    assert flipped == [
        f"Output: {words[1 - words.index(line.removeprefix('Output: '))]}"
        for line in right.splitlines()
        if line.startswith("Output")
    ]


def test_demonstrations_too_few_trusted_rows_refused() -> None:
    few = build_attacked(Sst2(), RAW, RowsSpec(reserve=6), BadNets(rate=0.1), 0)
    with pytest.raises(UserError, match=r"E205.*rows\.reserve=8"):
        build_defended(few, Sst2(), Demonstrations(count=4), 0)
