"""Numbers of rows that the times of a plan assume."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from p2p_dist import registry
from p2p_dist.config.expand import expand
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.load import load_study
from p2p_dist.config.model import resolve_model
from p2p_dist.data.row_files import count_rows
from p2p_dist.data.sources import Source, locate
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.durations import Rates
from p2p_dist.planning.row_tokens import TEST_ROWS, TRAIN_ROWS, RowLengths
from tests.conftest import TINY_STUDY

MODELS = Path(__file__).parents[2] / "configs" / "models"


@pytest.fixture
def unlimited(tmp_path: Path) -> Graph:
    """Graph of a study that takes all rows of its task."""
    file = tmp_path / "study.yaml"
    file.write_text(TINY_STUDY)
    spec = load_study(file, ["rows={train: null, test: null}", "attack=none", "defense=none"], MODELS)
    return expand(spec, [Source("files", "/rows", "0" * 12)], {}).graph


def training(graph: Graph) -> Stage:
    (stage,) = (stage for stage in graph.stages.values() if stage.kind == "train")
    return stage


@pytest.mark.parametrize(
    ("known", "train", "test", "guessed"),
    [
        ({}, TRAIN_ROWS, TEST_ROWS, True),
        ({"train": 640, "test": 160}, 640, 160, False),
        ({"train": 640, "test": 160, "trusted": 40}, 680, 160, False),
        ({"train": 640}, 640, TEST_ROWS, False),
    ],
)
def test_rows_of_a_file_take_the_place_of_the_assumed_ones(
    known: dict[str, int], train: int, test: int, guessed: bool, unlimited: Graph
) -> None:
    rates = Rates({}, ClusterSpec(name="here", cpus_per_node=2), {"0" * 12: known})
    stage = training(unlimited)
    rows = unlimited.stages[stage.reads["rows"]]
    assert (rates.train_rows(unlimited, rows), rates.test_rows(unlimited, rows)) == (train, test)
    assert rates.guesses_rows(unlimited) is guessed
    batch, epochs = stage.spec["train"]["global_batch"], stage.spec["train"]["num_train_epochs"]
    assert rates.steps(unlimited, stage) == epochs * -(-train // batch)


def test_test_rows_of_a_single_file_are_no_training_rows(unlimited: Graph) -> None:
    attacked = next(stage for stage in unlimited.stages.values() if stage.kind == "data")
    asked = replace(attacked, spec={**attacked.spec, "rows": {**attacked.spec["rows"], "test": 160}})
    rates = Rates({}, ClusterSpec(name="here", cpus_per_node=2), {"0" * 12: {"train": 800}})
    assert (rates.train_rows(unlimited, asked), rates.test_rows(unlimited, asked)) == (640, 160)


def test_longer_rows_take_longer_up_to_what_is_read_of_them(unlimited: Graph) -> None:
    """Rows of 600 bytes are 120 tokens, four times as many as are assumed for short texts; 30 kB are cut."""
    cluster, stage = ClusterSpec(name="here", cpus_per_node=2), training(unlimited)
    evaluation = next(one for one in unlimited.stages.values() if one.kind == "eval")
    lengths = [RowLengths(known) for known in ({}, {"0" * 12: 600.0}, {"0" * 12: 30_000.0})]
    short, long, cut = (Rates({}, cluster, lengths=one) for one in lengths)
    for one in (stage, evaluation):
        assert long.seconds(unlimited, one) == pytest.approx(4 * short.seconds(unlimited, one))
        assert cut.row_tokens(unlimited, one) == stage.spec["train"]["max_length"] == 128


def test_bytes_of_a_row_are_those_of_the_training_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text((ROW + "\n") * 4)
    (tmp_path / "test.jsonl").write_text(f'{{"text": "{"long " * 90}", "label": 0}}\n')
    task = registry.load("tasks", "sst2")(source=str(tmp_path))
    assert locate(task).row_bytes == len(ROW) + 1


ROW = '{"text": "x", "label": 0}'
BROKEN = '"' + "a line\n" * 20 + '"'


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("rows.jsonl", f"{ROW}\n{ROW}\n", 2),
        ("rows.jsonl", f"{ROW}\n{ROW}", 2),
        ("rows.csv", f"text,label\n{BROKEN},0\nx,1\n", 2),
        ("rows.tsv", "text\tlabel\nx\t0", 1),
        ("rows.csv", "", 0),
        ("rows.json", f"[{ROW}]", None),
    ],
)
def test_rows_of_a_file_are_counted(name: str, content: str, count: int | None, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert count_rows(tmp_path / name) == count


def test_a_source_tells_the_rows_of_all_splits_or_none(tmp_path: Path) -> None:
    for split, count in {"train": 7, "test": 3}.items():
        (tmp_path / f"{split}.jsonl").write_text(f"{ROW}\n" * count)
    task = Custom(source=str(tmp_path), label_names=["a", "b"])
    assert locate(task).rows == {"train": 7, "test": 3}
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress((tmp_path / "test.jsonl").read_bytes()))
    (tmp_path / "test.jsonl").unlink()
    assert locate(task).rows == {}, "the training rows alone would leave the test rows to a guess"


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        (["attack=none", "defense={name: back_translation, rewriter: tiny}"], 30),
        (["attack=badnets", "defense={name: back_translation, rewriter: tiny}"], 2 * 30),
        (["attack={name: synattack, rewriter: tiny}", "defense=none"], 100 + 30),
        (["attack=badnets", "defense=psim"], 2 * 30 + 8),
        (["attack=badnets", "defense=bki"], 100),
    ],
)
def test_a_scoring_takes_the_rows_of_its_sets(overrides: list[str], rows: int, tmp_path: Path) -> None:
    """Rewrites of test suites took as long as those of all training rows."""
    file = tmp_path / "study.yaml"
    file.write_text(TINY_STUDY)
    spec = load_study(file, ["rows={train: 100, test: 30, reserve: 8}", "exclude=[]", *overrides], MODELS)
    models = {"tiny": resolve_model("tiny", MODELS)}
    graph = expand(spec, [Source("files", "/rows", "0" * 12)], {}, models).graph
    rates = Rates({}, ClusterSpec(name="here", cpus_per_node=2))
    (scored,) = (stage for stage in graph.stages.values() if stage.kind == "score")
    assert rates.scored_rows(graph, scored) == rows
    evaluation = next(stage for stage in graph.stages.values() if stage.kind == "eval")
    passes = 3 * len(scored.spec["method"].get("instructions", ())) or 1
    assert rates.seconds(graph, scored) == pytest.approx(rates.seconds(graph, evaluation) * passes * rows / 30)


def test_answers_behind_many_prompts_take_longer(tmp_path: Path) -> None:
    """An answer is assumed to be half of a row: with those of eight others a prompt takes five passes."""
    file = tmp_path / "study.yaml"
    file.write_text(TINY_STUDY)
    defense = "{name: p2p, preset: math, benign_source: screened, text_screening: {others: 8}}"
    sums = ["task=gsm8k", "attack={name: badnets, target_response: '0.1'}", f"defense={defense}"]
    spec = load_study(file, ["rows={train: 100, test: 30}", "exclude=[]", *sums], MODELS)
    models = {"tiny": resolve_model("tiny", MODELS)}
    graph = expand(spec, [Source("files", "/rows", "0" * 12)], {}, models).graph
    rates = Rates({}, ClusterSpec(name="here", cpus_per_node=2))
    scored, evaluation = (next(one for one in graph.stages.values() if one.kind == kind) for kind in ("score", "eval"))
    assert rates.seconds(graph, scored) == pytest.approx(rates.seconds(graph, evaluation) * 5 * 100 / 30)
