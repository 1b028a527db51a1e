"""The verb `defend`: from a file of rows to a defended model, by an ordinary study."""

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2p_dist.cli.options import (
    AS_JSON,
    CLUSTER,
    HARDWARE,
    LABEL_COLUMN,
    OVERRIDES,
    RESPONSE_COLUMN,
    SLOTS,
    TEXT_COLUMN,
)
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit, user_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p_dist.cli.data_profile import Profile
    from p2p_dist.cli.defend_study import Benign, Wish
    from p2p_dist.cli.defense_folder import DefenseFolder
    from p2p_dist.planning.cluster import ClusterSpec


def defend(
    data: Annotated[
        Path,
        typer.Argument(help="A file of rows (docs/data.md), or a folder with train and test files.", metavar="DATA"),
    ],
    model: Annotated[str, typer.Option(help="Model to fine-tune, named as in a study.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.", metavar="DIR")],
    overrides: OVERRIDES = None,
    trusted: Annotated[
        Path | None,
        typer.Option(help="File of rows that you have checked. Default: a screening chooses.", metavar="FILE"),
    ] = None,
    in_weights: Annotated[
        bool, typer.Option("--in-weights", help="Put the defense into the weights; no prompt is needed to serve.")
    ] = False,
    simulate: Annotated[
        bool, typer.Option("--simulate/--no-simulate", help="Measure the defense on an attacked copy of the rows.")
    ] = True,
    plan: Annotated[bool, typer.Option("--plan", help="Say rows, classes, time, memory and files, and stop.")] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Write DIR/study.yaml for `p2p-dist submit`, and stop.")
    ] = False,
    text_column: TEXT_COLUMN = None,
    label_column: LABEL_COLUMN = None,
    response_column: RESPONSE_COLUMN = None,
    backend: Annotated[str, typer.Option(help="ray or local, as in `p2p-dist run`.", rich_help_panel=HARDWARE)] = "ray",
    cluster: CLUSTER = None,
    slots: SLOTS = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, HOST:PORT.", rich_help_panel=HARDWARE)
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of that cluster.", rich_help_panel=HARDWARE)] = 1,
    as_json: AS_JSON = False,
) -> int:
    """Turn rows into a defended model to serve. Fine-tunes with P2P and a secret prompt, measures it on an attacked
    copy, exports, verifies and audits. The same command resumes."""
    from p2p_dist.cli.data_profile import Columns, profile
    from p2p_dist.cli.defend_study import Wish, choose_benign
    from p2p_dist.cli.defense_folder import DefenseFolder, request_of
    from p2p_dist.config.model import resolve_model
    from p2p_dist.scheduling.study import configs_dir, find_cluster

    data = data.expanduser()
    resolve_model(model, configs_dir() / "models")
    rows = profile(data, Columns(text_column, label_column, response_column))
    benign = choose_benign(rows, None if trusted is None else _count_trusted(rows, trusted))
    wish = Wish(model, in_weights, simulate)
    columns = {"text": text_column, "label": label_column, "response": response_column}
    options = {"model": model, "in_weights": in_weights, "simulate": simulate, "overrides": overrides or []}
    request = request_of(data, trusted, columns=columns, **options)
    folder, hardware = DefenseFolder(out), find_cluster(cluster, nodes, slots)
    begun = folder.is_begun(request)
    if plan:
        return _show_plan(folder, rows, wish, benign, overrides or [], hardware, as_json)
    if not begun:
        folder.begin(request)
    _write_study(folder, rows, wish, benign, trusted)
    if not as_json:
        print(*_found(rows, wish, benign), sep="\n")
    if prepare:
        print(f"p2p-dist submit slurm {_shown(folder.study)} --runs-dir {_shown(folder.runs)}")
        return Exit.OK
    from p2p_dist.cli.defend_run import run_and_export
    from p2p_dist.scheduling.execute import Launch

    launch = Launch(backend, hardware, slots, address=address, warm=True)
    return run_and_export(folder, rows, wish, launch, overrides or [], as_json)


def _count_trusted(rows: "Profile", file: Path) -> int:
    """Number of different trusted rows, read with the columns of the others. Raises UserError E201 to E203 for rows
    that cannot be read."""
    from p2p_dist.data.tables import read_rows

    if not file.is_file():
        raise user_error("E201", "no such file", str(file), "set --trusted to a file of rows")
    return len(set(read_rows(file, rows.task.check)))


def _write_study(
    folder: "DefenseFolder", rows: "Profile", wish: "Wish", benign: "Benign", trusted: Path | None
) -> None:
    """Write the study with a new secret prompt, unless there is one already: another prompt would be another
    study."""
    from p2p_dist.cli.defend_study import study_text
    from p2p_dist.deployment.secret_prompt import draw_prompt
    from p2p_dist.results import atomic

    if folder.study.is_file():
        return
    if trusted is not None:
        folder.copy_rows(rows.place, trusted)
    source = rows.place if trusted is None else folder.rows
    atomic.write_bytes(folder.study, study_text(rows, wish, benign, draw_prompt(), source).encode())


def _found(rows: "Profile", wish: "Wish", benign: "Benign") -> list[str]:
    """Lines on the rows and on what was chosen."""
    from p2p_dist.cli.defend_study import remarks
    from p2p_dist.cli.study_template import test_rows

    counts = ", ".join(f"{count:,} {split} rows" for split, count in rows.rows.items())
    if not rows.has_test:
        counts += f" ({test_rows(rows):,} of them for the test, by content)"
    answers = rows.label_column or rows.response_column or rows.chat_column
    lines = [
        f"rows      {rows.place}: {counts}",
        f"columns   text {rows.text_column or rows.chat_column!r}, answer {answers!r}",
    ]
    if rows.labels:
        lines.append("classes   " + ", ".join(f"{label} {count:,}" for label, count in rows.labels.items()))
    return [*lines, *(f"defense   {line}" for line in remarks(rows, wish, benign))]


def _show_plan(
    folder: "DefenseFolder",
    rows: "Profile",
    wish: "Wish",
    benign: "Benign",
    overrides: "Sequence[str]",
    hardware: "ClusterSpec",
    as_json: bool,
) -> int:
    """Say what the command would do. Writes nothing into the folder."""
    from p2p_dist.cli.defend_study import study_text
    from p2p_dist.cli.plan import described
    from p2p_dist.deployment.secret_prompt import draw_prompt
    from p2p_dist.report import plan_view
    from p2p_dist.scheduling.study import open_study

    with tempfile.TemporaryDirectory() as scratch:
        file = folder.study
        if not file.is_file():
            file = Path(scratch) / "study.yaml"
            file.write_text(study_text(rows, wish, benign, draw_prompt(), rows.place), encoding="utf-8")
        study = open_study(file, overrides, folder.runs)
        answer, remaining = described(study, hardware, 1)
    files = {part.name: str(part) for part in (folder.study, folder.runs, folder.served, folder.audit)}
    if as_json:
        print_json({**answer, "data": rows.to_json(), "files": files})
    else:
        print(*_found(rows, wish, benign), "", plan_view.text(study.spec.name, answer), "", sep="\n")
        print(*(f"would write {path}" for path in files.values()), sep="\n")
    return Exit.USAGE if remaining.impossible() else Exit.OK


def _shown(path: Path) -> str:
    return shlex.quote(str(path))
