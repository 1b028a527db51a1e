"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

STUDY = Annotated[
    str, typer.Argument(help="A study file, or the name of a shipped study (see `p2p-dist list studies`).")
]
OVERRIDES = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the study, such as train.learning_rate=1e-4 or 'seed=[0, 1]'.", metavar="[KEY=VALUE]..."
    ),
]
RUNS_DIR = Annotated[Path, typer.Option(help="Where run folders are kept.", envvar="P2P_DIST_RUNS")]
AS_JSON = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]
CLUSTER = Annotated[
    str | None,
    typer.Option(help="Hardware to plan for: a file, or one of `p2p-dist list clusters`. Default: this machine."),
]
COHORT = Annotated[
    int, typer.Option(min=1, help="Trainings on the same base to join in one worker, as far as they fit.")
]
CHECKPOINT_EVERY = Annotated[int, typer.Option(min=1, help="Training steps between two checkpoints of a run.")]
