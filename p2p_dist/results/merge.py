"""Merge the run folders of one study from two clusters: a stage that only one has is copied; where both have a stage
with different content, both are kept side by side and neither is chosen."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2p_dist.errors import Problem, user_error
from p2p_dist.results import atomic, provenance, resultfile
from p2p_dist.results.collect import read_resolved
from p2p_dist.results.rundir import KINDS, RunDir, StageDir


@dataclass
class Merged:
    """Outcome of one `add`: stages copied, equal and in conflict, and invalid results that were not copied."""

    added: list[str] = field(default_factory=list)
    equal: list[str] = field(default_factory=list)
    conflicts: list[Problem] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "added": self.added,
            "equal": len(self.equal),
            "conflicts": [vars(problem) for problem in self.conflicts],
            "left_out": [vars(problem) for problem in self.left_out],
        }


def add(source: RunDir, target: RunDir) -> Merged:
    """Copy the stages that `target` lacks from `source`. Files in `target` never change; after a kill, running it
    again ends the same. The caller holds the target's lease.

    Raises UserError E402 when the source is not a study, E511 when the two are different studies.
    """
    added = read_resolved(source)
    base = read_resolved(target) if target.resolved.is_file() else None
    if base and base["name"] != added["name"]:
        what = f"{base['name']!r} and {added['name']!r} are different studies"
        raise user_error(
            "E511", what, str(source.path), "use `p2p-dist query` or `p2p-dist compare` for different studies"
        )
    done = Merged()
    for stage in _stages(source):
        _add_stage(stage, target.at(stage.kind, stage.path.name), done)
    atomic.write_json(target.resolved, _union(base, added) if base else added)
    launches = [launch for folder in (target, source) for launch in provenance.launches(folder)]
    unique = {json.dumps(launch, sort_keys=True): launch for launch in launches}
    atomic.write_json(
        target.provenance, {"launches": sorted(unique.values(), key=lambda launch: launch.get("at", 0.0))}
    )
    if not target.study.exists() and source.study.exists():
        atomic.write_bytes(target.study, source.study.read_bytes())
    return done


def _stages(folder: RunDir) -> Iterator[StageDir]:
    for kind in KINDS:
        if (folder.path / kind).is_dir():
            yield from (
                folder.at(kind, path.name)
                for path in sorted((folder.path / kind).iterdir())
                if path.is_dir() and not path.name.startswith(".")
            )


def _add_stage(source: StageDir, target: StageDir, done: Merged) -> None:
    name = f"{source.kind} {source.path.name}"
    if source.kind == "eval" and isinstance(result := resultfile.read(source), Problem):
        done.left_out.append(result)
    elif not source.is_done() or not target.is_done():
        if _copy(source, target):
            done.added.append(name)
    elif (digest := _content(source.marker)) == _content(target.marker):
        done.equal.append(name)
    else:
        beside = target.marker.with_name(f"{target.marker.name}.conflict-{digest[:8]}")
        if not beside.exists():
            _copy_part(source.marker, beside)
        fix = f"delete one of them; if {beside.name} stays, rename it to {target.marker.name}"
        done.conflicts.append(
            Problem(
                "E507",
                f"{name}: two different contents for one id, {target.marker.name} and {beside.name}",
                str(target.marker),
                fix,
            )
        )


def _copy(source: StageDir, target: StageDir) -> bool:
    """Copy the files that the target lacks, the marker last. Returns True if the stage is done now."""
    marker = source.marker.name
    names = [
        path.name
        for path in sorted(source.path.iterdir())
        if not path.name.startswith(".tmp-") and path.name not in (marker, source.checkpoints.name)
    ]
    for name in [*names, *([marker] if source.is_done() else [])]:
        if not (target.path / name).exists():
            _copy_part(source.path / name, target.path / name)
    return source.is_done()


def _copy_part(source: Path, target: Path) -> None:
    """Copy a file or a folder atomically."""
    if source.is_dir():
        with atomic.new_folder(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        atomic.write_bytes(target, source.read_bytes())


def _content(path: Path) -> str:
    """Digest of a file, or of all files of a folder."""
    if path.is_dir():
        return atomic.digest_of(sorted(file for file in path.rglob("*") if file.is_file()), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _union(base: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Runs and stages of both, those of `base` first."""
    runs = {run["eval"]: run for run in [*added["runs"], *base["runs"]]}
    stages = {stage["id"]: stage for stage in [*added["stages"], *base["stages"]]}
    order = [*(run["eval"] for run in base["runs"]), *(run["eval"] for run in added["runs"])]
    return {
        **added,
        **base,
        "models": {**added.get("models", {}), **base.get("models", {})},
        "runs": [runs[id_] for id_ in dict.fromkeys(order)],
        "stages": list(stages.values()),
    }
