"""The index is what the files say, however it came about; queries see nothing else and can touch nothing."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from p2p_dist.config.identity import canonical
from p2p_dist.errors import UserError
from p2p_dist.results import index, query
from p2p_dist.results.collect import read_study
from p2p_dist.results.resolved import read_resolved
from p2p_dist.results.rundir import RunDir
from tests.synthetic import STUDY, make_study

SMALL = STUDY.replace("model: [random:qwen3-0.6b, random:qwen3-1.7b, random:qwen3-4b]", "model: tiny").replace(
    "seed: [0, 1, 2]", "seed: [0, 1]"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> RunDir:
    return make_study(tmp_path_factory.mktemp("made"), data_root, SMALL)


@pytest.fixture
def folder(made: RunDir, tmp_path: Path) -> RunDir:
    """A copy that a test may damage."""
    return RunDir(shutil.copytree(made.path, tmp_path / "runs" / made.path.name))


def one(folder: RunDir, sql: str) -> Any:
    return query.frame(sql, [folder.path]).iloc[0, 0]


def test_it_says_what_the_files_say(folder: RunDir) -> None:
    found = read_study(folder, alive=False)
    counted = {
        (id_, name): (rate.k, rate.n) for id_, result in found.results.items() for name, rate in result.rates.items()
    }
    rates = query.frame("SELECT eval, rate, k, n, low, value, high FROM rates", [folder.path])
    found_rates = {(row.eval, row.rate): (row.k, row.n) for row in rates.itertuples()}
    derived = {key: value for key, value in found_rates.items() if key[1].startswith("asr_excess")}
    assert {key: value for key, value in found_rates.items() if key not in derived} == counted
    for (id_, name), (hits, rows) in derived.items():
        suffix = name.removeprefix("asr_excess")
        with_trigger, without = (counted[id_, f"asr_only_{side}{suffix}"] for side in ("triggered", "untriggered"))
        assert (hits, rows) == (with_trigger[0] - without[0], with_trigger[1])
    assert derived
    assert ((rates.low <= rates.value) & (rates.value <= rates.high)).all()
    models = {
        canonical(stage["spec"]["model"]) for stage in read_resolved(folder)["stages"] if stage["kind"] == "train"
    }
    assert set(query.frame("SELECT base FROM stages WHERE kind = 'eval'", [folder.path]).base) == models
    assert one(folder, "SELECT count(*) FROM stages WHERE kind = 'train'") == len(
        {run.ids["train"] for run in found.runs}
    )
    assert one(folder, "SELECT sum(count) FROM histograms") == sum(
        suite.n_scored for result in found.results.values() for suite in result.suites.values()
    )


def test_cells_hold_the_grid_and_missing_stays_missing(folder: RunDir) -> None:
    """Cells have the grid and its rates and missing stays missing."""
    cells = query.frame("SELECT * FROM cells ORDER BY attack, defense, seed", [folder.path])
    assert len(cells) == 12
    clean = cells[cells.attack == "none"]
    assert clean.asr.isna().all()
    assert clean.floor.isna().all()
    attacked = cells[(cells.attack == "badnets") & (cells.defense == "none")]
    assert (attacked.asr > 0.9).all()
    assert (attacked.floor < 0.4).all()
    assert (attacked.asr_n == 30).all()
    change = (attacked.asr_k - attacked.asr_untriggered_k) / 30
    assert attacked.asr_excess.tolist() == pytest.approx(change.tolist())
    assert ((attacked.asr_excess_low < attacked.asr_excess) & (attacked.asr_excess < attacked.asr_excess_high)).all()


def test_what_a_defense_needs_is_beside_its_rates(folder: RunDir) -> None:
    needs = query.frame(
        "SELECT DISTINCT defense, clean_rows, extra_models, prompt_control FROM cells ORDER BY ALL", [folder.path]
    )
    assert needs.values.tolist() == [["none", "none", "none", False], ["p2p", "ratio x training rows", "none", True]]


def test_index_refresh_reads_only_what_is_new(folder: RunDir) -> None:
    """Refreshing reads only what is new and ends where building does."""
    first = index.refresh(folder)
    assert first.read == len(first.table)
    assert index.refresh(folder).read == 0
    gone = sorted((folder.path / "eval").iterdir())[:2]
    contents = [(path / "result.json").read_bytes() for path in gone]
    for path in gone:
        (path / "result.json").unlink()
    assert len(index.refresh(folder).table) == len(first.table) - 2
    for path, content in zip(gone, contents, strict=True):
        (path / "result.json").write_bytes(content)
    again = index.refresh(folder)
    assert again.read == 2
    assert again.table.drop_columns("signature").equals(first.table.drop_columns("signature"))
    assert again.table.equals(index.rebuild(folder).table)
    assert pq.read_table(folder.index).equals(again.table)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", None])
def test_a_damaged_or_deleted_index_is_built_again(folder: RunDir, content: bytes | None) -> None:
    before = index.refresh(folder).table
    if content is None:
        folder.index.unlink()
    else:
        folder.index.write_bytes(content)
    assert index.refresh(folder).table.equals(before)


def test_a_damaged_result_leaves_the_index_and_is_named(folder: RunDir) -> None:
    before = index.refresh(folder)
    result = sorted((folder.path / "eval").iterdir())[0] / "result.json"
    content = result.read_bytes()
    result.write_bytes(content[:-20])
    for _ in range(2):
        found = index.refresh(folder)
        assert [problem.code for problem in found.problems] == ["E502"]
        assert len(found.table) == len(before.table) - 1
    result.write_bytes(content)
    (result.parent / "result.json.conflict-12345678").write_bytes(content)
    assert [problem.code for problem in index.refresh(folder).problems] == ["E507"], (
        "a second result makes both doubtful"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nothing FROM cells",
        "SELEC",
        "SELECT * FROM read_text('/etc/passwd')",
        "COPY cells TO 'x.csv'",
        "INSTALL httpfs",
    ],
)
def test_queries_that_are_wrong_or_reach_out(folder: RunDir, sql: str) -> None:
    with pytest.raises(UserError, match="E510"):
        query.frame(sql, [folder.path])


def test_several_studies_at_once(folder: RunDir, tmp_path: Path, data_root: Path) -> None:
    other = make_study(tmp_path, data_root, SMALL.replace("name: synthetic", "name: other"), overrides=["seed=5"])
    counts = query.frame(
        "SELECT study, count(*) AS n FROM cells GROUP BY study ORDER BY study", query.studies(tmp_path / "runs", [])
    )
    assert counts.to_dict("list") == {"study": ["other", "synthetic"], "n": [6, 12]}
    assert query.studies(tmp_path / "runs", ["other"]) == [other.path]
    with pytest.raises(UserError, match="E402"):
        query.studies(tmp_path / "nowhere", [])
