"""Files beside the model that other programs read: scripts that serve it, a request, test rows and their answers."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from p2p_dist.data.built import Suite
from p2p_dist.deployment.contract import Contract
from p2p_dist.deployment.finished_run import FinishedRun
from p2p_dist.deployment.reading import Reading, read_answer
from p2p_dist.results import predictions
from p2p_dist.results.predictions import Generated

_SCRIPT = """#!/bin/sh
# {title}
# Listens on this machine only. A prompt that is sent without the chat template (/v1/completions) bypasses the defense.
here=$(cd "$(dirname "$0")/.." && pwd)
{command} "$@"
"""


def write_serve(folder: Path, contract: Contract, sample: str) -> None:
    """Write `serve/`: scripts for vLLM and transformers, and a request for either."""
    folder.mkdir()
    longest = contract.prompt.max_length + contract.answers.max_new_tokens
    if "merged" in contract.formats:
        vllm = f'exec vllm serve "$here/model" --served-model-name p2p --host 127.0.0.1 --max-model-len {longest}'
        _script(folder / "vllm.sh", "vLLM, OpenAI-compatible, port 8000", vllm)
        transformers = 'exec transformers serve "$here/model" --host 127.0.0.1 --port 8000'
        _script(folder / "transformers.sh", "transformers serve, OpenAI-compatible, port 8000", transformers)
    else:
        base = contract.base.identity
        name = str(base.get("ref") or contract.base.local.get("path", "BASE"))
        revision = f" --revision {shlex.quote(str(base['revision']))}" if base.get("revision") else ""
        vllm = (
            f"exec vllm serve {shlex.quote(name)}{revision} --enable-lora --max-lora-rank {_ranks(folder)} "
            f'--lora-modules p2p="$here/adapter" --tokenizer "$here/adapter" '
            f'--chat-template "$here/adapter/chat_template.jinja" --host 127.0.0.1 --max-model-len {longest}'
        )
        _script(folder / "vllm.sh", "vLLM with the adapter on its base, OpenAI-compatible, port 8000", vllm)
    request = {
        "model": "p2p",
        "messages": [{"role": "user", "content": sample}],
        "temperature": 0,
        "max_tokens": contract.answers.max_new_tokens,
    }
    if contract.answers.label_map == "client":
        words = [label.word for label in contract.answers.labels]
        request["structured_outputs"] = {"choice": words}
    _write(folder / "request.json", json.dumps(request, indent=1, ensure_ascii=False) + "\n")


def write_eval(folder: Path, contract: Contract, run: FinishedRun, suites: Mapping[str, Suite]) -> None:
    """Write `eval/`: test rows of the study, and its answers to them as `predict --scores` writes them."""
    folder.mkdir()
    source = run.folder.at("eval", run.evaluation.id)
    tests, expected = [], []
    for name, suite in suites.items():
        for row in suite.rows:
            gold = row.response if row.response is not None else contract.answers.labels[row.label].name
            tests.append({"id": f"{name}/{row.id}", "suite": name, "text": row.text, "label": gold})
        ids = {row.id for row in suite.rows}
        if contract.answers.kind == "generation":
            texts = predictions.read_generated(source, [name])[name]
            expected += [text_line(f"{name}/{line.id}", line) for line in texts if line.id in ids]
        else:
            scored = predictions.read(source, [name])[name]
            expected += [
                answer_line(f"{name}/{line.id}", read_answer(line, run.says), contract, True)
                for line in scored
                if line.id in ids
            ]
    for file, lines in (("test.jsonl", tests), ("expected.jsonl", expected)):
        _write(folder / file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def answer_line(id_: str, reading: Reading, contract: Contract, scores: bool) -> dict[str, object]:
    """One answer as a line of `predict`: class, alarm, and log-probabilities by class on request."""
    names = [label.name for label in contract.answers.labels]
    line: dict[str, object] = {"id": id_, "label": names[reading.label], "outside": reading.outside}
    return line | ({"scores": dict(zip(names, reading.scores, strict=True))} if scores else {})


def text_line(id_: str, answer: Generated) -> dict[str, object]:
    """One text answer as a line of `predict`."""
    return {"id": id_, "text": answer.text, "finished": answer.finished}


def _ranks(serve: Path) -> int:
    """Rank of the exported adapter, rounded up to one that vLLM takes."""
    config = json.loads((serve.parent / "adapter" / "adapter_config.json").read_bytes())
    return next(rank for rank in (8, 16, 32, 64, 128, 256, 320, 512, 1024) if rank >= config["r"])


def _script(path: Path, title: str, command: str) -> None:
    _write(path, _SCRIPT.format(title=title, command=command))
    path.chmod(0o755)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
