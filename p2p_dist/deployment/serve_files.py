"""Folder `serve/` of an export: scripts that serve the model with vLLM and transformers, and a request."""

import json
import shlex
from pathlib import Path

from p2p_dist.data.example import Row
from p2p_dist.deployment.answers import messages_of
from p2p_dist.deployment.contract import Contract

MERGED = "model"
"""Name of the merged model in requests: `transformers serve` takes no other than the path it was started with."""
ADAPTER = "p2p"
"""Name of the adapter in requests, and a second name of the merged model for vLLM."""
_SCRIPT = """#!/bin/sh
# {title}
# Listens on this machine only. A prompt that is sent without the chat template (/v1/completions) bypasses the defense.
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit
{command} "$@"
"""


def write_serve(folder: Path, contract: Contract, sample: Row) -> None:
    """Write `serve/`: scripts for vLLM and transformers, and a request for either that asks about the row `sample`."""
    folder.mkdir()
    longest = contract.prompt.max_length + contract.answers.max_new_tokens
    # vLLM would compute a model in float32 in half of the bits.
    common = f"--dtype {contract.base.dtype} --host 127.0.0.1 --max-model-len {longest}"
    if "merged" in contract.formats:
        vllm = f'exec vllm serve "$here/model" --served-model-name {ADAPTER} {MERGED} {common}'
        _script(folder / "vllm.sh", "vLLM, OpenAI-compatible, port 8000", vllm)
        transformers = f"exec transformers serve {MERGED} --host 127.0.0.1 --port 8000"
        _script(folder / "transformers.sh", "transformers serve, OpenAI-compatible, port 8000", transformers)
    else:
        base = contract.base.identity
        name = str(base.get("ref") or contract.base.local.get("path", "BASE"))
        revision = f" --revision {shlex.quote(str(base['revision']))}" if base.get("revision") else ""
        vllm = (
            f"exec vllm serve {shlex.quote(name)}{revision} --enable-lora --max-lora-rank {_ranks(folder)} "
            f'--lora-modules {ADAPTER}="$here/adapter" --tokenizer "$here/adapter" '
            f'--chat-template "$here/adapter/chat_template.jinja" {common}'
        )
        _script(folder / "vllm.sh", "vLLM with the adapter on its base, OpenAI-compatible, port 8000", vllm)
    request = {
        "model": MERGED if "merged" in contract.formats else ADAPTER,
        "messages": messages_of(sample),
        "temperature": 0,
        "max_tokens": contract.answers.max_new_tokens,
    }
    if contract.answers.label_map == "client":
        words = [label.word for label in contract.answers.labels]
        request["structured_outputs"] = {"choice": words}
    _write(folder / "request.json", json.dumps(request, indent=1, ensure_ascii=False) + "\n")


def _ranks(serve: Path) -> int:
    """Rank of the exported adapter, rounded up to one that vLLM takes."""
    config = json.loads((serve.parent / "adapter" / "adapter_config.json").read_bytes())
    return next(rank for rank in (8, 16, 32, 64, 128, 256, 320, 512, 1024) if rank >= config["r"])


def _script(path: Path, title: str, command: str) -> None:
    _write(path, _SCRIPT.format(title=title, command=command))
    path.chmod(0o755)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
