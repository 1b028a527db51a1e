"""`p2p-dist defend`: the study that it writes, its folder, and what it refuses. Nothing is trained here."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.scheduling.feasibility import refuse_infeasible
from p2p_dist.scheduling.study import Study, open_study
from tests.cli.test_init import CHATS, REVIEWS, SUMS, write
from tests.cli.test_main import invoke
from tests.rows import sentences

Rows = Sequence[dict[str, object]]
CHECKED: Rows = [
    {"Review": row["text"], "Sentiment": ["no", "yes"][int(row["label"])]} for row in sentences(400, seed=9)
]


def defend(data: Path, out: Path, *options: str) -> tuple[int, str, str]:
    return invoke("defend", str(data), "--model", "tiny", "-o", str(out), *options)


def prepared(tmp_path: Path, rows: Rows, *options: str) -> Study:
    """The study of `--prepare`, opened as the verb does, whose numbers of rows can be."""
    out = tmp_path / "out"
    code, _, error = defend(write(tmp_path / "rows.csv", rows), out, "--prepare", *options)
    assert code == Exit.OK, error
    study = open_study(out / "study.yaml", [], out / "runs")
    refuse_infeasible(study)
    return study


def test_defend_study_screens_with_a_secret_prompt(tmp_path: Path) -> None:
    study = prepared(tmp_path, REVIEWS)
    p2p = study.spec.defense[1]
    assert (p2p.benign_source, p2p.ratio, p2p.screening.draws) == ("screened", 0.4, 3)
    assert re.fullmatch(r"[A-Z][a-z]+( [a-z]+){3}: ", p2p.benign_trigger)
    assert re.fullmatch(r"[A-Z][a-z]+( [a-z]+){2}: ", p2p.answer_cue)
    assert [run.cell["attack"] for run in study.expansion.runs] == ["none", "none", "addsent", "addsent"]
    assert {run.cell["defense"] for run in study.expansion.runs} == {"none", "p2p"}


def test_defend_prompt_is_new_for_every_folder_and_stays(tmp_path: Path) -> None:
    """The same command keeps the study; nobody sees the prompt but in it, which other users cannot read."""
    data, first, second = write(tmp_path / "rows.csv", REVIEWS), tmp_path / "a", tmp_path / "b"
    said = [defend(data, out, "--prepare") for out in (first, second, first)]
    assert [code for code, _, _ in said] == [Exit.OK] * 3
    studies = [(out / "study.yaml").read_text() for out in (first, second)]
    prompts = [re.findall(r'(?:benign_trigger|answer_cue): "(.+): "', study) for study in studies]
    assert len({*prompts[0], *prompts[1]}) == 4
    assert not any(prompt in text for _, *texts in said for text in texts for pair in prompts for prompt in pair)
    assert first.stat().st_mode & 0o077 == 0


def test_defend_trusted_rows_are_reserved(tmp_path: Path) -> None:
    """All checked rows are training rows that the simulated attack leaves alone, and benign rows come from them."""
    trusted = write(tmp_path / "checked.csv", [*CHECKED[:14], *REVIEWS[:2]])
    study = prepared(tmp_path, REVIEWS, "--trusted", str(trusted))
    p2p = study.spec.defense[1]
    assert (p2p.benign_source, p2p.ratio, study.spec.rows.reserve) == ("clean_reserved", 0.2, 16)
    counts = refuse_infeasible(study)[0].counts
    assert counts is not None
    assert (counts.train, counts.reserve, sum(counts.test_by_class.values())) == (60 - 12 + 14, 16, 12)


def test_defend_in_weights_needs_no_prompt(tmp_path: Path) -> None:
    study = prepared(tmp_path, REVIEWS, "--in-weights", "--no-simulate")
    defense = study.spec.defense[1]
    assert (defense.p2p.benign_source, defense.p2p.ratio) == ("screened", 0.4)
    assert [run.cell["defense"] for run in study.expansion.runs] == ["none", "p2p_in_weights"]


def test_defend_rare_class_lowers_the_ratio(tmp_path: Path) -> None:
    """The benign rows of a class come from its more trusted half; the simulated attacker has the rarest class as its
    target, because rows of the others are many."""
    rows: Rows = [{"text": f"text {n}", "label": "spam" if n % 5 == 0 else "ham"} for n in range(300)]
    study = prepared(tmp_path, rows)
    assert study.spec.defense[1].ratio == 0.2
    assert (study.spec.attack[1].target_label, study.spec.task[0].labels[1]) == (1, "spam")


def test_defend_plan_says_rows_time_memory_and_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text, error = defend(write(tmp_path / "rows.csv", REVIEWS), out, "--plan")
    assert code == Exit.OK, error
    assert "where no number is known" not in text, "the file says how many rows there are"
    for part in ("no 30, yes 30", "12 of them for the test", "GiB per device", "of worker time", str(out / "served")):
        assert part in text
    assert not out.exists()
    code, text, _ = defend(tmp_path / "rows.csv", out, "--plan", "--json")
    assert (code, json.loads(text)["data"]["columns"]["text"]) == (Exit.OK, "Review")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"text": "x", "b": n % 2} for n in range(60)], "E125]: no column of labels"),
        ([{"text": f"x {n}", "label": 1} for n in range(60)], "E228"),
        (REVIEWS[:12], "E126"),
        (REVIEWS[:30], "E164]: class 'no' has 12 training rows; a screening needs 20"),
    ],
)
def test_defend_refuses_rows_it_cannot_defend(tmp_path: Path, rows: Rows, expected: str) -> None:
    out = tmp_path / "out"
    code, _, error = defend(write(tmp_path / "rows.csv", rows), out)
    assert (code, expected in error, "Try: " in error) == (Exit.USAGE, True, True), error
    assert not out.exists()


@pytest.mark.parametrize(("rows", "rule"), [(SUMS, "agree"), (CHATS, "rewrite")], ids=["numbers", "text"])
def test_defend_text_answers_need_no_checked_rows(tmp_path: Path, rows: Rows, rule: str) -> None:
    """The untrained model screens them; options of the screening of labels are not written."""
    study = prepared(tmp_path, rows)
    p2p = study.spec.defense[1]
    assert (p2p.benign_source, p2p.ratio, p2p.text_screening) == ("screened", 0.4, None)
    assert re.fullmatch(r"[A-Z][a-z]+( [a-z]+){2}: ", p2p.response_prefix)
    (scored,) = {
        stage.spec["method"]["name"]
        for run in study.expansion.runs
        for stage in map(study.expansion.graph.stages.__getitem__, run.stages)
        if stage.kind == "score"
    }
    assert scored == "prompt_information"
    _, text, _ = defend(tmp_path / "rows.csv", tmp_path / "other", "--plan")
    assert "the untrained model chooses, by how much an answer depends on its prompt" in text
    assert "how well rows so chosen protect was measured once" in text
    _, text, _ = defend(tmp_path / "rows.csv", tmp_path / "other", "--plan", "--in-weights")
    assert "measured on few rows so far" in text
    (tmp_path / "weights").mkdir()
    in_weights = prepared(tmp_path / "weights", rows, "--in-weights").spec.defense[1]
    assert (in_weights.rule, in_weights.p2p.benign_source) == (rule, "screened")


def test_defend_refuses_few_trusted_rows(tmp_path: Path) -> None:
    trusted = write(tmp_path / "checked.csv", CHECKED[:4])
    _, _, error = defend(write(tmp_path / "rows.csv", REVIEWS), tmp_path / "out", "--trusted", str(trusted))
    assert "E164]: 4 trusted rows of 52 training rows are less than 10%" in error
    _, _, error = defend(tmp_path / "rows.csv", tmp_path / "out", "--trusted", str(tmp_path / "no.csv"))
    assert "E201" in error


def test_defend_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    data, out = write(tmp_path / "rows.csv", REVIEWS), tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    assert "E163]: the folder is not empty" in defend(data, out)[2]
    (out / "letter.txt").unlink()
    assert defend(data, out, "--prepare")[0] == Exit.OK
    assert "begun with another simulate" in defend(data, out, "--prepare", "--no-simulate")[2]
    write(tmp_path / "rows.csv", CHECKED[:60])
    assert "begun with another content" in defend(data, out, "--prepare")[2]
    assert "E163]: not a folder" in defend(data, data)[2]
