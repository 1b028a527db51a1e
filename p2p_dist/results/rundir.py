"""Layout of the run folder. Only this module spells its file names; status is derived from the files that exist."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.stages import AnyStage, TrainStage, parse
from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic

MARKERS = {
    "data": "manifest.json",
    "edit": "manifest.json",
    "train": "adapter",
    "score": "scores.jsonl",
    "eval": "result.json",
}
"""Kind of stage -> the file or folder that is written last and marks the stage as done."""
KINDS = tuple(MARKERS)
"""Kinds of stages; each has a folder of that name."""
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
        """Manifest of a data or edit stage; written last."""
        return self.path / MARKERS["data"]

    @property
    def adapter(self) -> Path:
        """Adapter folder of a train stage in PEFT's format; appears atomically."""
        return self.path / MARKERS["train"]

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of a running train stage; deleted once the adapter is written."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Progress file with one JSON line per step."""
        return self.path / "metrics.jsonl"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def result(self) -> Path:
        """Result of an eval stage; written last and immutable."""
        return self.path / MARKERS["eval"]

    @property
    def scores(self) -> Path:
        """Scores of a score stage by row; written last."""
        return self.path / MARKERS["score"]

    @property
    def cost(self) -> Path:
        """Cost of the stage on this machine: seconds, tokens, versions. Not part of the result."""
        return self.path / "cost.json"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    @property
    def marker(self) -> Path:
        """The file or folder whose existence means that the stage is done; written last."""
        return self.path / MARKERS[self.kind]

    @property
    def lease(self) -> Path:
        """Folder of owner files for a job that several controllers share."""
        return self.path / "lease"

    def is_done(self) -> bool:
        return self.marker.exists()

    def reached(self) -> str:
        """Point from which the next attempt can resume: `done`, the name of the newest checkpoint, or empty."""
        if self.is_done():
            return "done"
        names = [path.name for path in self.checkpoints.glob("step_*")] if self.checkpoints.is_dir() else []
        return max(names, default="")

    def write_spec(self, stage: Stage) -> None:
        if not self.spec.exists():
            atomic.write_json(self.spec, stage.to_json())

    def read_stage(self) -> Stage:
        """The stage in `spec.json`. Raises UserError E291 for a file that is damaged or was edited."""
        try:
            return Stage.from_json(json.loads(self.spec.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise user_error(
                "E291",
                f"damaged spec: {error}",
                str(self.spec),
                "delete the stage's folder and run the study again",
                Exit.INTEGRITY,
            ) from error

    def parse_stage(self) -> AnyStage:
        """The typed stage in `spec.json`. Raises UserError E290 or E291."""
        return parse(self.read_stage())

    def new_attempt(self) -> Path:
        """Create the next numbered folder, for the log and exit code of one attempt."""
        numbers = [int(attempt.name) for attempt in self.attempt_folders()]
        folder = self.attempts / f"{max(numbers, default=0) + 1:02d}"
        folder.mkdir(parents=True)
        return folder

    def attempt_folders(self) -> list[Path]:
        """Folders of the attempts, oldest first."""
        if not self.attempts.is_dir():
            return []
        return sorted(
            (path for path in self.attempts.iterdir() if _ATTEMPT.match(path.name)), key=lambda path: int(path.name)
        )

    def append_metrics(self, line: dict[str, Any]) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")

    def last_metrics(self) -> dict[str, Any] | None:
        """The newest complete line, or None."""
        if not self.metrics.is_file():
            return None
        with self.metrics.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().splitlines(keepends=True)
        return next((metrics for line in reversed(lines) if (metrics := _metrics(line))), None)

    def all_metrics(self) -> list[dict[str, Any]]:
        """All complete lines; partial ones, as a full disk or a power cut leaves them, are skipped."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_bytes().splitlines(keepends=True)
        return [metrics for line in lines if (metrics := _metrics(line))]

    def damaged_metrics(self) -> int:
        """Number of damaged lines, without a last line that is still being written."""
        lines = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.is_file() else []
        return sum(_metrics(line) is None for line in lines if line.endswith(b"\n"))


def _metrics(line: bytes) -> dict[str, Any] | None:
    """Parse a line of metrics, an object whose values are numbers or null; None for any other line."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    return content if all(value is None or isinstance(value, int | float) for value in content.values()) else None


@dataclass(frozen=True)
class RunDir:
    """The folder of one study: `runs/<study>/`."""

    path: Path

    @property
    def study(self) -> Path:
        return self.path / "study.yaml"

    @property
    def resolved(self) -> Path:
        """All runs and stages of the study with defaults and presets resolved."""
        return self.path / "resolved.json"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def lease(self) -> Path:
        """Folder of the owner files (see `p2p_dist.results.lease`)."""
        return self.path / "lease"

    def start(self, chain: str) -> Path:
        """Counter of consecutive starts without progress in a chain of starts (a Slurm job and its requeues); deleted
        when a start runs to its end."""
        return self.path / "starts" / f"{chain}.json"

    @property
    def submissions(self) -> Path:
        """Jobs of a cluster that the study was submitted as, oldest first."""
        return self.path / "submissions.json"

    @property
    def slurm_logs(self) -> Path:
        """Folder of the output files of Slurm jobs: `<job>.out`, or `<job>_<task>.out` of an array."""
        return self.path / "slurm"

    def handover(self, token: str) -> Path:
        """Private file that carries variables to a job of a Ray cluster; deleted when read, and with the leftovers."""
        return self.path / f".tmp-env-{token}"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def index(self) -> Path:
        """Index of the finished stages, derived from their files; may be deleted at any time."""
        return self.path / "index.parquet"

    def stage(self, stage: Stage) -> StageDir:
        return self.at(stage.kind, stage.id)

    def at(self, kind: str, id_: str) -> StageDir:
        return StageDir(self.path / kind / id_, kind)

    def train_stage(self, id_: str) -> TrainStage:
        """The training of this id. Raises UserError E290 or E291."""
        stage = self.at("train", id_).parse_stage()
        assert isinstance(stage, TrainStage)
        return stage

    def find(self, id_: str) -> StageDir:
        """Find the folder of a stage by its id alone. Raises FileNotFoundError."""
        for kind in KINDS:
            if (self.path / kind / id_ / "spec.json").exists():
                return self.at(kind, id_)
        raise FileNotFoundError(f"no stage {id_} in {self.path}")

    def stages_besides(self, graph: Graph) -> dict[str, Stage]:
        """Stages in the folder that are not in the graph: from earlier versions of the study."""
        paths = (
            path
            for kind in KINDS
            for path in sorted(self.path.glob(f"{kind}/*/spec.json"))
            if path.parent.name not in graph.stages
        )
        return {path.parent.name: self.at(path.parent.parent.name, path.parent.name).read_stage() for path in paths}

    def done(self, graph: Graph) -> set[str]:
        """Ids of the stages that are done."""
        return {id_ for id_, stage in graph.stages.items() if self.stage(stage).is_done()}

    def write_specs(self, graph: Graph) -> None:
        for stage in graph.stages.values():
            self.stage(stage).write_spec(stage)

    def leftovers(self) -> Iterator[Path]:
        """Temporary files and folders of killed writers."""
        return self.path.rglob(".tmp-*")
