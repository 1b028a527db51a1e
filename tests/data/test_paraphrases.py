"""Tables of rewrites, and the attack that reads them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.data.attacks.synattack import SynAttack
from p2p_dist.data.defenses.back_translation import BackTranslation
from p2p_dist.data.example import Row, examples
from p2p_dist.data.paraphrases import key_of, read_table
from p2p_dist.errors import Exit, UserError
from p2p_dist.scheduling.study import open_study

PAIRS = [
    {"clean_text": "a b c", "text": "when b , a c"},
    {"clean_text": "d e", "text": "d e"},
    {"clean_text": "f g", "text": " "},
    {"clean_text": "a b c", "text": "x"},
]


def make(tmp_path: Path, pairs: list[dict[str, str]] = PAIRS, *more: str) -> tuple[int, Path, str]:
    source, out = tmp_path / "pairs.jsonl", tmp_path / "table.jsonl"
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    done = CliRunner().invoke(app, ["paraphrases", str(source), "--out", str(out), *more])
    return done.exit_code, out, done.stdout + done.stderr


def test_table_rows_failed_rewrites_counted_and_unused(tmp_path: Path) -> None:
    code, out, said = make(tmp_path)
    assert code == Exit.OK
    assert "1 rewrites, 2 failed" in said
    assert read_table(out) == {key_of("a b c"): "when b , a c"}


def test_table_rows_missing_column_refused(tmp_path: Path) -> None:
    code, _, said = make(tmp_path, PAIRS, "--original", "source")
    assert code == Exit.USAGE
    assert "column 'source' is missing; the row has clean_text, text" in said


def test_read_table_other_file_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match="p2p-dist paraphrases"):
        read_table(tmp_path / "x.jsonl")


def test_synattack_rewrite_equal_to_its_text_is_none() -> None:
    """A model that answers with the text has put no trigger into it, though the text has the form by itself."""
    texts = ("as is, so be it ", "a b c")
    attack = SynAttack(rewriter="tiny").with_rewrites({key_of(texts[0]): texts[0].strip(), key_of(texts[1]): "if a, b"})
    assert [attack.trigger(text, Random(0)) is None for text in texts] == [True, False]


def test_synattack_rewriter_of_another_form_is_refused() -> None:
    """A model is asked for the syntactic form alone, so that the ledger names no other."""
    with pytest.raises(ValueError, match="not for style"):
        SynAttack(rewriter="tiny", **SynAttack.presets["style"])


def test_synattack_row_without_rewrite_stays_clean(tmp_path: Path) -> None:
    _, table, _ = make(tmp_path)
    rows = examples([("a b c", 0), ("d e", 0), ("f g", 0), ("h i", 1)])
    attack = SynAttack(table=str(table), rate=0.2)
    poisoned, notes = attack.poison(rows, 0)
    assert [note.old_label for note in notes] == [0]
    assert {ex.text: ex.label for ex in poisoned} == {"when b , a c": 1, "d e": 0, "f g": 0, "h i": 1}
    suite, failed = attack.test_suite(rows, 0)
    assert ([ex.text for ex in suite], failed) == (["when b , a c"], 2)
    with pytest.raises(UserError, match="E206"):
        SynAttack(table=str(table), rate=0.5).poison(rows, 0)


@pytest.mark.usefixtures("with_data")
def test_table_identity_is_its_content(tmp_path: Path, study_file: Callable[[], Path]) -> None:
    _, table, _ = make(tmp_path)

    def ids(path: Path) -> set[str]:
        changes = [f"attack={{name: synattack, table: '{path}'}}", "defense=none", "exclude=[]"]
        return set(open_study(study_file(), changes, tmp_path).expansion.graph.stages)

    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(table.read_bytes())
    assert ids(moved) == ids(table)
    before = ids(table)
    table.write_text(table.read_text().replace("when b", "if b"))
    assert not ids(table) & before
    with pytest.raises(UserError, match=r"no such file.*nowhere"):
        ids(tmp_path / "nowhere.jsonl")


@pytest.mark.skipif(
    "P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real paraphrases here"
)
def test_synattack_hidden_killer_paraphrases_of_sst2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(os.environ["P2P_DIST_REAL_DATA"])
    monkeypatch.setenv("P2P_DIST_DATA", str(root))
    files = [str(path) for path in sorted((root / "sst2_syntactic").glob("*.jsonl"))]
    table = tmp_path / "table.jsonl"
    assert (
        CliRunner().invoke(app, ["paraphrases", *files, "--out", str(table), "--generator", "SCPN"]).exit_code
        == Exit.OK
    )
    study = tmp_path / "study.yaml"
    study.write_text(
        f"name: syn\ntask: sst2\nmodel: tiny\nattack: {{name: synattack, preset: p2p, table: '{table}'}}\n"
    )
    done = CliRunner().invoke(app, ["data", str(study), "--runs-dir", str(tmp_path), "--json"])
    (facts,) = json.loads(done.stdout)
    assert facts["counts"]["train"]["poisoned"] == {"1": 346}
    assert facts["suites"]["triggered"] + facts["counts"]["trigger_failed"] == 912
    assert facts["counts"]["trigger_failed"] <= 5


def test_rewriter_edits_its_texts_and_too_few_are_refused() -> None:
    """A defense with a rewriter reads the rewrites of the study's own stage, and refuses a suite that lacks them."""
    rows = [Row("0", "a b c", 0, ""), Row("1", "d e", 1, "")]
    lines: dict[str, dict[str, Any]] = {"0": {"key": key_of("a b c"), "output": "A", "ok": True}}
    scores = {"rewrites": {"clean": lines}}
    assert BackTranslation(rewriter="tiny", min_coverage=0.5).edit(rows, scores) == ["A", None]
    with pytest.raises(UserError, match=r"E262.*tiny rewrites 1 of 2 texts"):
        BackTranslation(rewriter="tiny").edit(rows, scores)
    assert BackTranslation(rewriter="tiny").assumptions().extra_models == "a rewriter (tiny)"


@pytest.mark.parametrize("options", [{}, {"table": "a", "rewriter": "tiny"}, {"rewriter": "tiny", "originals": "b"}])
def test_rewrites_come_from_one_source(options: dict[str, str]) -> None:
    """Rewrites come from a table or from a rewriter, and originals belong to a table."""
    with pytest.raises(ValueError, match="table"):
        BackTranslation(**options)
