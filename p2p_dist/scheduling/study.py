"""A study: its specification, its data sources, its stages and its run folder."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from p2p_dist import registry
from p2p_dist.config.expand import Expansion, expand, kept
from p2p_dist.config.identity import canonical
from p2p_dist.config.load import check_study, read_study
from p2p_dist.config.model import ModelRef, ShapeSpec, model_names, resolve_model
from p2p_dist.config.plugin_files import file_options
from p2p_dist.config.study import StudySpec, TrainSpec
from p2p_dist.config.training_axis import TRAINING
from p2p_dist.config.yaml_strict import Document
from p2p_dist.data import input_files, sources
from p2p_dist.data.sources import Source
from p2p_dist.errors import Problem, UserError, user_error
from p2p_dist.planning import feasibility
from p2p_dist.planning.cluster import ClusterSpec, read_cluster, this_machine
from p2p_dist.planning.measured import Timings
from p2p_dist.planning.plan import Plan, make_plan
from p2p_dist.results import lease, resultfile, timings
from p2p_dist.results.collect import doubtful, no_garbage_collection
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.chat_checks import check_chats, with_templates
from p2p_dist.scheduling.model_checks import check_images, check_models, check_towers

_KEY = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*$")
"""A key of a study with dots, in the place of a problem."""
CONFIGS = ("studies", "models", "clusters")
"""Folders of `configs/`; each file in them is named by its stem."""


@dataclass(frozen=True)
class Study:
    """An opened study: specification, data sources, runs and stages, run folder."""

    spec: StudySpec
    sources: Sequence[Source]
    expansion: Expansion
    folder: RunDir
    document: Document
    """The study's file, with overrides applied."""
    extra_models: Sequence[ModelRef] = ()
    """Models that defenses name beside the study's own."""

    @no_garbage_collection()
    def plan(self, cluster: ClusterSpec, cohort: int = 1, anew: bool = False, rows_only: bool = False) -> Plan:
        """Plan the remaining jobs on a cluster (`anew`: all jobs, as if nothing was done; `rows_only`: those that
        build the rows of all trainings). Durations come from finished stages of the runs folder where there are any."""
        graph = self.expansion.graph.for_rows() if rows_only else self.expansion.graph
        done = set() if anew else self.folder.done(graph)
        rows = {source.digest: source.rows for source in self.sources}
        row_bytes = {source.digest: source.row_bytes for source in self.sources if source.row_bytes is not None}
        return make_plan(graph, done, self._shapes, cohort, cluster, self._timings, rows, row_bytes)

    @cached_property
    def _shapes(self) -> dict[str, ShapeSpec | None]:
        return {canonical(model.identity): model.shape for model in (*self.spec.model, *self.extra_models)}

    @cached_property
    def _timings(self) -> Timings:
        """Measured durations, read once."""
        return timings.read(self.folder.path.parent, self._shapes, self.expansion.graph)

    def model_names(self) -> dict[str, str]:
        """Canonical identity -> the name the study uses."""
        return {canonical(model.identity): model.name for model in (*self.spec.model, *self.extra_models)}

    def placed(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems, those of a key of the study with its line in the file; each once."""
        return _placed(problems, self.document)

    def runs_done(self) -> int:
        """Number of runs of which every stage is done."""
        done = self.folder.done(self.expansion.graph)
        return sum(set(run.stages) <= done for run in self.expansion.runs)


@contextmanager
def _reading() -> Iterator[None]:
    """Turn errors of the file system about paths that the user gives into a UserError E116."""
    try:
        yield
    except OSError as error:
        what = f"path cannot be read: {error.strerror}"
        fix = "check the path and its permissions, or name another file or folder"
        raise user_error("E116", what, str(error.filename or ""), fix) from error


def configs_dir() -> Path:
    """The shipped `configs/`."""
    return shipped("configs")


def shipped(folder: str) -> Path:
    """Folder that ships with the package: inside it when installed, beside it in a checkout."""
    inside = Path(__file__).parents[1] / folder
    return inside if inside.is_dir() else Path(__file__).parents[2] / folder


@_reading()
def find_study(name: str) -> Path:
    """A study file by path, or a shipped study by name. Raises UserError E117 for a name that is neither."""
    path = Path(name)
    if path.exists() or path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    known = study_names()
    if name not in known:
        local = sorted(file.stem for file in Path().glob("*.yaml"))
        message = f"unknown study {name!r}{'' if name in local else registry.suggest(name, [*known, *local])}"
        fix = f"name the file, {name}.yaml" if name in local else f"name a study file, or one of {', '.join(known)}"
        raise user_error("E117", message, fix=fix)
    return configs_dir() / "studies" / f"{name}.yaml"


def study_names() -> list[str]:
    """Names of the shipped studies."""
    return sorted(path.stem for path in (configs_dir() / "studies").glob("*.yaml"))


@_reading()
def find_cluster(name: str | None, nodes: int = 1, slots: int | None = None) -> ClusterSpec:
    """A cluster file by path, a shipped cluster by name, or `nodes` like this machine; without GPUs, with `slots`
    workers in all. Raises UserError E117 for an unknown one."""
    return _find_cluster(name, nodes).side_by_side(slots)


def _find_cluster(name: str | None, nodes: int) -> ClusterSpec:
    if name is None:
        return this_machine().model_copy(update={"nodes": nodes})
    if Path(name).is_file():
        return read_cluster(Path(name))
    known = {path.stem: path for path in sorted((configs_dir() / "clusters").glob("*.yaml"))}
    if name not in known:
        message = f"unknown cluster {name!r}{registry.suggest(name, known)}"
        raise user_error("E117", message, "--cluster", f"name one of {', '.join(known)}, or a file")
    return read_cluster(known[name])


@_reading()
@no_garbage_collection()
def open_study(path: Path, overrides: Sequence[str], runs_dir: Path, rows_only: bool = False) -> Study:
    """Read, check, locate and expand a study. Writes nothing and does not import torch. With `rows_only`, models that
    cannot read the rows are accepted. Raises UserError."""
    document = read_study(path, overrides)
    spec = check_study(document, configs_dir() / "models")
    with _places(document):
        models = {name: resolve_model(name, configs_dir() / "models") for name in _extra_models(spec)}
        if not rows_only:
            check_models(_trained(spec), list(models.values()))
            check_images(kept(spec, "task", "model"))
            check_towers(kept(spec, "model", TRAINING))
            check_chats(spec)
        spec = with_templates(spec)
        located = [sources.locate(task, spec.rows.dev is not None) for task in spec.task]
        spec = spec.model_copy(
            update={
                "task": tuple(
                    sources.with_row_labels(task, source) for task, source in zip(spec.task, located, strict=True)
                )
            }
        )
        files = input_files.locate(
            path for plugin in (*spec.attack, *spec.defense) for path in file_options(plugin).values()
        )
        expansion = expand(spec, located, files.located, models, files.missing)
        _check_options(spec, expansion)
    return Study(spec, located, expansion, RunDir(runs_dir / spec.name), document, list(models.values()))


def _trained(spec: StudySpec) -> list[tuple[ModelRef, TrainSpec, int]]:
    """Every model with each of its trainings, and the longest answer in tokens that it writes for a task."""
    cells = kept(spec, "model", TRAINING, "task")
    return [
        (model, training, task.responses.max_new_tokens if task.responses else 0) for model, training, task in cells
    ]


def _check_options(spec: StudySpec, expansion: Expansion) -> None:
    """Raises UserError E103 or E107 for options and rules that can never be."""
    known = {axis: registry.names(f"{axis}s") for axis in ("task", "attack", "defense")}
    known["model"] = model_names(configs_dir() / "models")
    problems = feasibility.exclude_problems(spec, known)
    problems += feasibility.option_problems(spec, expansion.combinations)
    if problems:
        raise UserError(*problems)


@contextmanager
def _places(document: Document) -> Iterator[None]:
    """Give the problems of errors in the block their lines in the study's file."""
    try:
        yield
    except UserError as error:
        raise UserError(*_placed(error.problems, document), exit_code=error.exit_code) from error


def _placed(problems: Iterable[Problem], document: Document) -> list[Problem]:
    return list(
        dict.fromkeys(
            replace(problem, where=document.where_of(problem.where))
            if _KEY.match(problem.where) and problem.where.partition(".")[0] in StudySpec.model_fields
            else problem
            for problem in problems
        )
    )


def _extra_models(spec: StudySpec) -> list[str]:
    """Names of the models that options of attacks and defenses name."""
    plugins = (*spec.attack, *spec.defense)
    named = (getattr(plugin, option) for plugin in plugins for option in plugin.model_options)
    return list(dict.fromkeys(name for name in named if name))


def set_damaged_aside(study: Study) -> list[Problem]:
    """Rename damaged results and markers, which then count as missing. Raises UserError E406 when there are some and
    another controller has the study."""
    if not (stages := doubtful(study.folder)):
        return []
    with lease.hold(study.folder.lease):
        return [problem for stage in stages if (problem := resultfile.set_aside(stage))]
