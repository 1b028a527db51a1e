"""Choice of the run to export: finished, the only one that fits, and a system that a folder can hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2p_dist import registry
from p2p_dist.assets import file_sha256
from p2p_dist.config import expand
from p2p_dist.config.stages import EvalStage, TrainStage
from p2p_dist.config.training_axis import TRAINING
from p2p_dist.data.built import Built, LabelSpace
from p2p_dist.errors import Exit, Problem, UserError, user_error
from p2p_dist.results import checksums, datastore, resultfile
from p2p_dist.results.resolved import read_resolved
from p2p_dist.results.resultfile import Result
from p2p_dist.results.rundir import RunDir, StageDir

AXES = (*expand.AXES, TRAINING)
"""Axes by which a run is chosen; only studies with several trainings have the last one."""


@dataclass(frozen=True)
class SimulatedAttack:
    """Results of the same defense on attacked rows."""

    attack: str
    defended: Result
    undefended: Result | None
    baseline: Result | None
    """Result of the clean model on the triggered rows."""


@dataclass(frozen=True)
class FinishedRun:
    """A run with everything that an export reads of it."""

    folder: RunDir
    study: str
    cell: Mapping[str, str]
    training: TrainStage
    evaluation: EvalStage
    result: Result
    baseline: Result | None
    """Result of the clean model on this run's triggered rows."""
    rows: StageDir
    built: Built
    simulated: tuple[SimulatedAttack, ...] = ()
    """Attacks that the study simulates on the rows of this run, where it has them as they are."""

    @property
    def adapter(self) -> StageDir:
        """Folder of the training."""
        return self.folder.at("train", self.training.id)

    @property
    def says(self) -> list[int]:
        """Index of the label word with which the run's system answers each class."""
        return deployed_words(self.built.labels)


def deployed_words(labels: LabelSpace) -> list[int]:
    """Index of the label word with which a system answers each class."""
    return [labels.offset + (label + labels.shift) % labels.n_classes for label in range(labels.n_classes)]


def choose(folder: RunDir, labels: Sequence[str]) -> FinishedRun:
    """The one run of a study with these labels, such as `defense=p2p`.

    Raises UserError E152 when none or several fit, E153 for a run that is not finished, E155 for a system that is more
    than a model and its prompt, E298 for a run that trained all weights, E307 for an adapter that is not the evaluated
    one.
    """
    resolved = read_resolved(folder)
    run = _only(resolved["runs"], _wanted(labels), folder)
    evaluation, training = folder.at("eval", run["eval"]), folder.at("train", run["train"])
    if not (evaluation.is_done() and training.is_done()):
        what = f"the run is not finished: {_named(run['cell'])}"
        raise user_error("E153", what, str(folder.path), f"run `p2p-dist run` for study {resolved['name']} first")
    result = _result(evaluation)
    stage = evaluation.parse_stage()
    assert isinstance(stage, EvalStage)
    rows = folder.find(stage.reads.rows)
    _check_kind(run["cell"], stage, rows)
    trained = folder.train_stage(run["train"])
    if trained.train.is_full:
        raise _without_adapter(training)
    _check_adapter(training, result)
    baseline = _result_if_done(folder, run["floor"])
    return FinishedRun(
        folder,
        resolved["name"],
        run["cell"],
        trained,
        stage,
        result,
        baseline,
        rows,
        datastore.read(rows),
        _simulated(folder, run["cell"], resolved["runs"]),
    )


def _simulated(
    folder: RunDir, cell: Mapping[str, str], runs: Sequence[Mapping[str, Any]]
) -> tuple[SimulatedAttack, ...]:
    """Finished runs of the study that differ from a run without an attack in their attack alone."""
    if cell["attack"] != "none":
        return ()
    by_cell = {_key(run["cell"]): run for run in runs}
    attacks = []
    for attack in dict.fromkeys(run["cell"]["attack"] for run in runs if run["cell"]["attack"] != "none"):
        run = by_cell.get(_key({**cell, "attack": attack}))
        defended = _result_if_done(folder, run["eval"]) if run else None
        if run is None or defended is None:
            continue
        bare = by_cell.get(_key({**cell, "attack": attack, "defense": "none"}))
        undefended = _result_if_done(folder, bare["eval"]) if bare else None
        attacks.append(SimulatedAttack(attack, defended, undefended, _result_if_done(folder, run["floor"])))
    return tuple(attacks)


def _key(cell: Mapping[str, str]) -> tuple[str, ...]:
    """Labels on all axes; that of the training is empty where the study has one training."""
    return tuple(cell.get(axis, "") for axis in AXES)


def _wanted(labels: Sequence[str]) -> dict[str, str]:
    pairs = dict(label.partition("=")[::2] for label in labels)
    for axis in pairs:
        if axis not in AXES:
            what = f"{axis!r} is no axis of a study{registry.suggest(axis, AXES)}"
            raise user_error("E152", what, "the command line", f"choose a run by {', '.join(AXES)}")
    return pairs


def _only(runs: Sequence[Mapping[str, Any]], labels: Mapping[str, str], folder: RunDir) -> Mapping[str, Any]:
    fitting = [run for run in runs if all(_fits(run["cell"].get(axis, ""), label) for axis, label in labels.items())]
    if len(fitting) == 1:
        return fitting[0]
    listed = fitting or runs
    differing = [axis for axis in AXES if len({run["cell"].get(axis, "") for run in listed}) > 1] or ["defense"]
    names = "\n  ".join(_named(run["cell"], differing) for run in listed)
    what = f"{len(fitting)} runs fit" if fitting else "no run fits; the study has"
    raise user_error("E152", f"{what}:\n  {names}\n", str(folder.path), "add labels that only one of them has")


def _fits(label: str, name: str) -> bool:
    """True for the label itself, or for its name without options."""
    return name in (label, label.partition("(")[0])


def _named(cell: Mapping[str, str], axes: Sequence[str] = AXES) -> str:
    labels = {axis: cell[axis] for axis in axes if axis in cell}
    return " ".join(f"'{axis}={label}'" if " " in label else f"{axis}={label}" for axis, label in labels.items())


def _result_if_done(folder: RunDir, evaluation: str | None) -> Result | None:
    if evaluation is None or not folder.at("eval", evaluation).is_done():
        return None
    return _result(folder.at("eval", evaluation))


def _result(evaluation: StageDir) -> Result:
    result = resultfile.read(evaluation)
    if isinstance(result, Problem):
        raise UserError(result, exit_code=Exit.INTEGRITY)
    assert result is not None
    return result


def _check_kind(cell: Mapping[str, str], stage: EvalStage, rows: StageDir) -> None:
    """Raises UserError E155 for a defense that acts on test texts or answers while it serves."""
    reason = None
    if rows.kind == "edit":
        reason = "it rewrites every text before the model reads it"
    elif stage.reject is not None:
        reason = "it rejects texts by a second model"
    elif stage.decode is not None:
        reason = "it decodes with a second model"
    if reason:
        what = f"defense {cell['defense']} cannot be a folder with a model: {reason}"
        raise user_error("E155", what, "defense", "export another run of the study, such as one with defense=p2p")


def _without_adapter(training: StageDir) -> UserError:
    what = "the run trained all weights (train.method=full): it has no adapter, and an export is made from one"
    fix = f"load the folder {training.adapter.name}/ with transformers, or choose a run with train.method=lora"
    return user_error("E298", what, str(training.adapter), fix)


def _check_adapter(training: StageDir, result: Result) -> None:
    """Raises UserError E307 for an adapter that is not the evaluated one."""
    checksums.require(training)
    path = training.adapter / "adapter_model.safetensors"
    if not path.is_file() or file_sha256(path) != result.inputs["adapter_sha256"]:
        what, fix = (
            "the adapter is not the one that was evaluated",
            "delete both stages' folders and run the study again",
        )
        raise user_error("E307", what, str(path), fix, Exit.INTEGRITY)
