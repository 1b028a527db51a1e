"""The paper's numbers as typed in: counted and summed by table here, and number by number against the paper where it is
at hand."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from p2p_dist import registry
from p2p_dist.config.training_axis import beside_model
from p2p_dist.report import paper
from p2p_dist.report.paper_settings import deviations
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.tables import against_paper
from p2p_dist.results.collect import Collected, RunState, StageState
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.study import configs_dir, open_study
from tests.report.invented_runs import rate

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
    words = paper.find("sst2(verbalizer=words)", "Qwen/Qwen3-8B", "badnets", "p2p", ("token_2",))
    assert words is not None
    assert (words.table, words.variant, words.values["asr"]) == (7, "token_2", 7.02)
    assert paper.find("cr", "Qwen/Qwen3-8B", "badnets", "p2p", ("token_2",)) is None, "Table 7 is of SST-2 alone"


CELLS = {"scaling": 10, "paper_parity": 2}
"""Attacked cells of studies whose settings are the paper's, or the released code's."""


def planned(root: Path, name: str, *overrides: str, tested: tuple[int, int] = (1821, 912)) -> StudyData:
    """A shipped study with the specs that its plan has, and invented rates over so many test rows."""
    study = open_study(configs_dir() / "studies" / f"{name}.yaml", overrides, root)
    clean, triggered = tested
    runs = []
    for run in study.expansion.runs:
        stages = [StageState(id_, study.expansion.graph.stages[id_].kind, "done", {}, {}) for id_ in run.stages]
        rates = {"ca_strict": rate(clean - 9, clean), "asr_strict": rate(9, triggered)}
        ids = {"train": run.train, "eval": run.evaluation, "floor": None}
        runs.append(RunState(beside_model(run.cell), stages, rates, None, {}, ids))
    resolved = {"stages": [stage.to_json() for stage in study.expansion.graph.stages.values()]}
    return StudyData(RunDir(root), Collected(name, "", runs, {}, [], resolved=resolved), {})


def lines(data: StudyData) -> list[dict[str, str]]:
    """Lines of the table, by the heads of their cells; empty cells are empty texts."""
    (table,) = against_paper.build(data)
    return [
        {
            f"{head.group} {head.text}".strip(): f"{cell.shown} {cell.small}".strip().removeprefix("–")
            for head, cell in zip(table.head, row, strict=True)
        }
        for row in table.rows
    ]


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize("name", CELLS)
def test_against_paper_compares_cells_with_its_settings(name: str, tmp_path: Path) -> None:
    """Every attacked cell has its line and its differences, and no line has another setting."""
    table = lines(planned(tmp_path, name))
    assert len(table) == CELLS[name]
    assert all(line["CA ↑ difference"] and line["ASR ↓ difference"] for line in table)
    assert not any("other settings" in line for line in table)


OTHER: list[tuple[list[str], tuple[int, int], str, int]] = [
    (["attack=[none, {name: badnets, rate: 0.05, target_label: 1}]"], (1821, 912), "rate 0.05 (paper: 0.02)", 10),
    (["attack=[none, {name: badnets, count: 50, target_label: 1}]"], (1821, 912), "count 50 (paper: null)", 10),
    (["attack=[none, {name: badnets, target_label: 0}]"], (1821, 909), "target_label 0 (paper: 1)", 10),
    (["attack=[none, {name: badnets, word: cf}]"], (1821, 912), "word cf (paper: mn)", 10),
    (["attack=[none, {name: badnets, position: prefix}]"], (1821, 912), "position prefix (paper: interior)", 10),
    (["attack=[none, {name: badnets, via: weights}]"], (1821, 912), "a training from another adapter", 10),
    (["rows.train=200"], (1821, 912), "200 training rows (paper: all)", 10),
    ([], (872, 428), "872 test rows of CA (paper: 1821), 428 test rows of ASR (paper: 912)", 10),
    (["defense=[none, {name: p2p, preset: paper, ratio: 0.4}]"], (1821, 912), "ratio 0.4 (paper: 0.2 to 0.3)", 5),
    (
        ["defense=[none, {name: p2p, benign_source: screened}]"],
        (1821, 912),
        "benign_source screened (paper: random_from_D or disjoint)",
        5,
    ),
    (
        ["defense=[none, {name: p2p, preset: paper, answer_cue: 'Output: '}]"],
        (1821, 912),
        "answer_cue 'Output: ' (paper: 'Answer: ')",
        5,
    ),
    (["train.num_train_epochs=1"], (1821, 912), "num_train_epochs 1 (paper: 3)", 10),
    (["train.lora.r=8"], (1821, 912), "lora.r 8 (paper: 16)", 10),
    (["train.lora.target_modules=all-linear"], (1821, 912), "all-linear (released code: [q_proj, v_proj])", 10),
    (["train.quantization=nf4"], (1821, 912), "quantization nf4 (released code: null)", 10),
]
"""Overrides and numbers of test rows, the setting that is named, and the number of cells that it marks."""


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize(("overrides", "tested", "setting", "count"), OTHER)
def test_against_paper_marks_other_settings(
    overrides: list[str], tested: tuple[int, int], setting: str, count: int, tmp_path: Path
) -> None:
    """A cell with another rate, other rows or options is shown, marked and not compared; others are compared."""
    table = lines(planned(tmp_path, "scaling", *overrides, tested=tested))
    marked = [line for line in table if setting in line["other settings"]]
    assert len(marked) == count
    for line in table:
        assert bool(line["ASR ↓ difference"]) == bool(line["CA ↑ difference"]) == (line["other settings"] == "")
        assert line["CA ↑ paper"]
        assert line["ASR ↓ ours"]


@pytest.mark.usefixtures("with_data")
def test_against_paper_marks_training_rows_held_out(tmp_path: Path) -> None:
    """Without a dev file `rows.dev` takes training rows, which the paper's models have."""
    data = planned(tmp_path, "scaling", "rows.dev=400")
    counts = {"none": {"dropped": {"held_out": 400}}}
    data.collected.runs[:] = [replace(run, counts=counts.get(run.cell["defense"], {})) for run in data.collected.runs]
    marked = {(line["other settings"], line["ASR ↓ difference"]) for line in lines(data)}
    assert marked == {("400 training rows held out (paper: none)", "")}


@pytest.mark.usefixtures("with_data")
def test_against_paper_names_the_second_prompt(tmp_path: Path) -> None:
    """Another benign trigger stands beside Table 6's second prompt, whose words the paper does not print."""
    defense = "defense={name: p2p, preset: paper, benign_trigger: 'Please read: '}"
    first, *others = lines(planned(tmp_path, "scaling", "model=qwen3-8b", "seed=0", defense))
    assert not others
    assert (first["table"], first["ASR ↓ paper"], first["ASR ↓ difference"]) == ("6", "4.17", "")
    assert first["other settings"] == "benign_trigger 'Please read: ' (paper: 'The query currently entered is: ')"


@pytest.mark.usefixtures("with_data")
def test_against_paper_finds_a_model_beside_its_training(tmp_path: Path) -> None:
    """Cells of a study with several trainings have the paper's number too, and only its own rank is compared."""
    table = lines(planned(tmp_path, "scaling", "model=qwen3-8b", "seed=0", "train.lora.r=[8, 16]"))
    settings = {line["model"]: line["other settings"] for line in table}
    assert settings == {"qwen3-8b (lora.r=8)": "lora.r 8 (paper: 16)", "qwen3-8b (lora.r=16)": ""}


def test_deviations_name_another_paraphraser() -> None:
    """SynAttack by another paraphraser than the paper's is marked; a surrogate of LWS is not stated there."""
    synattack = {"attack": {"attack": {"name": "synattack", "rewriter": "qwen3-8b", "max_new_tokens": 64}}}
    assert deviations(synattack, "cr") == ["rewriter qwen3-8b (paper: SCPN)"]
    lws = {"attack": {"attack": {"name": "lws", "synonyms": "0" * 64, "surrogate": "tiny", "epochs": 3}}}
    assert deviations(lws, "sst2") == []


def test_deviations_of_unknown_settings_are_none() -> None:
    assert deviations({}, "sst2") == [], "what is not known is not a difference"


@pytest.mark.parametrize("name", ["mtba", "cba", "addsent", "proattack", "synattack", "lws"])
def test_deviations_of_an_attacks_preset_are_none(name: str) -> None:
    """Options at the paper's values are none, tuples of a preset as lists of a file, and paths of tables."""
    plugin = registry.load("attacks", name)
    options = {"name": name, **plugin.presets["p2p" if "p2p" in plugin.presets else "p2p_like"], "table": "a.jsonl"}
    words = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    assert deviations({"attack": {"attack": words}}, "sst2") == []
    assert deviations({"attack": {"attack": {**words, "rate": 0.3}}}, "sst2")


@pytest.mark.parametrize(("task", "preset"), [("ape210k", "math"), ("crrsum", "summary")])
def test_deviations_know_the_words_of_a_task(task: str, preset: str) -> None:
    """Benign trigger and response prefix of appendix B are those of the task."""
    words = {"name": "p2p", **registry.load("defenses", "p2p").presets[preset], "benign_source": "random_from_D"}
    assert deviations({"defend": {"defense": words}}, task) == []
    assert len(deviations({"defend": {"defense": words}}, "sst2")) == 2


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
