"""The verb `data`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2p_dist.cli.options import AS_JSON, OVERRIDES, RUNS_DIR, STUDY
from p2p_dist.errors import Exit

if TYPE_CHECKING:
    from p2p_dist.scheduling.study import Study


def data(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Also write the rows there, as prompts and completions, a folder per stage.")
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Also show a row of each origin token by token (loads the tokenizer).")
    ] = False,
    as_json: AS_JSON = False,
) -> int:
    """Build the rows of a study, and show their counts and some of each kind. No model is loaded, so rows that one is
    asked about first (screening) are shown once `p2p-dist run STUDY --rows-only` has made them. Workers may then be
    started by hand."""
    from p2p_dist.scheduling.study import find_study, open_study

    print_rows(open_study(find_study(study), overrides or [], runs_dir, rows_only=True), out, tokens, as_json)
    return Exit.OK


def print_rows(study: "Study", out: Path | None, tokens: bool, as_json: bool) -> None:
    """Print the rows of a study, in words or in JSON; with `out`, write them there too. Raises UserError."""
    from p2p_dist.cli.rows import show
    from p2p_dist.report import data_view

    found = show(study, out, tokens)
    print(
        json.dumps(found, indent=1)
        if as_json
        else "\n\n".join(data_view.text(facts["title"], facts) for facts in found)
    )
