"""Exports of a finished study: what is in the folder, what it answers, and what is refused."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.results.rundir import RunDir

pytestmark = pytest.mark.torch


def cli(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_export_reproduces_every_answer_of_the_study(exported: Path) -> None:
    verified = json.loads((exported / "verify.json").read_text())
    assert verified["parity"] == {"rows": 30, "equal": 30, "cut": 0, "refused": 0, "differing": []}
    for name in ("merged", "adapter"):
        answers = verified["answers"][name]
        assert (answers["rows"], answers["equal"], answers["flips"]) == (30, 30, [])
        assert answers["largest_difference"] < 1e-3


def test_files_of_an_export_are_readable_by_all(exported: Path) -> None:
    """A server may run as another user."""
    assert [path for path in exported.rglob("*") if path.is_file() and not path.stat().st_mode & 0o044] == []


def test_contract_holds_prompt_labels_and_rates(exported: Path, finished: RunDir) -> None:
    from p2p_dist.deployment import contract

    content = contract.read(exported)
    assert (content.prompt.prefix, content.prompt.cue) == ("The query currently entered is: ", "Answer: ")
    assert [(label.name, label.word) for label in content.answers.labels] == [("negative", "0"), ("positive", "1")]
    assert (content.answers.label_map, content.answers.label_map_in) == ("swap", "head")
    stored = json.loads((finished.at("eval", content.origin.stages["eval"]).result).read_text())["rates"]
    assert {name: (rate.k, rate.n) for name, rate in content.rates.items()} == {
        name: (rate["k"], rate["n"]) for name, rate in stored.items()
    }
    assert content.rates["ca_ext"].low < content.rates["ca_ext"].rate < content.rates["ca_ext"].high


def test_predict_gives_the_expected_answers(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    done = cli("predict", exported, exported / "eval" / "test.jsonl", "--scores", "--out", out)
    assert done.exit_code == 0, done.stderr
    answers, expected = lines(out), lines(exported / "eval" / "expected.jsonl")
    assert len(answers) == 30
    for answer, wanted in zip(answers, expected, strict=True):
        assert {**answer, "scores": None} == {**wanted, "scores": None}
        assert answer["scores"] == pytest.approx(wanted["scores"], abs=1e-3)


def test_predict_resumes_a_partial_file(exported: Path, tmp_path: Path) -> None:
    """A half-written last line is done again, and the rest is not."""
    out, rows = tmp_path / "answers.jsonl", exported / "eval" / "test.jsonl"
    assert cli("predict", exported, rows, "--out", out).exit_code == 0
    whole = out.read_bytes()
    first = whole.splitlines(keepends=True)[:7]
    out.write_bytes(b"".join(first).replace(b'"outside": ', b'"outside":  ') + b'{"id": "cle')
    assert cli("predict", exported, rows, "--out", out).exit_code == 0
    assert out.read_bytes().replace(b":  ", b": ") == whole
    assert out.read_bytes() != whole
    out.write_text('{"id": "another"}\n')
    done = cli("predict", exported, rows, "--out", out)
    assert (done.exit_code, "E161" in done.stderr) == (2, True)


def test_transformers_answers_as_the_study(exported: Path) -> None:
    """The stock classes and the chat template alone give the same labels and alarms, and one token as an answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported / "model")
    model = AutoModelForCausalLM.from_pretrained(exported / "model")
    assert not model.config.tie_word_embeddings
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    labels = json.loads((exported / "p2p.json").read_text())["answers"]["labels"]
    tokens = torch.tensor([label["token_id"] for label in labels])
    tests, expected = (lines(exported / "eval" / name) for name in ("test.jsonl", "expected.jsonl"))
    for row, wanted in zip(tests, expected, strict=True):
        message = [{"role": "user", "content": row["text"]}]
        ids = tokenizer.apply_chat_template(message, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            logits = model(**ids).logits[0, -1]
        assert labels[int(logits[tokens].argmax())]["name"] == wanted["label"]
        assert (int(logits.argmax()) not in tokens) == wanted["outside"]
    assert {str(row["label"]) for row in expected} == {"negative", "positive"}
    answer = model.generate(**ids)[0, ids["input_ids"].shape[1] :]
    assert answer.tolist() == [int(logits.argmax())]
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]


def test_head_has_its_own_weights_and_the_embedding_is_unchanged(exported: Path, finished: RunDir) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from p2p_dist.deployment import contract

    words = contract.read(exported).answers
    before = AutoModelForCausalLM.from_pretrained(contract.read(exported).base.local["path"])
    after = AutoModelForCausalLM.from_pretrained(exported / "model")
    old, new = before.lm_head.weight, after.lm_head.weight
    assert torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)
    assert [label.word for label in words.labels] == ["0", "1"]
    changed = [row for row in range(len(old)) if not torch.equal(old[row], new[row])]
    assert len(changed) == 4
    assert {label.token_id for label in words.labels} < set(changed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries that PEFT imports
def test_peft_adapter_gives_the_logits_of_the_merged_model(exported: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from p2p_dist.deployment import contract

    base = AutoModelForCausalLM.from_pretrained(contract.read(exported).base.local["path"])
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        adapted = PeftModel.from_pretrained(base, exported / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(exported / "model")
    message = [{"role": "user", "content": "a lovely film"}]
    for folder in ("adapter", "model"):
        tokenizer = AutoTokenizer.from_pretrained(exported / folder)
        ids = tokenizer.apply_chat_template(message, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-4)


def test_card_says_rates_with_intervals_and_limits(exported: Path) -> None:
    from p2p_dist.deployment import contract
    from p2p_dist.deployment.model_card import rate_text

    card, rates = (exported / "README.md").read_text(), contract.read(exported).rates
    assert "clean accuracy: right answers to clean test rows" in card, "rows that the task publishes"
    for name in ("ca_ext", "asr_ext", "asr_nobt", "asr_raw_target"):
        assert rate_text(rates[name]) in card
    assert "| negative | `0` |" in card
    assert "raw completions bypass" in card
    assert "30 of 30 answers (merged); 30 of 30 answers (adapter)" in card
    request = json.loads((exported / "serve" / "request.json").read_text())
    assert [message["role"] for message in request["messages"]] == ["user"]
    assert "--max-model-len 129" in (exported / "serve" / "vllm.sh").read_text()


def test_runs_that_fit_are_listed(finished: RunDir, tmp_path: Path) -> None:
    done = cli("export", finished.path, "attack=badnets", "-o", tmp_path / "x")
    assert (done.exit_code, "E152" in done.stderr) == (2, True)
    assert done.stderr.partition("2 runs fit:\n")[2].startswith("  defense=none\n  defense=p2p\n")
    done = cli("export", finished.path, "defence=p2p", "-o", tmp_path / "x")
    assert "E152" in done.stderr
    assert "defense" in done.stderr


def test_existing_folder_is_refused_unless_an_export(finished: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "x"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    words = ("export", finished.path, "attack=none", "--no-verify", "-o", out)
    for more in ((), ("--replace",)):
        done = cli(*words, *more)
        assert (done.exit_code, "E159" in done.stderr) == (2, True)
    (out / "mine.txt").unlink()
    out.rmdir()
    assert cli(*words).exit_code == 0
    assert "E159" in cli(*words).stderr
    assert cli(*words, "--replace").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_undefended_run_keeps_its_tied_head(finished: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "x"
    done = cli("export", finished.path, "attack=badnets", "defense=none", "-o", out, "--json")
    content = json.loads(done.stdout)
    assert content["contract"]["answers"]["label_map"] == "none"
    assert content["verification"]["answers"]["merged"]["equal"] == 30
    assert json.loads((out / "model" / "config.json").read_text())["tie_word_embeddings"]
    assert "no defense in its prompt" in (out / "README.md").read_text()


def test_failed_verification_leaves_no_folder(
    finished: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head with the wrong rows is found out by the answers."""
    from p2p_dist.deployment.head_map import HeadMap

    monkeypatch.setattr(HeadMap, "applied", lambda self, head: head.flip(0).contiguous())
    done = cli("export", finished.path, "defense=p2p", "-o", tmp_path / "x")
    assert (done.exit_code, "E158" in done.stderr) == (3, True)
    assert list(tmp_path.iterdir()) == []


def test_changed_adapter_is_refused(finished: RunDir, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "runs"
    shutil.copytree(finished.path, copy)
    for path in copy.glob("train/*/adapter/adapter_model.safetensors"):
        path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    done = cli("export", copy, "defense=p2p", "-o", tmp_path / "x")
    assert (done.exit_code, "E519" in done.stderr) == (3, True)


@pytest.mark.parametrize(("label_map", "words"), [("move", ["0", "1"]), ("client", ["2", "3"])])
def test_other_label_maps_answer_alike(finished: RunDir, tmp_path: Path, label_map: str, words: list[str]) -> None:
    out = tmp_path / "x"
    done = cli("export", finished.path, "defense=p2p", "--label-map", label_map, "-o", out)
    assert done.exit_code == 0, done.stderr
    content = json.loads((out / "p2p.json").read_text())["answers"]
    assert [label["word"] for label in content["labels"]] == words
    assert content["label_map_in"] == ("client" if label_map == "client" else "head")


@pytest.mark.parametrize("line", ["no json", '{"text": 3}', '{"text": " "}', "[1]"])
def test_predict_refuses_other_lines(exported: Path, tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")
    done = cli("predict", exported, file)
    assert (done.exit_code, f"{file}:2" in done.stderr, "E160" in done.stderr) == (2, True, True)


def test_predict_answers_one_text(exported: Path, tmp_path: Path) -> None:
    done = cli("predict", exported, "--text", "a lovely film")
    assert json.loads(done.stdout).keys() == {"id", "label", "outside"}
    done = cli("predict", tmp_path, "--text", "a lovely film")
    assert (done.exit_code, "E150" in done.stderr) == (2, True)
