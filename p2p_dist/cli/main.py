"""The command line: the list of verbs. Every verb answers in text or in JSON (`--json`) and ends with one of the exit
codes of `p2p_dist.errors.Exit`."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from p2p_dist.cli import data, deploy, doctor, init, jobs, listing, plan, results, run, status, submit, tables
from p2p_dist.cli.help import Verb, Verbs
from p2p_dist.cli.options import CLUSTERS, DATA, REFERENCE, RESULTS, STUDIES
from p2p_dist.cli.output import print_error
from p2p_dist.errors import UserError

Parameters = ParamSpec("Parameters")

app = typer.Typer(
    name="p2p-dist",
    cls=Verbs,
    help="Fine-tune language models on data you cannot trust: plan and run studies of the P2P defense, its rivals "
    "and the attacks.",
    epilog="Exit codes: 0 all done, 1 some runs failed, 2 bad input, 3 damaged files, 4 another process owns the "
    "study, 75 stopped on request.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
submit_to = typer.Typer(
    cls=Verbs,
    help="Hand a study to Slurm or to a Ray cluster. Submitting a study again is refused (Slurm) or attaches to it "
    "(Ray).",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _guarded(verb: Callable[Parameters, int]) -> Callable[Parameters, None]:
    """Turn errors that a user can act on into a message and an exit code."""

    @wraps(verb)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            code = verb(*args, **kwargs)
        except UserError as error:
            print_error(error, as_json=bool(kwargs.get("as_json")))
            code = int(error.exit_code)
        except KeyboardInterrupt:
            print("stopped; run the same command to continue", file=sys.stderr)
            code = 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        raise typer.Exit(code)

    return guarded


def _add(panel: str, verb: Callable[..., int], name: str | None = None) -> None:
    app.command(name, cls=Verb, rich_help_panel=panel)(_guarded(verb))


_add(STUDIES, init.init)
_add(STUDIES, plan.plan)
_add(STUDIES, run.run)
_add(STUDIES, status.status)
_add(STUDIES, status.report)
_add(RESULTS, results.query)
_add(RESULTS, results.compare)
_add(RESULTS, results.merge)
_add(RESULTS, results.mirror)
_add(RESULTS, deploy.export)
_add(RESULTS, deploy.predict)
_add(DATA, data.data)
_add(DATA, tables.paraphrases)
_add(DATA, tables.substitutions)
app.add_typer(submit_to, name="submit", rich_help_panel=CLUSTERS)
submit_to.command(cls=Verb)(_guarded(submit.slurm))
submit_to.command(cls=Verb)(_guarded(submit.ray))
_add(CLUSTERS, jobs.cancel)
_add(CLUSTERS, jobs.logs)
_add(REFERENCE, listing.list_, "list")
_add(REFERENCE, listing.schema)
_add(REFERENCE, doctor.doctor)
