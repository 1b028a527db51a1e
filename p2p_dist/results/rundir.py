"""Layout of the run folder. Only this module spells its file names; status is derived from the files that exist."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.stages import AnyStage, TrainStage, parse
from p2p_dist.errors import Exit, Problem, UserError, user_error
from p2p_dist.results import atomic, confined, folder_handles, jsonfile, metricsfile, records
from p2p_dist.results.folder_handles import Damaged

MARKERS = {
    "data": "manifest.json",
    "edit": "manifest.json",
    "train": "adapter",
    "score": "scores.jsonl",
    "eval": "result.json",
}
"""Kind of stage -> the file or folder that is written last and marks the stage as done."""
MARKER_KINDS: Mapping[str, confined.Kind] = {kind: "folder" if kind == "train" else "file" for kind in MARKERS}
"""Kind of the marker of each kind of stage."""
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
        """Folder of what a train stage has trained: an adapter in PEFT's format, or a model (`train.method: full`);
        appears atomically."""
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
    def weights(self) -> Path:
        """Statistics of a training's adapter (`p2p_dist.results.weight_features`). Not part of the result."""
        return self.path / "weights.json"

    @property
    def checksums(self) -> Path:
        """SHA-256 of the files that other stages read (see `p2p_dist.results.checksums`); written before the marker."""
        return self.path / "checksums.json"

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
        """True if the marker is what the stage writes: a file, or a folder for an adapter, and no link."""
        return confined.kind_of(self.marker) == MARKER_KINDS[self.kind]

    def has_damaged_marker(self) -> bool:
        """True if something else is in the place of the marker."""
        return confined.kind_of(self.marker) not in ("missing", MARKER_KINDS[self.kind])

    def reached(self) -> str:
        """Point from which the next attempt can resume: `done`, the name of the newest checkpoint, or empty."""
        if self.is_done():
            return "done"
        return max((name for name in confined.names(self.checkpoints) if name.startswith("step_")), default="")

    def write_spec(self, stage: Stage) -> None:
        """Write `spec.json` unless a valid one exists."""
        try:
            is_valid = self.read_stage().id == stage.id
        except UserError:
            is_valid = False
        if not is_valid:
            atomic.write_json(self.spec, stage.to_json())

    def read_stage(self) -> Stage:
        """The stage in `spec.json`. Raises UserError E291 for a file that is missing, damaged or edited, or another
        stage's."""
        try:
            stage = records.stage_of(jsonfile.read(self.spec))
            if (stage.kind, stage.id) != (self.kind, self.path.name):
                raise Damaged(f"it is the spec of {stage.kind} {stage.id}")
            return stage
        except FileNotFoundError as error:
            raise _bad_spec("it is missing", self.spec) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _bad_spec(str(error), self.spec) from error

    def parse_stage(self) -> AnyStage:
        """The typed stage in `spec.json`. Raises UserError E290 or E291."""
        return parse(self.read_stage())

    def new_attempt(self) -> Path:
        """Create the next numbered folder, for the log and exit code of one attempt."""
        numbers = [int(attempt.name) for attempt in self.attempt_folders()]
        folder = self.attempts / f"{max(numbers, default=0) + 1:02d}"
        confined.make_folder(folder)
        return folder

    def attempt_folders(self) -> list[Path]:
        """Folders of the attempts, oldest first."""
        numbers = [name for name in confined.names(self.attempts) if _ATTEMPT.match(name)]
        return [self.attempts / name for name in sorted(numbers, key=int)]

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append one line. Raises UserError as `confined.writing` does."""
        metricsfile.append(self.metrics, line)

    def last_metrics(self) -> dict[str, Any] | None:
        """The newest valid line, or None."""
        return metricsfile.last(self.metrics)

    def all_metrics(self) -> list[dict[str, Any]]:
        """All valid lines; others, as a full disk, a power cut or an editor leaves them, are skipped."""
        return metricsfile.read(self.metrics)

    def metrics_problem(self) -> Problem | None:
        """E516 for a damaged file of metrics or damaged lines, without a last line that is still being written."""
        return metricsfile.problem(self.metrics)


def is_study_name(name: str) -> bool:
    """True for the name of one folder: not empty, no path, no control characters, not hidden."""
    return bool(name) and name.isprintable() and not name.startswith(".") and "/" not in name and "\\" not in name


def is_run_folder(path: Path) -> bool:
    """True for the folder of a study that has been started."""
    return (path / "resolved.json").is_file()


def _bad_spec(why: str, path: Path) -> UserError:
    fix = "delete the stage's folder and run the study again"
    return user_error("E291", f"damaged spec: {why}", str(path), fix, Exit.INTEGRITY)


@dataclass(frozen=True)
class RunDir:
    """The folder of one study: `runs/<study>/`. No path below it may be a link (`p2p_dist.results.confined`)."""

    path: Path

    def __post_init__(self) -> None:
        folder_handles.add_run_folder(self.path)

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

    @property
    def quarantine(self) -> Path:
        """Devices that this start of the study uses no more (see `p2p_dist.results.quarantine`)."""
        return self.path / "quarantine.json"

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
        if not isinstance(stage, TrainStage):
            raise _bad_spec(f"it is no training but {stage.kind}", self.at("train", id_).spec)
        return stage

    def find(self, id_: str) -> StageDir:
        """Find the folder of a stage by its id alone. Raises UserError E291 where no stage has it."""
        for kind in KINDS:
            if confined.kind_of(self.path / kind / id_ / "spec.json") == "file":
                return self.at(kind, id_)
        raise _bad_spec(f"no stage {id_} has a spec.json", self.path)

    def stages_besides(self, graph: Graph, problems: list[Problem]) -> dict[str, Stage]:
        """Stages in the folder that are not in the graph: from earlier versions of the study. Damaged ones are appended
        to `problems`."""
        stages: dict[str, Stage] = {}
        for folder in (self.at(kind, name) for kind in KINDS for name in confined.names(self.path / kind)):
            if folder.path.name not in graph.stages and confined.kind_of(folder.spec) != "missing":
                try:
                    stages[folder.path.name] = folder.read_stage()
                except UserError as error:
                    problems.extend(error.problems)
        return stages

    def done(self, graph: Graph) -> set[str]:
        """Ids of the stages that are done."""
        return {
            id_
            for kind in KINDS
            for id_, handle in confined.folders_in(self.path / kind)
            if id_ in graph.stages
            and graph.stages[id_].kind == kind
            and confined.kind_in(MARKERS[kind], handle) == MARKER_KINDS[kind]
        }

    def write_specs(self, graph: Graph) -> None:
        for stage in graph.stages.values():
            self.stage(stage).write_spec(stage)

    def leftovers(self) -> Iterator[Path]:
        """Temporary files and folders of killed writers."""
        return self.path.rglob(".tmp-*")
