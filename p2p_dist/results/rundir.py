"""The run folder. Only this file spells the names in it; status is read off what exists and kept nowhere else."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.results import atomic

MARKERS = {
    "data": "manifest.json",
    "edit": "manifest.json",
    "train": "adapter",
    "score": "scores.jsonl",
    "eval": "result.json",
}
"""By kind of stage: what is written last in the stage's folder."""
KINDS = tuple(MARKERS)
"""Kinds of stages; each has a folder."""
_ATTEMPT = re.compile(r"^\d\d+$")


@dataclass(frozen=True)
class StageDir:
    """The folder of one stage: `runs/<study>/<kind>/<id>/`."""

    path: Path
    kind: str

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def manifest(self) -> Path:
        """Of a data or edit stage; written last."""
        return self.path / MARKERS["data"]

    @property
    def adapter(self) -> Path:
        """Of a train stage; PEFT's own format; appears whole."""
        return self.path / MARKERS["train"]

    @property
    def checkpoints(self) -> Path:
        """Of a train stage that is under way; gone once the adapter is there."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Progress, a JSON line per step."""
        return self.path / "metrics.jsonl"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def result(self) -> Path:
        """Of an eval stage; written last and never changed."""
        return self.path / MARKERS["eval"]

    @property
    def scores(self) -> Path:
        """Of a score stage; numbers by row, written last."""
        return self.path / MARKERS["score"]

    @property
    def cost(self) -> Path:
        """What the stage took on this machine: seconds, tokens, versions. Not part of the result."""
        return self.path / "cost.json"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    @property
    def marker(self) -> Path:
        """What is written last, so that its being there means that the stage is done."""
        return self.path / MARKERS[self.kind]

    @property
    def lease(self) -> Path:
        """Of a job that many controllers may take; the folder of its owner files."""
        return self.path / "lease"

    def is_done(self) -> bool:
        return self.marker.exists()

    def reached(self) -> str:
        """How far a next attempt can go on from: `done`, the newest checkpoint, or nothing."""
        if self.is_done():
            return "done"
        names = [path.name for path in self.checkpoints.glob("step_*")] if self.checkpoints.is_dir() else []
        return max(names, default="")

    def write_spec(self, stage: Stage) -> None:
        if not self.spec.exists():
            atomic.write_json(self.spec, stage.to_json())

    def read_stage(self) -> Stage:
        return Stage.from_json(json.loads(self.spec.read_text()))

    def new_attempt(self) -> Path:
        """A fresh numbered folder for the log and exit of one attempt."""
        numbers = [int(found.name) for found in self.attempt_folders()]
        folder = self.attempts / f"{max(numbers, default=0) + 1:02d}"
        folder.mkdir(parents=True)
        return folder

    def attempt_folders(self) -> list[Path]:
        """Oldest first."""
        if not self.attempts.is_dir():
            return []
        return sorted(
            (found for found in self.attempts.iterdir() if _ATTEMPT.match(found.name)),
            key=lambda found: int(found.name),
        )

    def append_metrics(self, line: dict[str, Any]) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")

    def last_metrics(self) -> dict[str, Any] | None:
        """The newest whole line, or None."""
        if not self.metrics.is_file():
            return None
        with self.metrics.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().splitlines(keepends=True)
        return next((found for line in reversed(lines) if (found := _metrics(line))), None)

    def all_metrics(self) -> list[dict[str, Any]]:
        """Every whole line; half ones, as a full disk or a power cut leaves them, are no metrics."""
        if not self.metrics.is_file():
            return []
        return [found for line in self.metrics.read_bytes().splitlines(keepends=True) if (found := _metrics(line))]

    def damaged_metrics(self) -> int:
        """How many lines are no metrics; the last one, which may be under way, not counted."""
        lines = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.is_file() else []
        return sum(_metrics(line) is None for line in lines if line.endswith(b"\n"))


def _metrics(line: bytes) -> dict[str, Any] | None:
    """A line of metrics: an object whose values are numbers, or nothing."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    whole = isinstance(found, dict) and all(value is None or isinstance(value, int | float) for value in found.values())
    return found if whole else None


@dataclass(frozen=True)
class RunDir:
    """The folder of one study: `runs/<study>/`."""

    path: Path

    @property
    def study(self) -> Path:
        return self.path / "study.yaml"

    @property
    def resolved(self) -> Path:
        """Every run and stage of the study with everything filled in."""
        return self.path / "resolved.json"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def lease(self) -> Path:
        """The folder of the owner files (see `p2p_dist.results.lease`)."""
        return self.path / "lease"

    def start(self, chain: str) -> Path:
        """How often in a row a chain of starts (a Slurm job and its requeues) got no further; gone when one ended by
        itself."""
        return self.path / "starts" / f"{chain}.json"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def index(self) -> Path:
        """Derived from everything above; may be deleted at any time."""
        return self.path / "index.parquet"

    def stage(self, stage: Stage) -> StageDir:
        return self.at(stage.kind, stage.id)

    def at(self, kind: str, id_: str) -> StageDir:
        return StageDir(self.path / kind / id_, kind)

    def find(self, id_: str) -> StageDir:
        """The folder of a stage by id alone. Raises FileNotFoundError."""
        for kind in KINDS:
            if (self.path / kind / id_ / "spec.json").exists():
                return self.at(kind, id_)
        raise FileNotFoundError(f"no stage {id_} in {self.path}")

    def stages_besides(self, graph: Graph) -> dict[str, Stage]:
        """Stages that are here and not in the graph: of parts of the study that were asked for before."""
        paths = (
            path
            for kind in KINDS
            for path in sorted(self.path.glob(f"{kind}/*/spec.json"))
            if path.parent.name not in graph.stages
        )
        return {path.parent.name: self.at(path.parent.parent.name, path.parent.name).read_stage() for path in paths}

    def done(self, graph: Graph) -> set[str]:
        """Ids of the stages whose results are there."""
        return {id_ for id_, stage in graph.stages.items() if self.stage(stage).is_done()}

    def write_specs(self, graph: Graph) -> None:
        for stage in graph.stages.values():
            self.stage(stage).write_spec(stage)

    def leftovers(self) -> Iterator[Path]:
        """Temporary files and folders of killed writers."""
        return (found for found in self.path.rglob(".tmp-*"))
