"""The verb `data`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2p_dist.cli.options import AS_JSON, OVERRIDES, PLUGINS, RUNS_DIR, STUDY
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit

if TYPE_CHECKING:
    from p2p_dist.scheduling.study import Study


def data(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    plugins: PLUGINS = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the rows to this folder, as prompts and completions, a folder per stage."),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Also show a row of each origin as tokens (loads the tokenizer).")
    ] = False,
    as_json: AS_JSON = False,
) -> int:
    """Build a study's rows; show counts and samples. Loads no model, so rows that a model screens appear only after
    `p2p-dist run STUDY --rows-only` has made them."""
    from p2p_dist.scheduling.study import find_study, open_study

    print_rows(open_study(find_study(study), overrides or [], runs_dir, rows_only=True), out, tokens, as_json)
    return Exit.OK


def print_rows(study: "Study", out: Path | None, tokens: bool, as_json: bool) -> None:
    """Print the rows of a study as text or as JSON; with `out`, write them to that folder too. Raises UserError."""
    from p2p_dist.cli.rows import describe_rows
    from p2p_dist.report import data_view

    stages = describe_rows(study, out, tokens)
    if as_json:
        print_json(stages)
    else:
        print("\n\n".join(data_view.text(stage["title"], stage) for stage in stages))
