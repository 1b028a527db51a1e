"""The report of a study: one HTML page that loads nothing, and every table and picture of it as files of their own.

What models say is hostile text: everything is escaped, pictures are images in which nothing runs, and the page's policy
allows its one style sheet and its one script by their hashes and nothing else.
"""

import base64
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jinja2
from markupsafe import Markup

from p2p_dist.config.plugin_files import left_out_lines
from p2p_dist.report import comparisons, examples, headline, latex, run_columns, table_formats
from p2p_dist.report.plots import accuracy, confidence, gantt, labels, loss, rates, scaling, sweep
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Table, consecutive, without_empty_columns
from p2p_dist.report.tables import against_paper, costs, layout, means, problems, runs, theory, weights, worst
from p2p_dist.report.tables import comparisons as comparison_table
from p2p_dist.results import atomic, confined
from p2p_dist.results.collect import Collected
from p2p_dist.results.rundir import RunDir

LIMIT = 400
_FORMATS = {"md": table_formats.markdown, "tex": latex.latex, "csv": table_formats.comma_separated}


@dataclass(frozen=True)
class Section:
    """A heading with its pictures and tables."""

    id: str
    title: str
    plots: Sequence[Plot] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)
    remarks: Sequence[str] = field(default_factory=tuple)


def write_report(folder: RunDir, collected: Collected, titles: Mapping[str, str]) -> Path:
    """Write `report/` from the results so far; a half-done study gets a half-filled report. Returns the page."""
    study_data = StudyData(folder, collected, titles)
    parts = _named(sections(study_data))
    drawings = {plot.name: plot.svg() for section in parts for plot in section.plots}
    files = _files(folder.report, parts, drawings)
    for kind in ("tables", "plots"):
        confined.make_folder(folder.report / kind)  # refused where it is a link to another place
        for path in (folder.report / kind / name for name in confined.names(folder.report / kind)):
            if path not in files and confined.kind_of(path) != "folder":
                confined.remove(path)
    for path, content in files.items():
        atomic.write_bytes(path, content)
    page = folder.report / "index.html"
    atomic.write_bytes(page, _html(study_data, parts, drawings).encode())
    return page


def _files(report: Path, parts: Sequence[Section], drawings: Mapping[str, bytes]) -> dict[Path, bytes]:
    """Every table in every format, and every picture as SVG and PNG, by path."""
    files: dict[Path, bytes] = {}
    for section in parts:
        for table in section.tables:
            for suffix, write in _FORMATS.items():
                files[report / "tables" / f"{table.name}.{suffix}"] = write(table).encode()
        for plot in section.plots:
            files[report / "plots" / f"{plot.name}.svg"] = drawings[plot.name]
            files[report / "plots" / f"{plot.name}.png"] = plot.png()
    return files


def sections(study_data: StudyData) -> list[Section]:
    """All sections that have something to show, in the order of the page: rates, how they change, then which
    differences are more than chance. Columns in which no row has anything are left out of every table."""
    parts = [
        Section("rates", "Rates", rates.draw(study_data), [*layout.build(study_data), *means.build(study_data)]),
        Section(
            "shapes",
            "Scaling and sweeps",
            [*scaling.draw(study_data), *sweep.draw(study_data), *accuracy.draw(study_data)],
        ),
        Section(
            "differences",
            "Comparisons",
            (),
            [*comparison_table.build(comparisons.compare(study_data)), *worst.build(study_data)],
            list(comparisons.left_out(study_data)),
        ),
        Section("paper", "Comparison with the paper", (), against_paper.build(study_data)),
        Section(
            "answers",
            "Model answers",
            [*confidence.draw(study_data), *labels.draw(study_data)],
            examples.build(study_data),
        ),
        Section(
            "every-run",
            "All runs",
            (),
            [*runs.build(study_data), *theory.build(study_data), *weights.build(study_data)],
        ),
        Section("cost", "Cost", [*gantt.draw(study_data), *loss.draw(study_data)], costs.build(study_data)),
        Section(
            "problems",
            "Failures and missing runs",
            (),
            problems.build(study_data),
            [*left_out_lines(study_data.collected.left_out), *problems.strangers(study_data)],
        ),
    ]
    return [
        replace(part, tables=[without_empty_columns(table) for table in part.tables])
        for part in parts
        if part.plots or part.tables or part.remarks
    ]


def _named(parts: Sequence[Section]) -> list[Section]:
    """The sections with names that are good as file names and as anchors, whatever the study calls its parts, and of
    which no two tables and no two plots have the same."""
    taken_by_tables, taken_by_plots = set[str](), set[str]()

    def unique(name: str, taken: set[str]) -> str:
        names = itertools.chain([_slug(name)], (f"{_slug(name)}_{number}" for number in itertools.count(2)))
        chosen = next(name for name in names if name.casefold() not in taken)
        taken.add(chosen.casefold())
        return chosen

    return [
        replace(
            section,
            plots=[replace(plot, name=unique(plot.name, taken_by_plots)) for plot in section.plots],
            tables=[replace(table, name=unique(table.name, taken_by_tables)) for table in section.tables],
        )
        for section in parts
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")


def _html(study_data: StudyData, parts: Sequence[Section], drawings: Mapping[str, bytes]) -> str:
    folder = Path(__file__).parent
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["consecutive"] = consecutive
    launch = {"command": [], "versions": {}, "code": "unknown", **study_data.last_launch()}
    collected = study_data.collected
    return environment.from_string((folder / "template.html").read_text(encoding="utf-8")).render(
        name=study_data.folder.path.name,
        description=collected.description,
        definitions=headline.DEFINITIONS,
        headline=[*study_data.collected.failed_screenings(), *headline.sentences(study_data.groups)],
        open=sum(run.status != "done" for run in collected.runs),
        total=len(collected.runs),
        problems=len(collected.problems),
        sections=[
            {**vars(section), "plots": [{**vars(plot), "data": _base64(drawings[plot.name])} for plot in section.plots]}
            for section in parts
        ],
        columns=run_columns.COLUMNS,
        limit=LIMIT,
        command=" ".join(launch["command"]),
        versions=", ".join(f"{name} {version}" for name, version in launch["versions"].items()),
        code=launch["code"],
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy(style),
        script_hash=_policy(script),
    )


def _policy(text: str) -> str:
    """Source expression of a content security policy that allows this text alone: its SHA-256 in base64."""
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
