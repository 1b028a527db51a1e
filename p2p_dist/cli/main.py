"""The command line: verbs only. Every verb takes a study file, answers in words or `--json`, and ends with a code that
`p2p_dist.errors.Exit` names."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from p2p_dist.cli import data, doctor, listing, results, study, submit, tables
from p2p_dist.errors import UserError

Parameters = ParamSpec("Parameters")

app = typer.Typer(
    name="p2p-dist",
    help="Fine-tune language models on data you cannot trust: plan and run studies of the P2P defense, its rivals "
    "and the attacks.",
    epilog="Exit codes: 0 all done, 1 some runs failed, 2 bad input, 3 damaged files, 4 somebody else works on the "
    "study, 75 stopped on request.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
submit_to = typer.Typer(
    help="Hand a study to Slurm or to a Ray cluster; the same command again is refused or attaches.",
    no_args_is_help=True,
)


def _guarded(verb: Callable[Parameters, int]) -> Callable[Parameters, None]:
    """Turn errors that a user can act on into words and an exit code."""

    @wraps(verb)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            code = verb(*args, **kwargs)
        except UserError as error:
            print(error, file=sys.stderr)
            code = int(error.exit_code)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            code = 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        raise typer.Exit(code)

    return run


app.command()(_guarded(study.plan))
app.command()(_guarded(study.run))
app.command()(_guarded(data.data))
app.command()(_guarded(tables.paraphrases))
app.command()(_guarded(tables.substitutions))
app.command()(_guarded(study.status))
app.command()(_guarded(study.report))
app.command()(_guarded(results.query))
app.command()(_guarded(results.merge))
app.command()(_guarded(results.compare))
app.command()(_guarded(results.mirror))
app.add_typer(submit_to, name="submit")
submit_to.command()(_guarded(submit.slurm))
submit_to.command()(_guarded(submit.ray))
app.command("list")(_guarded(listing.list_))
app.command()(_guarded(doctor.doctor))
