"""The report of a study: one HTML page that loads nothing, and the same table and picture as files of their own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from p2p_dist.report import plot, table
from p2p_dist.results import atomic
from p2p_dist.results.collect import Collected, RunState
from p2p_dist.results.rundir import RunDir


def write_report(folder: RunDir, found: Collected, titles: dict[str, str]) -> Path:
    """Write `report/` from what is there; a half-done study gets a half-filled report. Returns the page."""
    runs = found.runs
    page = folder.report / "index.html"
    svg = plot.rates_svg(runs)
    atomic.write_bytes(page, _html(folder, runs, titles, svg).encode())
    atomic.write_bytes(folder.report / "tables" / "rates.md", table.markdown(runs).encode())
    atomic.write_bytes(folder.report / "plots" / "rates.svg", svg.encode())
    atomic.write_bytes(folder.report / "plots" / "rates.png", plot.rates_png(runs))
    return page


def headline(runs: Sequence[RunState]) -> str:
    """The result in words: attacked beside defended, for the first attack that has both."""
    for attacked in runs:
        if attacked.cell["attack"] == "none" or attacked.cell["defense"] != "none" or not attacked.rates:
            continue
        for defended in runs:
            same = all(defended.cell[axis] == attacked.cell[axis] for axis in attacked.cell if axis != "defense")
            if same and defended.cell["defense"] != "none" and defended.rates:
                return _compare(attacked, defended)
    return "No attacked model has been evaluated beside a defended one yet."


def _compare(attacked: RunState, defended: RunState) -> str:
    def shown(run: RunState, name: str) -> str:
        rate = run.rates[name]
        return f"{100 * rate['rate']:.1f} % ({rate['k']}/{rate['n']})"

    return (
        f"{attacked.cell['attack']} succeeds on {shown(attacked, 'asr_ext')} of the triggered rows; with {defended.cell['defense']} "
        f"on {shown(defended, 'asr_ext')}. Clean accuracy goes from {shown(attacked, 'ca_ext')} to {shown(defended, 'ca_ext')}."
    )


def _html(folder: RunDir, runs: Sequence[RunState], titles: dict[str, str], svg: str) -> str:
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (Path(__file__).parent / "template.html").read_text(encoding="utf-8")
    )
    stages = {stage.id: stage for run in runs for stage in run.stages}
    launches = _launches(folder)
    last = launches[-1] if launches else {"command": [], "versions": {}}
    return template.render(
        name=folder.path.name,
        description=json.loads(folder.resolved.read_text())["description"],
        headline=headline(runs),
        open=sum(run.status != "done" for run in runs),
        total=len(runs),
        axes=table.axes(runs),
        columns=table.COLUMNS,
        rows=table.rows(runs),
        plot=Markup(svg),  # our own drawing; its labels are escaped by matplotlib
        stages=[{"title": titles.get(id_, id_), "id": id_, "status": stage.status, "cost": stage.cost} for id_, stage in stages.items()],
        command=" ".join(last["command"]),
        versions=", ".join(f"{name} {version}" for name, version in last["versions"].items()),
    )


def _launches(folder: RunDir) -> list[dict[str, Any]]:
    return list(json.loads(folder.provenance.read_text())["launches"]) if folder.provenance.is_file() else []
