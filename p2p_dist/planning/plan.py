"""Plan of a study: its missing jobs, their placement and their durations. Pure functions of values."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.identity import canonical
from p2p_dist.config.model import ShapeSpec
from p2p_dist.config.stages import ScoreStage, TrainStage, parse, training
from p2p_dist.config.study import TrainSpec
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.durations import Rates, attacked_rows
from p2p_dist.planning.jobs import Job, missing_jobs
from p2p_dist.planning.measured import Durations, Timings, measure
from p2p_dist.planning.placement import Misfit, Placement, place
from p2p_dist.planning.row_tokens import TOKENS_PER_ROW, RowLengths, answer_tokens, image_count
from p2p_dist.planning.score_placement import place_score

Fit = Placement | Misfit
WITHOUT_MODEL = Placement(1, 0, "none", 1, 1, 1, None)
"""Placement of jobs that only build rows."""
NOTHING_FINISHED = Timings()
NO_ROWS: Mapping[str, Mapping[str, int]] = {}
NO_BYTES: Mapping[str, float] = {}


@dataclass(frozen=True)
class Plan:
    """A plan: `jobs` are longest first; `fits` has the placement of every training setting (see `setting`)
    and of every score method with its model (`score_setting`)."""

    jobs: list[Job]
    fits: Mapping[str, Fit]
    settings: Mapping[str, str]
    """Training setting of each stage, or score setting; those that only handle rows have none."""
    durations: Durations
    models: Collection[str] = ()
    """Canonical identities of the models that the jobs need."""
    done: Collection[str] = ()
    """Stages that were done when the study was planned."""

    @property
    def rates(self) -> Rates:
        """Assumed throughput of the hardware."""
        return self.durations.assumed

    def placement(self, job: Job) -> Fit:
        """Placement of a job, or its misfit."""
        return self.fits[self.settings[job.lead]] if job.lead in self.settings else WITHOUT_MODEL

    def width(self, job: Job) -> int:
        """Number of slots that a job takes; 1 for a misfit."""
        fit = self.placement(job)
        return self.rates.cluster.slots_of(fit.ranks) if isinstance(fit, Placement) else 1

    def row_tokens(self, graph: Graph) -> tuple[int, int]:
        """Fewest and most tokens of a row that are assumed for the jobs that work on a model."""
        stages = [graph.stages[id_] for job in self.jobs for id_ in job.stages]
        found = {self.rates.row_tokens(graph, stage) for stage in stages if stage.kind in ("train", "score", "eval")}
        return (min(found), max(found)) if found else (TOKENS_PER_ROW, TOKENS_PER_ROW)

    def impossible(self) -> list[tuple[Job, Misfit]]:
        """Jobs that cannot run on this cluster."""
        return [(job, fit) for job in self.jobs if isinstance(fit := self.placement(job), Misfit)]


def make_plan(
    graph: Graph,
    done: Collection[str],
    shapes: Mapping[str, ShapeSpec | None],
    cohort: int,
    cluster: ClusterSpec,
    timings: Timings = NOTHING_FINISHED,
    rows: Mapping[str, Mapping[str, int]] = NO_ROWS,
    row_bytes: Mapping[str, float] = NO_BYTES,
) -> Plan:
    """Place every setting once, form cohorts as large as fit (at most `cohort`), and order the jobs.

    `shapes` are keyed by the canonical identity of their model; `timings` may come from any studies; `rows` are those
    of `durations.Rates`, `row_bytes` those of `RowLengths`.
    """
    rates = Rates(shapes, cluster, rows, RowLengths(row_bytes))
    durations = measure(timings, rates)
    trainings = {id_: typed for id_, stage in graph.stages.items() if (typed := training(stage))}
    trained = {
        id_: trainings[behind.id]
        for id_, stage in graph.stages.items()
        if (behind := training_of(graph, stage, trainings))
    }
    scores = {id_: typed for id_, stage in graph.stages.items() if (typed := _score(stage))}
    keys = {id_: setting(typed) for id_, typed in trainings.items()}
    settings = {id_: keys[typed.id] for id_, typed in trained.items()}
    settings |= {id_: score_setting(typed, trained.get(id_, typed)) for id_, typed in scores.items()}
    fits: dict[str, Fit] = {}
    images, answers = image_count(graph), _answers(graph, settings)
    for id_, key in settings.items():
        if key in fits:
            continue
        asked = trained[id_] if id_ in trained else scores[id_]
        shape, train = rates.shape_of(graph, asked.stage), asked.train or TrainSpec()
        if id_ in scores:
            fits[key] = place_score(shape, scores[id_].method, train, cluster, answers[key])
        else:
            fits[key] = place(shape, train, cohort, cluster, images, answers[key], len(trainings))

    def size(stage: Stage) -> int:
        fit = fits[settings[stage.id]]
        return fit.cohort if isinstance(fit, Placement) else 1

    jobs = missing_jobs(graph, done, size, durations.seconds)
    stages = [graph.stages[id_] for job in jobs for id_ in job.stages]
    models = {
        model for stage in stages if (model := trained[stage.id].stage.model if stage.id in trained else stage.model)
    }
    return Plan(jobs, fits, settings, durations, models, done)


def training_of(graph: Graph, stage: Stage, trainings: Collection[str]) -> Stage | None:
    """The training behind a stage: itself, or that of the adapter it reads; None for a stage that only handles rows."""
    while stage.id not in trainings:
        if "adapter" not in stage.reads:
            return None
        stage = graph.stages[stage.reads["adapter"]]
    return stage


def setting(typed: TrainStage | ScoreStage) -> str:
    """Key of a placement: the model and training settings of a stage as canonical text."""
    return f"[{typed.stage.model},{_train_text(typed.train)}]"


def score_setting(typed: ScoreStage, behind: TrainStage | ScoreStage) -> str:
    """Key of a score stage's placement: the model that it asks, its training settings and the method, as far as memory
    depends on it. `behind` is the training of its adapter, or the stage itself."""
    method = canonical(typed.method.model_dump(include={"name", "instructions", "max_new_tokens"}))
    return f"[{behind.stage.model},{_train_text(behind.train or TrainSpec())},{method}]"


def _answers(graph: Graph, settings: Mapping[str, str]) -> dict[str, int]:
    """Most tokens of a text answer in the evaluations and scores of every setting; 0 for labels alone."""
    most = dict.fromkeys(settings.values(), 0)
    for id_, key in settings.items():
        if (stage := graph.stages[id_]).kind != "train":
            rows = graph.stages[stage.reads["rows"]] if "rows" in stage.reads else None
            most[key] = max(most[key], answer_tokens(attacked_rows(graph, rows)))
    return most


def _score(stage: Stage) -> ScoreStage | None:
    typed = parse(stage) if stage.kind == "score" else None
    return typed if isinstance(typed, ScoreStage) else None


@cache
def _train_text(train: TrainSpec | None) -> str:
    return canonical(train.model_dump()) if train else "null"
