"""Join what two clusters did of one study: stages that only one has are copied, and where both have a stage with
different content, both are kept side by side and neither is chosen."""

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
    """What one `add` did: stages copied, found equal, and in conflict; and results that were left where they are."""

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
    """Copy into `target` what `source` has and it has not. Nothing that is in `target` changes; killed and run again,
    it ends the same. The caller holds the target's lease.

    Raises UserError E402 when the source is no study, E511 when the two are different studies.
    """
    theirs = read_resolved(source)
    ours = read_resolved(target) if target.resolved.is_file() else None
    if ours and ours["name"] != theirs["name"]:
        what = f"{ours['name']!r} and {theirs['name']!r} are different studies"
        raise user_error(
            "E511", what, str(source.path), "`p2p-dist query` and `p2p-dist compare` look at different studies together"
        )
    done = Merged()
    for stage in _stages(source):
        _add_stage(stage, target.at(stage.kind, stage.path.name), done)
    atomic.write_json(target.resolved, _union(ours, theirs) if ours else theirs)
    found = [launch for folder in (target, source) for launch in provenance.launches(folder)]
    unique = {json.dumps(launch, sort_keys=True): launch for launch in found}
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
    if source.kind == "eval" and isinstance(found := resultfile.read(source), Problem):
        done.left_out.append(found)
    elif not source.is_done() or not target.is_done():
        if _copy(source, target):
            done.added.append(name)
    elif (theirs := _content(source.marker)) == _content(target.marker):
        done.equal.append(name)
    else:
        beside = target.marker.with_name(f"{target.marker.name}.conflict-{theirs[:8]}")
        if not beside.exists():
            _copy_part(source.marker, beside)
        fix = "keep one of them: delete the other, and rename the one that stays if it is the second"
        done.conflicts.append(
            Problem(
                "E507",
                f"{name}: two different contents for one id, {target.marker.name} and {beside.name}",
                str(target.marker),
                fix,
            )
        )


def _copy(source: StageDir, target: StageDir) -> bool:
    """Copy what the target lacks, the marker last. Returns whether the stage is done by it."""
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
    """A file or a folder, that appears whole."""
    if source.is_dir():
        with atomic.new_folder(target) as half:
            shutil.copytree(source, half, dirs_exist_ok=True)
    else:
        atomic.write_bytes(target, source.read_bytes())


def _content(path: Path) -> str:
    """A digest of a file, or of all files of a folder."""
    if path.is_dir():
        return atomic.digest_of(sorted(file for file in path.rglob("*") if file.is_file()), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _union(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Runs and stages of both, ours first."""
    runs = {run["eval"]: run for run in [*theirs["runs"], *ours["runs"]]}
    stages = {stage["id"]: stage for stage in [*theirs["stages"], *ours["stages"]]}
    order = [*(run["eval"] for run in ours["runs"]), *(run["eval"] for run in theirs["runs"])]
    return {
        **theirs,
        **ours,
        "models": {**theirs.get("models", {}), **ours.get("models", {})},
        "runs": [runs[id_] for id_ in dict.fromkeys(order)],
        "stages": list(stages.values()),
    }
