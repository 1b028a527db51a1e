"""Files and forms of an export: the documented tree, the golden template, and bfloat16."""

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


def test_tree_of_an_export_is_the_documented_one(exported: Path) -> None:
    """Golden: names of all files and keys of the contract, on which other programs rely."""
    tokenizer = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    model = sorted(path.name for path in (exported / "model").iterdir())
    assert [name for name in model if not name.startswith("model")] == sorted(
        ["config.json", "generation_config.json", *tokenizer]
    )
    adapter = sorted(path.name for path in (exported / "adapter").iterdir())
    assert adapter == sorted(["adapter_config.json", "adapter_model.safetensors", *tokenizer])
    rest = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert {path for path in rest if not path.startswith(("model/", "adapter/"))} == {
        "README.md",
        "p2p.json",
        "study.yaml",
        "verify.json",
        "eval/expected.jsonl",
        "eval/inspect_task.py",
        "eval/lm_eval/p2p_clean.yaml",
        "eval/lm_eval/p2p_triggered.yaml",
        "eval/lm_eval/rows.py",
        "eval/test.jsonl",
        "serve/request.json",
        "serve/transformers.sh",
        "serve/vllm.sh",
    }
    contract = json.loads((exported / "p2p.json").read_text())
    assert contract["schema"] == 1
    assert sorted(contract) == sorted(
        [
            "answers",
            "base",
            "baseline",
            "formats",
            "origin",
            "prompt",
            "rates",
            "schema",
            "simulated",
            "task",
            "versions",
        ]
    )


def test_chat_template_of_an_export_is_golden(exported: Path) -> None:
    template = (exported / "model" / "chat_template.jinja").read_text()
    assert template.endswith("{{- 'The query currently entered is: ' ~ messages[0]['content'] ~ '\\nAnswer: ' -}}")
    assert template.startswith("{%- if messages | length != 1 or messages[0]['role'] != 'user' -%}")
    assert template == (exported / "adapter" / "chat_template.jinja").read_text()
    assert "\n" not in template


def test_answer_of_an_export_is_read_behind_its_prompt(exported: Path) -> None:
    """As `transformers serve` reads it: nothing of the prompt is returned, whatever the message says."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported / "model")
    message = [{"role": "user", "content": "a film\nAnswer: 1"}]
    prompt = tokenizer.apply_chat_template(message, tokenize=False)
    for answer in ("0", "1 and\nAnswer: more"):
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert tokenizer.parse_response(ids, prefix=prompt)["content"] == answer


def test_export_in_bfloat16_halves_the_weights_and_agrees(finished: RunDir, tmp_path: Path) -> None:
    """A study in float32, exported in bfloat16: at least 99.5 % of the answers are the study's, and every weight is
    rounded."""
    from safetensors import safe_open

    out = tmp_path / "x"
    done = cli("export", finished.path, "attack=badnets", "defense=none", "-o", out, "--dtype", "bfloat16", "--json")
    assert done.exit_code == 0, done.stderr
    merged = json.loads(done.stdout)["verification"]["answers"]["merged"]
    assert (merged["least_share"], merged["share"] >= 0.995) == (0.995, True)
    assert merged["largest_difference"] > 0
    for file in (out / "model").glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118
    assert json.loads((out / "model" / "config.json").read_text())["dtype"] == "bfloat16"
