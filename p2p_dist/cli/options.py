"""Options that several verbs share, and the headings under which the help lists verbs and options."""

import os
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.external_plugins import VARIABLE

STUDIES, RESULTS, DATA, CLUSTERS, REFERENCE = "Studies", "Results", "Data", "Clusters", "Reference"
"""Groups of verbs."""
HARDWARE, JOBS, SIMULATION, COLUMNS = "Hardware", "Jobs", "Simulation (with --simulate)", "Columns of DATA"
"""Groups of options."""

STUDY = Annotated[
    str, typer.Argument(help="A study file, or a shipped study (`p2p-dist list studies`).", metavar="STUDY")
]
OVERRIDES = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the study, such as train.learning_rate=1e-4 or 'seed=[0, 1]'.", metavar="KEY=VALUE"
    ),
]
STUDY_OR_RUNS = Annotated[str, typer.Argument(help="A study, or its run folder.", metavar="STUDY")]
RUNS_DIR = Annotated[Path, typer.Option(help="Folder that holds the run folders.", envvar="P2P_DIST_RUNS")]
AS_JSON = Annotated[bool, typer.Option("--json", help="Print the answer, or the error, as JSON.")]
CLUSTER = Annotated[
    str | None,
    typer.Option(
        help="Hardware to plan for: a file, or one of `p2p-dist list clusters`. Default: this machine.",
        rich_help_panel=HARDWARE,
    ),
]
SLOTS = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Parallel workers. Default: one per GPU, or one with all cores (two are faster for small models).",
        rich_help_panel=HARDWARE,
    ),
]
COHORT = Annotated[
    int,
    typer.Option(min=1, help="Train up to this many adapters of one base in one worker.", rich_help_panel=JOBS),
]
CHECKPOINT_EVERY = Annotated[
    int,
    typer.Option(
        min=1,
        help="Training steps between two checkpoints of a run; more where writing them is slow.",
        rich_help_panel=JOBS,
    ),
]


def _use_plugins(folder: Path | None) -> Path | None:
    """Set P2P_DIST_PLUGINS, which every process of the study is started with."""
    if folder is not None:
        os.environ[VARIABLE] = str(folder.expanduser().resolve())
    return folder


PLUGINS = Annotated[
    Path | None,
    typer.Option(
        help=f"Folder with attacks/, defenses/ or tasks/ of your own. Default: ${VARIABLE}.",
        callback=_use_plugins,
        metavar="DIR",
    ),
]
TEXT_COLUMN = Annotated[
    str | None, typer.Option(help="Column of the text or prompt. Default: recognised.", rich_help_panel=COLUMNS)
]
LABEL_COLUMN = Annotated[
    str | None, typer.Option(help="Column of the label. Default: recognised.", rich_help_panel=COLUMNS)
]
RESPONSE_COLUMN = Annotated[
    str | None, typer.Option(help="Column of the response. Default: recognised.", rich_help_panel=COLUMNS)
]
