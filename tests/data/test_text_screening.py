"""Whom to trust where answers are text: by how much an answer depends on its own prompt."""

import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.none import NoAttack
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.defenses.p2p_in_weights import P2PInWeights
from p2p_dist.data.example import NO_LABEL, Row
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.screening_stops import failure
from p2p_dist.data.tasks.gsm8k import Gsm8k
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.data.text_screening import TextScreening, information, most_dependent, stop_record
from p2p_dist.errors import UserError
from p2p_dist.results import scorestore

ROWS = [Row(f"{at:03d}", f"text {at}", NO_LABEL, "Output: ", response=f"answer {at}") for at in range(40)]
SCREENED = {"benign_source": "screened", "response_prefix": "p: "}
FIXED = frozenset(row.id for row in ROWS[:8])
"""Rows with the attacker's text: as likely behind any other prompt."""


def line(row: Row, at: int) -> dict[str, Any]:
    gain = 0.0 if row.id in FIXED else 1 + at / 100
    return {"own": -20.0 + 10 * gain, "others": [-21.0, -19.0], "tokens": 10}


LINES = {row.id: line(row, at) for at, row in enumerate(ROWS)}


def view(lines: dict[str, Any] = LINES, needed: float = 0.5) -> DefenderView:
    scores = {"train": lines, "screening": {"stop": stop_record(list(lines.values()), needed)}}
    return DefenderView(ROWS, [], 0, 0, scores={"prompts": scores})


def test_information_is_the_gain_over_other_prompts_per_token() -> None:
    assert information({"own": -6.0, "others": [-10.0, -14.0], "tokens": 3}) == 2.0
    assert information({"own": -6.0, "others": [-5.0], "tokens": 4}) == -0.25


def test_most_dependent_takes_the_share_or_the_count() -> None:
    assert most_dependent(ROWS, LINES, 0.5, 5) == {row.id for row in ROWS[20:]}
    assert most_dependent(ROWS, LINES, 0.5, 30) == {row.id for row in ROWS[10:]}
    shuffled = list(ROWS)
    Random(0).shuffle(shuffled)
    assert most_dependent(shuffled, LINES, 0.5, 5) == most_dependent(ROWS, LINES, 0.5, 5)


def test_long_answer_is_not_trusted_for_its_length() -> None:
    """The same gain over ten times the tokens is a tenth of the trust."""
    lines = {**LINES, "039": {"own": -180.0, "others": [-200.0], "tokens": 100}}
    assert "039" not in most_dependent(ROWS, lines, 0.5, 5)


def test_default_options_are_no_options() -> None:
    """null and `{}` were two ids of one screening."""
    options: dict[str, Any] = {"benign_source": "screened", "response_prefix": "It is: "}
    plain = P2P(**options).model_dump(mode="json")
    assert P2P(**options, text_screening={}).model_dump(mode="json") == plain
    assert P2P(**options, text_screening={"others": 5}).model_dump(mode="json") != plain


def test_p2p_draws_benign_rows_from_the_trusted() -> None:
    options: dict[str, Any] = {"benign_source": "screened", "ratio": 0.4, "response_prefix": "It is: "}
    defended = P2P(**options).defend_train(view())
    benign = {row.id.removesuffix(".b") for row in defended.train if row.id.endswith(".b")}
    assert len(benign) == 16
    assert benign < defended.trusted == {row.id for row in ROWS[20:]}
    assert all(row.response == f"It is: answer {int(row.id[:3])}" for row in defended.train if row.id.endswith(".b"))
    assert defended.counts["clean_rows_used"] == 0
    assert defended.counts["screening"] == [
        {"step": 0, "reached": True, "agreement": [0.8], "prompts": 3, "needed": 0.5}
    ]


def test_answers_that_depend_on_no_prompt_fail_the_screening() -> None:
    """By default its runs fail; `go_on` takes the scores as they are."""
    lines = {row.id: {"own": -20.0, "others": [-19.0, -21.0], "tokens": 10} for row in ROWS}
    with pytest.raises(UserError, match=r"E270.*0 % of the answers.*by chance 33 %.*text_screening.*go_on"):
        TextScreening().trusted_ids(view(lines), 5)
    assert len(TextScreening(on_failed_screening="go_on").trusted_ids(view(lines), 5)) == 20


@pytest.mark.parametrize(("needed", "says"), [(0.8, None), (0.81, r"80 % of the answers .* of 3 prompts .*81 %")])
def test_failure_by_the_share_of_answers(needed: float, says: str | None) -> None:
    failed = failure(stop_record(list(LINES.values()), needed))
    assert (failed is None) == (says is None)
    assert failed is None or (re.search(str(says), failed.reason) and "larger model" in failed.advice)


def test_equally_likely_is_not_likelier() -> None:
    """Rows with equal prompts prove nothing."""
    assert stop_record([{"own": -3.0, "others": [-3.0], "tokens": 1}], 0.5)["agreement"] == [0.0]


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        (Gsm8k(), {"benign_source": "screened", "response_prefix": "p: "}, None),
        (Gsm8k(), {"benign_source": "screened", "response_prefix": "p: ", "text_screening": {"others": 2}}, None),
        (Gsm8k(), {"benign_source": "screened", "response_prefix": "p: ", "screening": {"draws": 3}}, "text_screening"),
        (Gsm8k(), {"benign_source": "screened"}, "no response_prefix"),
        (Gsm8k(), {"response_prefix": "p: ", "text_screening": {}}, "benign_source: screened"),
        (Sst2(), {"benign_source": "screened", "text_screening": {}}, "answers are text"),
        (Sst2(), {"benign_source": "screened", "screening": {"draws": 3}}, None),
        (Sst2(), {"benign_source": "screened", "benign_selection": "second_half"}, "second_half"),
        (Gsm8k(), {**SCREENED, "benign_selection": "second_half"}, "second_half"),
        (Gsm8k(), {**SCREENED, "benign_source": "random_from_D", "benign_selection": "second_half"}, None),
    ],
)
def test_options_of_the_other_screening_are_refused(task: Any, options: dict[str, Any], says: str | None) -> None:
    reason = P2P.model_validate(options).incompatibility(task, NoAttack(), RowsSpec())
    assert (reason is None) == (says is None)
    assert says is None or says in str(reason)


def test_options_are_left_out_of_the_identity_at_their_default() -> None:
    assert "text_screening" not in P2P(benign_source="screened").model_dump()


@pytest.mark.parametrize(("options", "refused"), [({"others": 1}, True), ({"others": 1, "agreement": 0.6}, False)])
def test_rule_that_chance_meets_is_refused(options: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(ValueError, match="met by chance"):
            TextScreening(**options)
    else:
        TextScreening(**options)


def test_too_few_rows_for_the_prompts() -> None:
    counts = RowCounts(4, {NO_LABEL: 4}, {})
    error = P2P(benign_source="screened", response_prefix="p: ").shortage(counts)
    assert error is not None
    assert "E205" in str(error)
    assert P2P(benign_source="screened", response_prefix="p: ").shortage(RowCounts(5, {NO_LABEL: 5}, {})) is None
    in_weights = P2PInWeights.model_validate({"p2p": SCREENED}).shortage(counts)
    assert in_weights is not None
    assert in_weights.problems[0].where == "defense.p2p.text_screening.others"


@pytest.mark.parametrize("change", [{"prompts": 1}, {"prompts": "x"}, {"needed": None}, {"agreement": []}])
def test_damaged_stop_is_no_record(change: dict[str, Any], tmp_path: Path) -> None:
    from p2p_dist.results.rundir import RunDir

    target = RunDir(tmp_path).at("score", "0" * 12)
    stop = stop_record(list(LINES.values()), 0.5)
    for expected, record in ((True, stop), (False, {**stop, **change})):
        scorestore.write(target, [{"set": "screening", "id": "stop", **record}])
        assert (scorestore.stop_record(target) is not None) == expected
