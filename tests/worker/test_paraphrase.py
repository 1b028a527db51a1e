"""A model that rewrites: a whole table through the command line, and the same bytes after it was stopped half-way."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.data.paraphrases import key_of
from p2p_dist.errors import Exit
from p2p_dist.worker import paraphrase
from tests.rows import sentences

TEXTS = [str(row["text"]) for row in sentences(10)]


def make(tmp_path: Path, name: str, *more: str) -> tuple[int, Path, str]:
    source, out = tmp_path / "texts.jsonl", tmp_path / name
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    options = ["--model", "tiny", "--batch", "3", "--max-new-tokens", "6", *more]
    done = CliRunner().invoke(app, ["paraphrases", str(source), "--out", str(out), *options])
    return done.exit_code, out, done.stdout + done.stderr


def test_make_table_resumes_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model rewrites texts, and a second attempt resumes behind the batches of the first."""
    code, table, output = make(tmp_path, "table.jsonl")
    assert code == Exit.OK, output
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert {row["key"] for row in rows} == {key_of(text) for text in TEXTS}
    good = sum(row["ok"] for row in rows)
    assert f"{good} rewrites, {10 - good} failed" in output
    assert rows[0]["generator"].startswith("tiny ")
    asked: list[int] = []
    real = paraphrase.rewrite

    def stopped(base: object, texts: list[str], recipe: object) -> object:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(texts))
        return real(base, texts, recipe)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(paraphrase, "rewrite", stopped)
        code, resumed, _ = make(tmp_path, "resumed.jsonl")
    assert code == 130
    assert not resumed.exists()
    assert len((tmp_path / "resumed.jsonl.unfinished").read_text().splitlines()) == 7
    code, resumed, _ = make(tmp_path, "resumed.jsonl")
    assert code == Exit.OK
    assert resumed.read_bytes() == table.read_bytes()
    assert not (tmp_path / "resumed.jsonl.unfinished").exists()


def test_accepted_form_that_is_no_regex_is_refused(tmp_path: Path) -> None:
    """The accepted form is a regular expression."""
    code, _, output = make(tmp_path, "x.jsonl", "--accept", "(")
    assert code == Exit.USAGE
    assert "E243" in output
