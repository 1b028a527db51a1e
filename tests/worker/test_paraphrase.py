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


def test_a_model_rewrites_and_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, whole, said = make(tmp_path, "whole.jsonl")
    assert code == Exit.OK, said
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    assert {row["key"] for row in rows} == {key_of(text) for text in TEXTS}
    good = sum(row["ok"] for row in rows)
    assert f"{good} rewrites, {10 - good} failed" in said
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
        code, half, _ = make(tmp_path, "half.jsonl")
    assert code == 130
    assert not half.exists()
    assert len((tmp_path / "half.jsonl.unfinished").read_text().splitlines()) == 7
    code, half, _ = make(tmp_path, "half.jsonl")
    assert code == Exit.OK
    assert half.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "half.jsonl.unfinished").exists()


def test_a_form_that_is_no_expression(tmp_path: Path) -> None:
    code, _, said = make(tmp_path, "x.jsonl", "--accept", "(")
    assert code == Exit.USAGE
    assert "E243" in said
