"""The command line: the list of verbs. Every verb answers in text or in JSON (`--json`) and ends with one of the exit
codes of `p2p_dist.errors.Exit`."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import wraps
from typing import ParamSpec

import typer

from p2p_dist.cli import (
    audit,
    data,
    defend,
    deploy,
    doctor,
    init,
    jobs,
    listing,
    plan,
    results,
    run,
    status,
    submit,
    tables,
)
from p2p_dist.cli.help import Verb, Verbs
from p2p_dist.cli.options import CLUSTERS, DATA, REFERENCE, RESULTS, STUDIES
from p2p_dist.cli.output import print_error
from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.results.confined import storage_error
from p2p_dist.scheduling import signals

Parameters = ParamSpec("Parameters")
_RESUME = "run the same command to resume"

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

audit_of = typer.Typer(
    cls=Verbs,
    help="Look for poison in rows and in models. Says evidence or nothing found, never clean.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _guarded(verb: Callable[Parameters, int], stoppable: bool = False) -> Callable[Parameters, None]:
    """Turn errors that a user can act on into a message and an exit code. A stop request (SIGTERM, SIGUSR1) ends a
    `stoppable` verb with exit code 75 at any moment."""

    @wraps(verb)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            with signals.raising() if stoppable else nullcontext():
                code = verb(*args, **kwargs)
        except UserError as error:
            code = _show(error, kwargs)
        except signals.Stopped:
            code = _show(user_error("E412", "Stopped on request", "", _RESUME, Exit.REQUEUE), kwargs)
        except KeyboardInterrupt:
            print("stopped; run the same command to continue", file=sys.stderr)
            code = 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except OSError as os_error:
            if (refused := storage_error(os_error)) is None:
                raise
            code = _show(refused, kwargs)
        raise typer.Exit(code)

    return guarded


def _show(error: UserError, options: Mapping[str, object]) -> int:
    """Print an error as the verb's options ask for it and return its exit code."""
    print_error(error, as_json=bool(options.get("as_json")))
    return int(error.exit_code)


def _add(panel: str, verb: Callable[..., int], name: str | None = None, stoppable: bool = False) -> None:
    app.command(name, cls=Verb, rich_help_panel=panel)(_guarded(verb, stoppable))


_add(STUDIES, defend.defend, stoppable=True)
_add(STUDIES, init.init)
_add(STUDIES, plan.plan)
_add(STUDIES, run.run, stoppable=True)
_add(STUDIES, status.status)
_add(STUDIES, status.report)
_add(RESULTS, results.query)
_add(RESULTS, results.compare)
_add(RESULTS, results.merge)
_add(RESULTS, results.mirror)
_add(RESULTS, deploy.export)
_add(RESULTS, deploy.predict)
_add(RESULTS, deploy.serve)
_add(DATA, data.data)
app.add_typer(audit_of, name="audit", rich_help_panel=DATA)
audit_of.command(cls=Verb)(_guarded(audit.data))
audit_of.command(cls=Verb)(_guarded(audit.model))
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
