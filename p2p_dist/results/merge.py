"""Merge the run folders of one study from two clusters: a stage that only one has is copied; where both have a stage
with different content, both are kept side by side and neither is chosen."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2p_dist.errors import Exit, Problem, UserError, user_error
from p2p_dist.results import atomic, checksums, confined, provenance, resultfile
from p2p_dist.results.resolved import read_resolved
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

    Raises UserError E402 when the source is not a study, E511 when the two are different studies, E523 when the source
    has links or special files.
    """
    _refuse_links(source)
    added = read_resolved(source)
    base = read_resolved(target) if confined.kind_of(target.resolved) != "missing" else None
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
    if confined.kind_of(target.study) == "missing" and confined.kind_of(source.study) == "file":
        atomic.write_bytes(target.study, confined.read_bytes(source.study))
    return done


def _refuse_links(folder: RunDir) -> None:
    """Refuse an input with links or special files. Raises UserError E523."""
    what, fix = "neither a file nor a folder; links are never followed", "replace it by what it leads to, or remove it"
    if strange := confined.not_plain(folder.path):
        raise UserError(*(Problem("E523", what, str(path), fix) for path in strange), exit_code=Exit.INTEGRITY)


def _stages(folder: RunDir) -> Iterator[StageDir]:
    for kind in KINDS:
        for name in confined.names(folder.path / kind):
            if not name.startswith(".") and confined.kind_of(folder.path / kind / name) == "folder":
                yield folder.at(kind, name)


def _add_stage(source: StageDir, target: StageDir, done: Merged) -> None:
    name = f"{source.kind} {source.path.name}"
    if (problem := _unusable(source)) is not None:
        done.left_out.append(problem)
    elif not source.is_done() or not target.is_done():
        if _copy(source, target):
            done.added.append(name)
    elif (digest := _content(source.marker)) == _content(target.marker):
        done.equal.append(name)
    else:
        beside = target.marker.with_name(f"{target.marker.name}.conflict-{digest[:8]}")
        sums = target.checksums.with_name(f"{target.checksums.name}.conflict-{digest[:8]}")
        for original, copy in ((source.checksums, sums), (source.marker, beside)):
            if confined.kind_of(original) != "missing" and confined.kind_of(copy) == "missing":
                _copy_part(original, copy)
        fix = (
            f"delete one of them; if {beside.name} stays, rename it to {target.marker.name}, and {sums.name} to "
            f"{target.checksums.name}"
        )
        done.conflicts.append(
            Problem(
                "E507",
                f"{name}: two different contents for one id, {target.marker.name} and {beside.name}",
                str(target.marker),
                fix,
            )
        )


def _unusable(stage: StageDir) -> Problem | None:
    """Reason why a stage is not copied: its result is invalid, or its files are not what it wrote."""
    if stage.has_damaged_marker():
        return resultfile.not_a_marker(stage)
    if stage.kind == "eval" and isinstance(result := resultfile.read(stage), Problem):
        return result
    return checksums.problem(stage) if stage.is_done() else None


def _copy(source: StageDir, target: StageDir) -> bool:
    """Copy the files that the target lacks, the marker last and its checksums before it. Returns True if the stage is
    done now."""
    if target.is_done():
        return False
    last = [source.checksums.name, source.marker.name]
    names = [
        name
        for name in confined.names(source.path)
        if not name.startswith(".tmp-") and name not in (*last, source.checkpoints.name)
    ]
    for name in names:
        if confined.kind_of(target.path / name) == "missing":
            _copy_part(source.path / name, target.path / name)
    if source.is_done():
        for name in last:  # the checksums of an unfinished attempt in the target are replaced
            if confined.kind_of(source.path / name) != "missing":
                _copy_part(source.path / name, target.path / name)
    return source.is_done()


def _copy_part(source: Path, target: Path) -> None:
    """Copy a file or a folder atomically."""
    if confined.kind_of(source) == "folder":
        with atomic.new_folder(target) as folder:
            shutil.copytree(source, folder, symlinks=True, dirs_exist_ok=True)
        return
    with confined.open_file(source) as file:
        atomic.write_lines(target, iter(lambda: file.read(1 << 20), b""))


def _content(path: Path) -> str:
    """Digest of a file, or of all files of a folder."""
    if confined.kind_of(path) == "folder":
        return atomic.digest_of(sorted(file for file in path.rglob("*") if file.is_file()), path)
    return checksums.sha256_of(path)


def _union(base: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Runs and stages of both, those of `base` first."""
    runs = {run["eval"]: run for run in [*added["runs"], *base["runs"]]}
    stages = {stage["id"]: stage for stage in [*added["stages"], *base["stages"]]}
    order = [*(run["eval"] for run in base["runs"]), *(run["eval"] for run in added["runs"])]
    cells = [run["cell"] for run in runs.values()]
    left_out = [one for one in (base if "left_out" in base else added).get("left_out", []) if one["cell"] not in cells]
    return {
        **added,
        **base,
        **({"left_out": left_out} if "left_out" in base or "left_out" in added else {}),
        "models": {**added.get("models", {}), **base.get("models", {})},
        "runs": [runs[id_] for id_ in dict.fromkeys(order)],
        "stages": list(stages.values()),
    }
