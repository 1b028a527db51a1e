"""Devices behind the numbers: the same stage rounds differently on another kind, and training amplifies it."""

from collections import Counter
from collections.abc import Iterable

from p2p_dist.report.groups import Group
from p2p_dist.report.text_columns import counted


def note(groups: Iterable[Group]) -> str:
    """The kinds of device that the runs of a table were trained and evaluated on, and a warning if there are several;
    empty where no stage says."""
    runs_by_device = kinds(groups)
    if not runs_by_device:
        return ""
    if len(runs_by_device) == 1:
        return f" Device: {next(iter(runs_by_device))}."
    listed = ", ".join(f"{device} ({counted(runs, 'run')})" for device, runs in runs_by_device.most_common())
    return (
        f" This table mixes devices: {listed}. The same ids give other numbers on another kind of device, so that "
        "differences between its rows may be the device's."
    )


def kinds(groups: Iterable[Group]) -> Counter[str]:
    """Finished runs by kind of device; a run whose stages had several counts for each."""
    counted: Counter[str] = Counter()
    for group in groups:
        for run in group.runs:
            if run.rates:
                main_stages = {run.ids.get("train"), run.ids.get("eval")}
                devices = {stage.cost.get("device") for stage in run.stages if stage.id in main_stages}
                counted.update(str(device) for device in devices if device)
    return counted
