"""Changes between the study that a run folder holds and the one that is asked for now. Pure functions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

NOT_RESULTS = ("name", "description")
"""Keys of a study that no result depends on."""
_SHOWN = 6
_NOT_SET = object()


@dataclass(frozen=True)
class StudyChanges:
    """Runs that only one of two studies has, and the settings that differ."""

    added: int
    removed_runs: int
    """Number of runs that the new study lacks."""
    removed_stages: tuple[tuple[str, str], ...]
    """Kind and id of their stages that no run of the new study needs."""
    runs: int
    """Number of runs of the old study."""
    settings: tuple[str, ...]
    """Differing settings, such as `train.learning_rate: 0.01 -> 0.02`."""

    @property
    def shown_settings(self) -> str:
        """The first differing settings on one line; another reason where none differs."""
        if not self.settings:
            return "no setting differs; files that it reads are missing, or were"
        rest = len(self.settings) - _SHOWN
        return "; ".join(self.settings[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any], old_file: Mapping[str, Any], new_file: Mapping[str, Any]
) -> StudyChanges:
    """Compare two resolved studies (`resolved.json`) and the content of their files."""
    old_runs = {run["eval"]: run for run in old["runs"]}
    new_runs = {run["eval"]: run for run in new["runs"]}
    removed = [run for id_, run in old_runs.items() if id_ not in new_runs]
    needed = {id_ for run in new["runs"] for id_ in run["stages"]}
    kinds = {stage["id"]: stage["kind"] for stage in old["stages"]}
    settings = list(changed_keys(old_file, new_file))
    if removed and not settings:
        settings = list(dict.fromkeys(_changed_inputs(removed[0], old, new)))
    return StudyChanges(
        added=len(new_runs.keys() - old_runs.keys()),
        removed_runs=len(removed),
        removed_stages=tuple(
            dict.fromkeys((kinds[id_], id_) for run in removed for id_ in run["stages"] if id_ not in needed)
        ),
        runs=len(old_runs),
        settings=tuple(settings),
    )


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted path, old and new value of every setting that differs."""
    for key in dict.fromkeys([*old, *new]):
        if not prefix and key in NOT_RESULTS:
            continue
        yield from _changes(f"{prefix}{key}", old.get(key, _NOT_SET), new.get(key, _NOT_SET))


def _changes(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, list) != isinstance(new, list):
        old, new = (value if isinstance(value, list) or value is _NOT_SET else [value] for value in (old, new))
    if old == new and type(old) is type(new):
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from changed_keys(old, new, f"{path}.")
    elif (
        isinstance(old, list)
        and isinstance(new, list)
        and [_name(item) for item in old] == [_name(item) for item in new]
    ):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _changes(f"{path}.{number}" if len(old) > 1 else path, _options(before), _options(after))
    else:
        yield f"{path}: {_shown(old)} -> {_shown(new)}"


def _name(item: Any) -> Any:
    return item.get("name") if isinstance(item, Mapping) else item


def _options(item: Any) -> Mapping[str, Any]:
    return item if isinstance(item, Mapping) else {"name": item}


def _shown(value: Any) -> str:
    return "not set" if value is _NOT_SET else json.dumps(value, ensure_ascii=False).replace('"', "")


def _changed_inputs(run: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Differing parts of the stages of one cell, for studies whose files say the same: rows, weights, code."""
    other = next((one for one in new["runs"] if one["cell"] == run["cell"]), None)
    old_stages, new_stages = ({stage["id"]: stage for stage in side["stages"]} for side in (old, new))
    pairs = zip_longest(_stages(run, old_stages), _stages(other, new_stages) if other else ())
    for before, after in pairs:
        if before and after and before["kind"] == after["kind"]:
            yield from changed_keys(before["spec"], after["spec"], f"{before['kind']}.")


def _stages(run: Mapping[str, Any], stages: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [stages[id_] for id_ in run["stages"]]
