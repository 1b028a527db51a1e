"""Checks of a study before anything is built: what its options and its numbers of rows can never give.

Pure functions that return all problems. The `where` of a problem is a key of the study, such as
`attack.1.target_label`. Texts that cannot carry a trigger are not known here: a study that passes may still lack a few
rows when they are built.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil

from p2p_dist import registry
from p2p_dist.config.combinations import Combination
from p2p_dist.config.exclusions import names_label
from p2p_dist.config.expand import Expansion, axis_labels, kept
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Consistency
from p2p_dist.config.stages import TrainStage, parse
from p2p_dist.config.study import Plugin, StudySpec
from p2p_dist.config.training_axis import TRAINING
from p2p_dist.data.attack import Attack, DirtyLabelAttack
from p2p_dist.data.example import NO_LABEL
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.errors import Problem, UserError, user_error

Counts = Mapping[str, RowCounts]
"""Rows of a study by the label of their task; tasks whose rows are not known here are missing."""


def option_problems(study: StudySpec, combinations: Sequence[Combination]) -> list[Problem]:
    """E107 for options of attacks that do not fit their task, such as a target that is no class."""
    problems = [
        replace(problem, where=_indexed(problem.where, "attack", study.attack, one.attack))
        for one in combinations
        for problem in one.attack.option_problems(one.task, study.rows)
    ]
    return list(dict.fromkeys(problems))


def exclude_problems(study: StudySpec, known: Mapping[str, Collection[str]]) -> list[Problem]:
    """E103 for rules about names that the study lacks, unless they are `known` names of the axis: overrides may take
    a value out of a study that its rules still name."""
    labels = axis_labels(study)
    problems = []
    for number, rule in enumerate(study.exclude):
        for axis, name in rule.items():
            if not any(names_label(name, label) for label in labels[axis]) and not _is_known(name, axis, known):
                names = [*labels[axis], *(label.partition("(")[0] for label in labels[axis])]
                what = f"exclude names {axis} {name!r}{registry.suggest(str(name), [*names, *known.get(axis, ())])}"
                fix = f"name one of {', '.join(labels[axis])}, or remove the rule"
                problems.append(Problem("E103", what, f"exclude.{number}.{axis}", fix))
    return problems


def _is_known(name: object, axis: str, known: Mapping[str, Collection[str]]) -> bool:
    if axis == "seed":
        return isinstance(name, int) and not isinstance(name, bool)
    return isinstance(name, str) and (name in known.get(axis, ()) or (axis == "model" and "/" in name))


def warmup_problems(study: StudySpec, expansion: Expansion, counts: Counts) -> list[Problem]:
    """E107 for trainings that end before their learning rate has reached its peak."""
    shortest: dict[tuple[str, int], int] = {}
    for run, one in zip(expansion.runs, expansion.combinations, strict=True):
        stage = parse(expansion.graph.stages[run.train])
        rows = counts[one.cell["task"]].train if one.cell["task"] in counts else study.rows.train
        if rows is not None and isinstance(stage, TrainStage):
            steps = stage.train.num_train_epochs * ceil(rows / stage.train.global_batch)
            key = one.cell["defense"], one.training.warmup_steps
            shortest[key] = min(steps, shortest.get(key, steps))
    return [
        Problem(
            "E107",
            f"defense {defense} trains for {steps} steps, and the learning rate warms up for {warmup}",
            "train.warmup_steps",
            f"set train.warmup_steps={steps // 10}",
        )
        for (defense, warmup), steps in shortest.items()
        if steps < warmup
    ]


def length_problems(study: StudySpec, positions: Mapping[str, int]) -> list[Problem]:
    """E107 for rows that may be longer than a model; `positions` are the longest rows by the names of the models, where
    they are known."""
    lengths: dict[str, int] = {}
    for model, training in kept(study, "model", TRAINING):
        lengths[model.name] = max(training.max_length, lengths.get(model.name, 0))
    return [
        Problem(
            "E107",
            f"rows of up to {length} tokens are longer than the {positions[name]} positions of model {name}",
            "train.max_length",
            f"set train.max_length={positions[name]}, or choose another model",
        )
        for name, length in lengths.items()
        if length > positions.get(name, length)
    ]


def layer_problems(study: StudySpec, expansion: Expansion, layers: Mapping[str, int]) -> list[Problem]:
    """E266 for trainings with a loss between layers on a model that has too few of them; `layers` are the numbers of
    layers by the canonical identity of the models, where they are known."""
    shallow = {
        stage.id: layers[stage.model]
        for stage in expansion.graph.stages.values()
        if stage.kind == "train"
        and layers.get(stage.model, Consistency.least_layers) < Consistency.least_layers
        and _compares_layers(stage)
    }
    cells = {
        (run.cell["model"], run.cell["defense"]): shallow[id_]
        for run in (expansion.runs if shallow else ())
        for id_ in run.stages
        if id_ in shallow
    }
    labels = axis_labels(study)["defense"]
    return [
        Problem(
            "E266",
            f"defense {defense} needs a model of {Consistency.least_layers} layers or more, and {model} has {count}",
            f"defense.{labels.index(defense)}",
            f"exclude {{model: {_quoted(model)}, defense: {_quoted(defense)}}}, or choose another model",
        )
        for (model, defense), count in cells.items()
    ]


def _compares_layers(stage: Stage) -> bool:
    typed = parse(stage)
    return isinstance(typed, TrainStage) and isinstance(typed.objective, Consistency)


def row_problems(study: StudySpec, combinations: Sequence[Combination], counts: Counts) -> list[Problem]:
    """Problems of every attack, and of every defense on its attacked rows, that lack rows."""
    problems: list[Problem] = []
    infeasible: set[tuple[str, str]] = set()
    for (task, attack), one in _distinct(combinations, "task", "attack"):
        if task in counts and (error := attack_shortage(one.attack, counts[task])):
            infeasible.add((task, attack))
            pair = {"task": task, "attack": attack}
            problems += _of_cell(error, pair, _indexed("attack", "attack", study.attack, one.attack))
    for (task, attack, defense), one in _distinct(combinations, "task", "attack", "defense"):
        if task not in counts or (task, attack) in infeasible:
            continue
        if error := one.defense.shortage(attacked_counts(one.attack, counts[task])):
            cell = {"task": task, "attack": attack, "defense": defense}
            problems += _of_cell(error, cell, _indexed("defense", "defense", study.defense, one.defense))
    return problems


def attack_shortage(attack: Attack, counts: RowCounts) -> UserError | None:
    """E240 or E206 for too few training rows, E205 for test rows of the target class alone."""
    if not isinstance(attack, DirtyLabelAttack):
        return None
    try:
        count = attack.poisoned_count(counts.train)
    except UserError as error:
        return error
    eligible = _eligible(attack, counts)
    if sum(eligible.values()) < count:
        return attack.too_few_eligible(count, counts.train, f"{sum(eligible.values())} are eligible")
    targets = attack.target_labels()
    others = sum(rows for label, rows in counts.free().items() if label not in targets)
    taken = count if attack.label_policy == "dirty" and len(targets) == 1 else 0
    if attack.cover and others < attack.cover + taken:
        what = f"the attack needs {attack.cover} cover rows beside {count} poisoned ones; {others} rows are eligible"
        return user_error("E206", what, "attack.cover", "lower attack.cover or add rows")
    if counts.n_classes and set(counts.test_by_class) <= {attack.target_label}:
        what = f"no test row can be triggered: all are of the target class {attack.target_label}"
        return user_error("E205", what, "attack.target_label", "choose another target or add test rows")
    return None


def attacked_counts(attack: Attack, counts: RowCounts) -> RowCounts:
    """Counts after an attack that these rows can give, if every text can carry the trigger."""
    if not isinstance(attack, DirtyLabelAttack) or attack.by_weights:
        return counts
    count = attack.poisoned_count(counts.train)
    shift = counts.n_classes if attack.knows and attack.knows.extended_label else 0
    targets = [target + shift for target in attack.target_labels()] if counts.n_classes else [NO_LABEL]
    others = [label for label in counts.train_by_class if label not in targets]
    eligible = _eligible(attack, counts)
    if attack.poison_mode == "append":
        attacked = counts.added(count, targets).added(attack.cover, others)
    elif attack.label_policy == "dirty" and len(targets) == 1 and counts.n_classes:
        attacked = counts.moved(count, targets[0], eligible)
    else:
        attacked = replace(counts.added(count, targets), train=counts.train)
    return attacked.added(attack.negative_count(count, sum(eligible.values())), eligible)


def _eligible(attack: DirtyLabelAttack, counts: RowCounts) -> dict[int, int]:
    """Rows by class that may be poisoned; all that are not trusted where answers are text."""
    return {label: rows for label, rows in counts.free().items() if not counts.n_classes or attack.may_poison(label)}


def _distinct(combinations: Sequence[Combination], *axes: str) -> Iterator[tuple[tuple[str, ...], Combination]]:
    """The labels on these axes, each once, with the first combination that has them."""
    first = {tuple(one.cell[axis] for axis in axes): one for one in reversed(combinations)}
    yield from reversed(first.items())


def _of_cell(error: UserError, cell: Mapping[str, str], where: str) -> Iterator[Problem]:
    """The problems of an error, with the cell that has them and a rule that excludes it."""
    title = ", ".join(f"{axis} {label}" for axis, label in cell.items())
    rule = ", ".join(f"{axis}: {_quoted(label)}" for axis, label in cell.items())
    for problem in error.problems:
        option = problem.where.partition(".")[2]
        place = f"{where}.{option}" if option else where
        yield replace(
            problem, what=f"{title}: {problem.what}", where=place, fix=f"{problem.fix}, or exclude {{{rule}}}"
        )


def _quoted(label: str) -> str:
    return f"'{label}'" if "(" in label else label


def _indexed(where: str, axis: str, plugins: Sequence[Plugin], plugin: Plugin) -> str:
    """`axis.option` with the plug-in's place on the axis: `axis.1.option`."""
    return where.replace(axis, f"{axis}.{plugins.index(plugin)}", 1)
