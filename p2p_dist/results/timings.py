"""Measured times of finished trainings and evaluations, from the cost files of all studies in a runs folder.

A folder's name is the id of its stage, so a stage that the plan has itself is known by its name alone. The specs of
other stages, whose times tell those of their model, are read from the `resolved.json` of their study.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.stages import TrainStage, parse
from p2p_dist.errors import Problem, UserError
from p2p_dist.planning.durations import model_of
from p2p_dist.planning.measured import Finished, Timings
from p2p_dist.results import confined, metricsfile, records, resolved
from p2p_dist.results.collect import no_garbage_collection
from p2p_dist.results.rundir import MARKER_KINDS, MARKERS, RunDir, StageDir

_NO_STAGES = Graph()
_KINDS = ("train", "eval")
"""Kinds of stages whose times are read."""
_STAGE = StageDir(Path(), "train")
_COST, _METRICS = _STAGE.cost.name, _STAGE.metrics.name


@no_garbage_collection()
def read(runs_dir: Path, models: Collection[str], planned: Graph = _NO_STAGES) -> Timings:
    """Read the times of all finished trainings and evaluations of these models (canonical identities); `planned` are
    the stages of the plan that asks. Damaged and foreign files are named in `unread` and left out."""
    finished: list[Finished] = []
    problems: list[Problem] = []
    for path in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []:
        if path.is_dir() and confined.kind_of(RunDir(path).resolved) != "missing":
            finished += _of_study(RunDir(path), models, planned, problems)
    return Timings(finished, sorted(f"{problem.where}: {problem.what}" for problem in problems))


def _of_study(folder: RunDir, models: Collection[str], planned: Graph, problems: list[Problem]) -> Iterator[Finished]:
    graph = _with_others(folder, planned, problems)
    for kind in _KINDS:
        for id_, handle in confined.folders_in(folder.path / kind):
            stage = graph.stages.get(id_)
            if stage is None or stage.kind != kind or confined.kind_in(MARKERS[kind], handle) != MARKER_KINDS[kind]:
                continue
            if not (_reads_are_known(graph, stage) and model_of(graph, stage) in models):
                continue
            if (cost := _cost(folder, kind, id_, handle, problems)) is not None:
                yield _finished(id_, graph, cost, handle)


def _with_others(folder: RunDir, planned: Graph, problems: list[Problem]) -> Graph:
    """The planned stages, and the others that the folder has: of its study, and of earlier versions of it."""
    try:
        named = {stage.id for stage in resolved.read_outline(folder).stages}
        others = {} if named <= planned.stages.keys() else resolved.read_stages(folder, planned)
    except UserError as error:
        problems.extend(error.problems)
        return planned
    others |= folder.stages_besides(Graph({**planned.stages, **others}), problems)
    for id_, stage in list(others.items()):
        try:
            parse(stage)  # durations are computed from typed stages
        except UserError as error:
            problems.extend(error.problems)
            del others[id_]
    return Graph({**planned.stages, **others})


def _reads_are_known(graph: Graph, stage: Stage) -> bool:
    """True if all stages that the stage needs are in the graph: a stage of an earlier version may have lost some."""
    return all(id_ in graph.stages and _reads_are_known(graph, graph.stages[id_]) for id_ in stage.reads.values())


def _cost(folder: RunDir, kind: str, id_: str, handle: int, problems: list[Problem]) -> records.Cost | None:
    """The cost of a stage whose folder is open; what is not plainly valid is judged by its path."""
    if (plain := records.read_plain(_COST, handle, records.Cost)) is not None:
        return plain
    content = records.read(folder.at(kind, id_).cost, records.Cost, problems)
    return records.Cost.model_validate(content) if content else None


def _finished(id_: str, graph: Graph, cost: records.Cost, handle: int) -> Finished:
    seconds = cost.seconds
    if graph.stages[id_].kind == "train" and (last := metricsfile.last_in(_METRICS, handle)):
        # The cost of a training that an older version resumed is that of its last attempt.
        seconds = max(seconds, last.get("seconds") or 0.0)
    on_gpu = (cost.gpu_seconds or 0.0) > 0
    share = (cost.ranks if on_gpu else 1) / cost.cohort
    cores = None if on_gpu or cost.ranks > 1 else cost.threads
    tokens = _row_tokens(graph.stages[id_], cost)
    return Finished(id_, graph, seconds * share, on_gpu, cost.device or "unnamed device", cores, tokens)


def _row_tokens(stage: Stage, cost: records.Cost) -> float | None:
    """Tokens of a row of a training that went through all its rows; None for other stages, and where the file does not
    say or cannot be right."""
    typed = parse(stage)
    if not isinstance(typed, TrainStage) or not (cost.tokens and cost.rows):
        return None
    epochs = typed.train.num_train_epochs
    if cost.steps != epochs * -(-cost.rows // typed.train.global_batch):
        return None
    tokens = cost.tokens / (epochs * cost.rows)
    return tokens if tokens <= typed.train.max_length else None
