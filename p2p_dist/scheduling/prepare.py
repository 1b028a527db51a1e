"""What has to be here before anything is started: assets, rows and weights from the hub, and the study's own files."""

import os
import platform
import sys
import time
from pathlib import Path

from rich.console import Console

from p2p_dist import assets
from p2p_dist.config.identity import canonical
from p2p_dist.data import sources
from p2p_dist.errors import user_error
from p2p_dist.planning.plan import Plan
from p2p_dist.results import atomic, lease
from p2p_dist.results.provenance import code_digest, launches, versions
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.study import Study

_WEIGHTS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def fetch(study: Study, plan: Plan, console: Console) -> None:
    """Fetch what this machine lacks for the jobs that are left, so that errors come early and ranks do not all fetch at
    once. Raises UserError E119."""
    wanted = [source.place for source in study.sources if source.kind == "embedded"]
    wanted += [model.local["asset"] for model in (*study.spec.model, *study.extra_models) if "asset" in model.local]
    for name in dict.fromkeys(wanted):
        assets.fetch(name, console.print)
    for task, source in zip(study.spec.task, study.sources, strict=True):
        if source.kind == "hub":
            sources.read(task, source)
    for model in (*study.spec.model, *study.extra_models):
        if model.identity["source"] == "hub" and canonical(model.identity) in plan.models:
            _fetch_model(model.identity["ref"], model.identity["revision"])


def _fetch_model(ref: str, revision: str) -> None:
    """Weights and tokenizer of one commit into the hub's cache; formats that run code are left where they are."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(ref, revision=revision, allow_patterns=_WEIGHTS)
    except (OSError, ValueError) as error:
        fix = "check the name, the licence and the network, or download the model and name its folder"
        raise user_error("E119", f"cannot fetch model {ref}: {str(error).splitlines()[0]}", "model", fix) from error


def write_down(study: Study, path: Path) -> None:
    """Write what the study is: its file, its resolved runs and stages, every stage's spec, and this launch."""
    folder = study.folder
    atomic.write_bytes(folder.study, path.read_bytes())
    atomic.write_json(folder.resolved, _resolved(study))
    folder.write_specs(study.expansion.graph)
    atomic.write_json(folder.provenance, {"launches": [*launches(folder), provenance()]})


def clear(folder: RunDir) -> None:
    """Remove what killed writers left half done. Only for who has the study alone: what another one writes looks the
    same."""
    for leftover in folder.leftovers():
        if leftover.is_file() and "lease" not in leftover.name:
            leftover.unlink(missing_ok=True)


def settle(study: Study, path: Path) -> None:
    """Where nothing is left to do: let the folder say what is asked for now, which may be another part of the grid than
    what was run last, so that the report is of that. Raises UserError E406 when another controller has the study."""
    if not study.folder.resolved.is_file() or study.folder.resolved.read_bytes() != atomic.to_json(_resolved(study)):
        with lease.hold(study.folder.lease):
            write_down(study, path)


def _resolved(study: Study) -> dict[str, object]:
    """What `resolved.json` holds."""
    expansion = study.expansion
    return {
        "name": study.spec.name,
        "description": study.spec.description,
        "runs": [run.to_json() for run in expansion.runs],
        "models": {
            model.name: {"parameters": model.shape.parameters if model.shape else None} for model in study.spec.model
        },
        "stages": [stage.to_json() for stage in expansion.graph.stages.values()],
    }


def provenance() -> dict[str, object]:
    """Where and with what this process runs. Captured once per launch."""
    command = ["p2p-dist", *sys.argv[1:]]
    return {
        "command": command,
        "host": platform.node(),
        "pid": os.getpid(),
        "at": round(time.time(), 3),
        "versions": versions(),
        "code": code_digest(),
    }
