"""Files that options name: below `$P2P_DIST_DATA`, as folders, and missing."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.defenses.back_translation import BackTranslation
from p2p_dist.data.example import Row, examples
from p2p_dist.data.input_files import digest_of, locate
from p2p_dist.data.paraphrases import key_of, read_table
from p2p_dist.errors import Exit, UserError
from p2p_dist.report import page, plan_view, status_view
from p2p_dist.report.study_data import StudyData
from p2p_dist.results import merge
from p2p_dist.results.collect import read_study
from p2p_dist.scheduling.other_settings import refuse_other_settings
from p2p_dist.scheduling.prepare import write_down
from p2p_dist.scheduling.study import find_cluster, open_study
from tests.cli.test_main import invoke

SYNATTACK = "{name: synattack, table: $P2P_DIST_DATA/rewrites}"


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_locate_names_places_below_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path below the root is found there, and its absence has a reason instead of being an error."""
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path))
    table = write(tmp_path / "rewrites" / "a.jsonl", [{"clean_text": "a", "text": "b"}])
    files = locate(["$P2P_DIST_DATA/rewrites", "$P2P_DIST_DATA/none", str(table)])
    assert files.located["$P2P_DIST_DATA/rewrites"].place == str(table.parent)
    assert files.missing == {"$P2P_DIST_DATA/none": f"{tmp_path}/none does not exist"}
    monkeypatch.delenv("P2P_DIST_DATA")
    assert locate(["$P2P_DIST_DATA/rewrites"]).missing == {"$P2P_DIST_DATA/rewrites": "P2P_DIST_DATA is not set"}
    with pytest.raises(UserError, match=r"E201.*nowhere"):
        locate([str(tmp_path / "nowhere")])


def test_digest_of_a_folder_is_that_of_its_content(tmp_path: Path) -> None:
    """Moved folders keep their digest; other names and other rows are another table."""
    first, second = (
        write(tmp_path / name / "a.jsonl", [{"clean_text": "a", "text": "b"}]).parent for name in ("x", "y")
    )
    before = digest_of(first)
    assert digest_of(second) == before
    write(second / "b.jsonl", [{"clean_text": "c", "text": "d"}])
    assert digest_of(second) != before
    (first / "a.jsonl").unlink()
    with pytest.raises(UserError, match=r"E201.*no such file"):
        digest_of(first)


def test_read_table_published_pairs_are_keyed_by_original(tmp_path: Path) -> None:
    """A folder of originals with rewrites is a table; a rewrite that changes nothing has failed."""
    write(tmp_path / "t" / "a.jsonl", [{"clean_text": "a b ", "text": "when b , a"}, {"clean_text": "c", "text": "c"}])
    write(tmp_path / "t" / "b.jsonl", [{"clean_text": "a b", "text": "later"}, {"clean_text": "d", "text": "e"}])
    assert read_table(tmp_path / "t") == {key_of("a b"): "when b , a", key_of("d"): "e"}


def test_read_table_rows_of_ids_need_their_originals(tmp_path: Path) -> None:
    """Rewrites that name a row by its id are used for the text of that row alone."""
    table = write(tmp_path / "back.jsonl", [{"id": 1, "text": "B", "label": 0}])
    originals = write(tmp_path / "test.jsonl", [{"id": 0, "text": "a", "label": 1}, {"id": 1, "text": "b", "label": 0}])
    assert read_table(table, originals) == {key_of("b"): "B"}
    with pytest.raises(UserError, match=r"E203.*clean_text"):
        read_table(table)
    write(table, [{"id": 1, "text": "B", "label": 1}])
    with pytest.raises(UserError, match=r"E203.*another label"):
        read_table(table, originals)
    for unknown in (7, [1]):
        write(table, [{"id": unknown, "text": "B", "label": 1}])
        with pytest.raises(UserError, match=r"E203.*no original"):
            read_table(table, originals)
    write(originals, [{"id": 0, "text": "a"}, {"id": 0, "text": "b"}])
    with pytest.raises(UserError, match=r"E203.*an id of its own"):
        read_table(table, originals)


def test_missing_table_leaves_its_cells_out_and_says_so(
    tmp_path: Path, with_data: Path, study_file: Callable[[], Path]
) -> None:
    """A table that is not below the root leaves out the cells that read it; plan, status and report name them."""
    changes = [f"attack=[none, badnets, {SYNATTACK}]"]
    study = open_study(study_file(), changes, tmp_path)
    assert {run.cell["attack"] for run in study.expansion.runs} == {"none", "badnets"}
    assert [one.cell["defense"] for one in study.expansion.left_out] == ["none", "p2p"]
    line = f"left out, 2 cells: attack synattack reads $P2P_DIST_DATA/rewrites: {with_data}/rewrites does not exist"
    plan = plan_view.to_json(study.expansion, study.plan(find_cluster("laptop")), study.model_names())
    assert line.replace(" ", "") in plan_view.text("tiny", plan).replace("\n", "").replace(" ", "")
    write_down(study)
    state = read_study(study.folder, alive=False)
    assert line in status_view.text(state, None)
    assert sum(status_view.to_json(state, None)["left_out"].values()) == 2
    assert line in page.sections(StudyData(study.folder, state, {}))[-1].remarks
    with pytest.raises(UserError, match=r"E201.*every run reads a missing file"):
        open_study(study_file(), [f"attack={SYNATTACK}"], tmp_path)


@pytest.fixture
def table(with_data: Path) -> Iterator[Path]:
    """A table below the root, which is gone behind the test."""
    file = write(with_data / "rewrites" / "a.jsonl", [{"clean_text": "a", "text": "b"}])
    yield file
    shutil.rmtree(file.parent, ignore_errors=True)


@pytest.mark.parametrize("complete_first", [True, False])
def test_merge_drops_left_out_cells_that_one_side_has(
    complete_first: bool, table: Path, tmp_path: Path, study_file: Callable[[], Path]
) -> None:
    """Cells that one machine left out and another one has are runs of the merged study, in either order."""
    changes = [f"attack=[none, {SYNATTACK}]"]
    complete = open_study(study_file(), changes, tmp_path / "complete")
    table.unlink()
    partial = open_study(study_file(), changes, tmp_path / "partial")
    assert (len(complete.expansion.left_out), len(partial.expansion.left_out)) == (0, 2)
    first, second = (complete, partial) if complete_first else (partial, complete)
    for study in (first, second):
        write_down(study)
    merge.add(second.folder, first.folder)
    state = read_study(first.folder, alive=False)
    assert (len(state.runs), list(state.left_out)) == (len(complete.expansion.runs), [])


def test_study_grows_when_its_table_appears(table: Path, tmp_path: Path, study_file: Callable[[], Path]) -> None:
    """Runs whose table came later are new ones of the same study, which is said without a setting that differs."""
    changes = [f"attack=[none, {SYNATTACK}]"]
    content = table.read_bytes()
    table.unlink()
    write_down(open_study(study_file(), changes, tmp_path))
    table.write_bytes(content)
    note = refuse_other_settings(open_study(study_file(), changes, tmp_path))
    assert note == "2 runs are new in this folder: no setting differs; files that it reads are missing, or were"


def test_run_names_the_missing_table_before_it_refuses(
    table: Path, tmp_path: Path, study_file: Callable[[], Path]
) -> None:
    """Begun runs whose table is gone are refused as runs that leave the study; the reason stands above."""
    changes = [f"attack=[none, {SYNATTACK}]"]
    study = open_study(study_file(), changes, tmp_path)
    write_down(study)
    for run in study.expansion.runs:
        study.folder.at("train", run.to_json()["train"]).attempts.mkdir(parents=True)
    table.unlink()
    code, _, error = invoke("run", str(study_file()), *changes, "--runs-dir", str(tmp_path), "--backend", "local")
    assert (code, "E407" in error) == (Exit.USAGE, True)
    assert f"{table.parent} has no .jsonl file" in error.partition("E407")[0]


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real rewrites here")
@pytest.mark.parametrize("kind", ["backtranslated", "scpd"])
def test_published_rewrites_are_of_clean_texts_alone(kind: str) -> None:
    """PSIM's rewrites of SST-2's test texts cover the clean suite; those of its own triggered texts are of no text of
    any suite of ours, whatever the target."""
    folder = Path(os.environ["P2P_DIST_REAL_DATA"]) / "sst2"
    originals = str(folder / "test.jsonl")
    rows = [json.loads(line) for line in Path(originals).read_text(encoding="utf-8").splitlines()]
    suite = [Row(str(row["id"]), row["text"], row["label"], "") for row in rows]
    clean = BackTranslation(table=str(folder / f"test_{kind}.jsonl"), originals=originals)
    assert sum(text is not None for text in clean.edit(suite, {})) >= 0.9 * len(suite)
    attack = BadNets(target_label=1)
    examples_ = examples([(row["text"], row["label"]) for row in rows])
    triggered = [Row(ex.id, ex.text, ex.label, "") for ex in attack.test_suite(examples_, 0)[0]]
    poisoned = folder / f"test_badnets_pos_{kind}.jsonl"
    for table in (clean, BackTranslation(table=str(poisoned), originals=originals)):
        with pytest.raises(UserError, match="E262"):
            table.edit(triggered, {})
    with pytest.raises(UserError, match="E262"):
        BackTranslation(table=str(poisoned), originals=originals).edit(suite, {})
