"""Preparation before any worker starts: fetch assets, rows and weights; write the study down."""

import os
import platform
import sys
import time
from pathlib import Path

from rich.console import Console

from p2p_dist import assets
from p2p_dist.config.identity import canonical
from p2p_dist.config.model import ModelRef
from p2p_dist.data import sources
from p2p_dist.errors import user_error
from p2p_dist.model_files.check import check_folder
from p2p_dist.planning.plan import Plan
from p2p_dist.results import atomic, confined, lease, quarantine, resolved
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.provenance import code_digest, launches, versions
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.other_settings import refuse_other_settings
from p2p_dist.scheduling.study import Study

SETUP = "P2P_DIST_SETUP"
"""Environment of a controller in a Slurm job: the setup file that was sourced before it."""
_WEIGHTS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def fetch(study: Study, plan: Plan, console: Console) -> None:
    """Fetch what the remaining jobs need and this machine lacks, so that errors come early and ranks do not all
    download at once. Raises UserError E115 and E119."""
    assets_needed = [source.place for source in study.sources if source.kind == "embedded"]
    assets_needed += [
        model.local["asset"] for model in (*study.spec.model, *study.extra_models) if "asset" in model.local
    ]
    for name in dict.fromkeys(assets_needed):
        assets.fetch(name, console.print)
    for task, source in zip(study.spec.task, study.sources, strict=True):
        if source.kind == "hub":
            sources.read(task, source)
    for model in (*study.spec.model, *study.extra_models):
        if model.identity["source"] == "hub" and canonical(model.identity) in plan.models:
            _fetch_model(model)


def _fetch_model(model: ModelRef) -> None:
    """Download weights and tokenizer of one commit into the hub's cache, without formats that can run code, and check
    them. Raises UserError E115 where the model is not pinned, E119, or as `check_folder` does."""
    from huggingface_hub import snapshot_download

    ref, revision = model.identity["ref"], model.identity["revision"]
    if revision is None:
        fix = f"write {model.name}@<40-digit commit>, so that the name always means the same weights"
        raise user_error("E115", f"{model.name} is not pinned to a commit of {ref}", "model", fix)
    try:
        folder = Path(snapshot_download(ref, revision=revision, allow_patterns=_WEIGHTS))
    except (OSError, ValueError) as error:
        fix = "check the name, the licence and the network, or download the model and name its folder"
        raise user_error("E119", f"cannot fetch model {ref}: {str(error).splitlines()[0]}", "model", fix) from error
    if (folder / "config.json").is_file() and not list(folder.glob("*.safetensors")):
        what = f"{ref} has no weights in safetensors at commit {revision}; pickle files (.bin) can run code"
        raise user_error("E272", what, "model", "choose a commit or a copy with safetensors")
    check_folder(folder, model.identity.get("allow_missing", ()))


def write_down(study: Study) -> None:
    """Write the study into its run folder: its file with overrides, its resolved runs and stages, every stage's spec,
    and this launch."""
    folder = study.folder
    atomic.write_bytes(folder.study, study.document.text)
    atomic.write_json(folder.resolved, _resolved(study))
    folder.write_specs(study.expansion.graph)
    atomic.write_json(folder.provenance, {"launches": [*launches(folder), provenance()]})


def close_to_others(folder: RunDir) -> None:
    """Make a run folder and all that this process and its workers write from now on readable for their user alone.
    Raises UserError E518 where the folder belongs to somebody else."""
    os.umask(0o077)
    with confined.writing(folder.path) as handle:
        os.fchmod(handle, 0o700)


def clear(folder: RunDir) -> None:
    """Remove unfinished files and folders of killed writers. Needs the study alone: what another controller is writing
    looks the same."""
    quarantine.clear(folder.quarantine)
    for leftover in [path for path in folder.leftovers() if "lease" not in path.name]:
        match confined.kind_of(leftover):
            case "file":
                confined.remove(leftover)
            case "folder":
                confined.remove_folder(leftover)


def settle(study: Study, replace: bool) -> None:
    """Write a study down of which nothing is left to do, so that the report shows the grid that is asked for now.

    Raises UserError E406 when another controller has the study, E407 as `refuse_other_settings`.
    """
    if not _is_current(study):
        with lease.hold(study.folder.lease):
            refuse_other_settings(study, replace)
            write_down(study)


def _is_current(study: Study) -> bool:
    """True if `resolved.json` is what this study resolves to."""
    try:
        return resolved.read_bytes(study.folder) == atomic.to_json(_resolved(study))
    except (OSError, Damaged):
        return False


def _resolved(study: Study) -> dict[str, object]:
    """Content of `resolved.json`."""
    expansion = study.expansion
    return {
        "name": study.spec.name,
        "description": study.spec.description,
        "runs": [run.to_json() for run in expansion.runs],
        **({"left_out": [one.to_json() for one in expansion.left_out]} if expansion.left_out else {}),
        "models": {
            model.name: {"parameters": model.shape.parameters if model.shape else None} for model in study.spec.model
        },
        "stages": [stage.to_json() for stage in expansion.graph.stages.values()],
    }


def provenance() -> dict[str, object]:
    """Command, host, versions, code digest and setup file of this launch."""
    command = ["p2p-dist", *sys.argv[1:]]
    setup = os.environ.get(SETUP)
    return {
        **({"setup": {"path": setup, "content": Path(setup).read_text()}} if setup else {}),
        "command": command,
        "host": platform.node(),
        "pid": os.getpid(),
        "at": round(time.time(), 3),
        "versions": versions(),
        "code": code_digest(),
    }
