"""The paper's numbers as typed in: counted and summed by table here, and number by number against the paper where it is
at hand."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.report import paper
from p2p_dist.report.paper_settings import deviations

# Numbers per table, and sums of CA (or ROUGE) and of ASR over each table.
COUNTS = {1: 168, 2: 168, 3: 168, 4: 40, 5: 48, 6: 18, 7: 72, 8: 20, 9: 20, 10: 16, 11: 16, 12: 12}
ASR = {
    1: 5068.06,
    2: 4728.95,
    3: 5206.39,
    4: 923.11,
    5: 1306.24,
    6: 334.48,
    7: 1411.59,
    8: 512.38,
    9: 562.2,
    10: 404.29,
    11: 188.4,
    12: 312.11,
}


def test_counts_and_sums() -> None:
    counts: Counter[int] = Counter()
    asr: Counter[int] = Counter()
    for row in paper.rows():
        counts[row.table] += len(row.values)
        asr[row.table] += row.values["asr"]  # type: ignore[assignment]
        assert all(0 <= value <= 100 for value in row.values.values())
    assert dict(counts) == COUNTS
    assert {table: round(value, 2) for table, value in asr.items()} == ASR


def test_paper_numbers_have_each_cell_once_and_agree() -> None:
    """Every cell once and tables agree where they repeat each other."""
    keys = Counter((row.table, row.task, row.model, row.attack, row.defense, row.variant) for row in paper.rows())
    assert max(keys.values()) == 1
    for row in paper.rows():
        if row.variant in ("", "prompt_1", "token_1") and row.table in (6, 7, 8):
            first = paper.find(row.task, row.model, row.attack, row.defense)
            assert first is not None
            assert first.values == row.values, f"table {row.table} repeats table {first.table}"


@pytest.mark.parametrize(
    ("table", "model", "attack", "variant", "gain"),
    [
        (4, "qwen3-8b", "cba", "", 3.54),
        (5, "llama-3.1-8b-instruct", "cba", "", 1.04),
        (6, "qwen3-8b", "badnets", "prompt_2", 1.49),
    ],
)
def test_what_the_text_says_about_the_tables(table: int, model: str, attack: str, variant: str, gain: float) -> None:
    """Gains of CA under P2P that sections 5.2 and 5.3 name. (The mean gain of 1.23 over Table 1 is not among them: its
    cells give 0.98.)"""
    cells = [
        row
        for row in paper.rows()
        if (row.table, row.model, row.attack) == (table, model, attack) and row.task != "cr" and row.task != "agnews"
    ]
    before = next(row for row in cells if row.defense == "none")
    after = next(row for row in cells if row.defense == "p2p" and row.variant == variant)
    assert after.values["ca"] - before.values["ca"] == pytest.approx(gain)


def test_find() -> None:
    found = paper.find("sst2", "Qwen/Qwen3-8B", "badnets(rate=0.02)", "p2p")
    assert found is not None
    assert found.values == {"ca": 95.72, "asr": 6.03}
    memes = paper.find("hateful_memes", "qwen2.5-vl-7b-instruct", "badnets", "p2p")
    assert memes is not None
    assert (memes.table, memes.values) == (9, {"ca": 79.4, "asr": 14.5})
    assert paper.find("sst2", "tiny", "badnets", "p2p") is None
    words = paper.find("sst2(verbalizer=words)", "Qwen/Qwen3-8B", "badnets", "p2p", words=True)
    assert words is not None
    assert (words.table, words.variant, words.values["asr"]) == (7, "token_2", 7.02)
    assert paper.find("cr", "Qwen/Qwen3-8B", "badnets", "p2p", words=True) is None, "Table 7 is of SST-2 alone"


PAPERS: dict[str, dict[str, Any]] = {
    "attack": {"attack": {"name": "badnets", "rate": 0.02, "word": "mn"}, "rows": {"train": None}},
    "defend": {"defense": {"name": "p2p", "ratio": 0.25, "benign_source": "random_from_D"}},
    "train": {"train": {"learning_rate": 2e-4, "num_train_epochs": 3, "global_batch": 32, "lora": {"r": 16}}},
}


def test_deviations_of_the_papers_settings_are_none() -> None:
    assert deviations(PAPERS, "sst2") == []
    assert deviations({}, "sst2") == [], "what is not known is not a difference"
    mtba = {"attack": {"attack": {"name": "mtba", "rate": 0.02, "words": ["mn", "cf", "bb"], "mode": "hybrid"}}}
    assert deviations(mtba, "sst2") == [], "a tuple of the preset is a list in the file"


@pytest.mark.parametrize(
    ("step", "part", "changes", "words"),
    [
        ("attack", "attack", {"rate": 0.05}, ["rate 0.05 (paper: 0.02)"]),
        ("attack", "rows", {"train": 2000}, ["2000 training rows (paper: all)"]),
        ("defend", "defense", {"ratio": 0.4, "benign_source": "screened"}, ["ratio 0.4", "benign_source screened"]),
        ("train", "train", {"learning_rate": 1e-3}, ["learning_rate 0.001 (paper: 0.0002)"]),
        ("train", "train", {"lora": {"r": 8}}, ["lora.r 8 (paper: 16)"]),
    ],
)
def test_deviations_name_each_setting(step: str, part: str, changes: dict[str, Any], words: list[str]) -> None:
    """A cell with other settings is not compared, and the reason is said."""
    ours = {**PAPERS, step: {**PAPERS[step], part: {**PAPERS[step][part], **changes}}}
    found = deviations(ours, "sst2")
    assert len(found) == len(words)
    assert all(text.startswith(start) for text, start in zip(found, words, strict=True))


@pytest.mark.skipif(
    "P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: the paper is not beside it"
)
def test_every_number_is_the_papers() -> None:
    source = Path(os.environ["P2P_DIST_REAL_DATA"]).parent / "paper" / "p2p_paper.md"
    if not source.is_file():
        pytest.skip(f"no paper at {source}")
    text = source.read_text()
    for table in paper.tables():
        block = re.search(rf"^Table {table}: .*?\n\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
        assert block
        cells = [cell for line in block[1].splitlines() for cell in line.split("\t")]
        printed = sorted(float(cell) for cell in cells if re.fullmatch(r"\d+(\.\d+)?", cell))
        typed = sorted(value for row in paper.rows() if row.table == table for value in row.values.values())
        assert typed == printed, f"table {table}"
