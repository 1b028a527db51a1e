"""The command line: verbs only. Every verb takes a study file, answers in words or `--json`, and ends with a code that
`p2p_dist.errors.Exit` names."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from p2p_dist import cli_data, cli_plan, cli_results, cli_submit
from p2p_dist.cli_plan import CHECKPOINT_EVERY, CLUSTER, COHORT
from p2p_dist.cli_results import AS_JSON, RUNS_DIR
from p2p_dist.cli_submit import OVERRIDES, STUDY
from p2p_dist.errors import Exit, UserError, user_error

Parameters = ParamSpec("Parameters")

app = typer.Typer(
    name="p2p-dist",
    help="Fine-tune language models on data you cannot trust: plan and run studies of the P2P defense, its rivals and the attacks.",
    epilog="Exit codes: 0 all done, 1 some runs failed, 2 bad input, 3 damaged files, 4 somebody else works on the study, 75 stopped on request.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
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


class Change(StrEnum):
    """What may differ from the circumstances a checkpoint was made under, when the user says so."""

    TORCH = "torch"
    TRANSFORMERS = "transformers"
    DTYPE = "dtype"
    DEVICE = "device"


app.command()(_guarded(cli_plan.plan))


@app.command()
@_guarded
def run(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    backend: Annotated[str, typer.Option(help="ray (an instance of its own on this machine) or local (plain processes). Same results.")] = "ray",
    cluster: CLUSTER = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Workers side by side. Default: one per GPU, or one with all cores.")] = None,
    cohort: COHORT = 1,
    checkpoint_every: CHECKPOINT_EVERY = 50,
    allow_change: Annotated[
        list[Change] | None,
        typer.Option(help="Go on from checkpoints made with another; it is recorded. Repeat for several."),
    ] = None,
    stall_after: Annotated[float, typer.Option(min=1, help="Seconds after which a job whose files do not move is stopped and tried again.")] = 1800,
    address: Annotated[str | None, typer.Option(help="A Ray cluster that runs already, HOST:PORT. Default: this machine alone.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes like this one in that cluster; waited for.")] = 1,
    share: Annotated[bool, typer.Option("--share", help="Take jobs one by one beside others that do the same, until all are done.")] = False,
    fresh_workers: Annotated[
        bool, typer.Option("--fresh-workers", help="A process of its own for every job. Default: workers stay, with their base loaded. Same results.")
    ] = False,
    rows_only: Annotated[
        bool, typer.Option("--rows-only", help="Stop when the rows are there that models would be trained on, screened ones too, and show them.")
    ] = False,
    as_json: AS_JSON = False,
) -> int:
    """Run what is missing of a study, then collect and report. The same command again continues or does nothing."""
    from rich.console import Console

    from p2p_dist.scheduling.claims import meet
    from p2p_dist.scheduling.execute import Launch, execute
    from p2p_dist.scheduling.prepare import settle
    from p2p_dist.scheduling.study import find_cluster, find_study, open_study, set_damaged_aside

    path = find_study(study)
    opened = open_study(path, overrides or [], runs_dir)
    for problem in set_damaged_aside(opened):
        print(problem, file=sys.stderr)
    console = Console(stderr=True)
    total = len(opened.expansion.runs)
    failed = []
    hardware = find_cluster(cluster, nodes)
    if jobs := opened.plan(hardware, cohort, rows_only=rows_only).jobs:
        console.print(f"{opened.spec.name}: {opened.runs_done()} of {total} runs done, {len(jobs)} jobs to do", highlight=False)
        changes = tuple(allow_change or ())
        launch = Launch(backend, hardware, slots, cohort, checkpoint_every, stall_after, address, changes, share, not fresh_workers, rows_only)
        failed = execute(opened, path, launch, console).failed
    else:
        settle(opened, path)
    for failure in failed:
        print(f"error[E400]: job {failure.job.lead} failed: {failure.reason}; {failure.log} ends with", *failure.tail, sep="\n  ", file=sys.stderr)
    if rows_only:
        _show_rows(opened, None, False, as_json)
        return Exit.SOME_FAILED if failed else Exit.OK
    with meet(opened.folder) if share else nullcontext():  # several controllers end at the same moment
        _report(opened.folder, as_json)
    done = opened.runs_done()
    print(f"{done} of {total} done", file=sys.stderr)
    return Exit.OK if done == total else Exit.SOME_FAILED


@app.command()
@_guarded
def data(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Also write the rows there, as prompts and completions, a folder per stage.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also show a row of each origin token by token (loads the tokenizer).")] = False,
    as_json: AS_JSON = False,
) -> int:
    """Build the rows of a study, and show their counts and some of each kind. No model is loaded, so rows that one is asked about
    first (screening) are shown once `p2p-dist run STUDY --rows-only` has made them. Workers may then be started by hand."""
    from p2p_dist.scheduling.study import find_study, open_study

    _show_rows(open_study(find_study(study), overrides or [], runs_dir, rows_only=True), out, tokens, as_json)
    return Exit.OK


app.command()(_guarded(cli_data.paraphrases))
app.command()(_guarded(cli_data.substitutions))


@app.command()
@_guarded
def status(
    study: STUDY,
    runs_dir: RUNS_DIR = Path("runs"),
    live: Annotated[bool, typer.Option("--live", help="Keep showing it until all runs are done or failed, or Ctrl-C.")] = False,
    as_json: AS_JSON = False,
) -> int:
    """Show how far a study is, from its files alone; works while it runs and after everything has died."""
    from p2p_dist.report import status_view

    folder = _folder_of(study, runs_dir)
    if live:
        status_view.follow(folder)
        return Exit.OK
    found, who = status_view.look(folder)
    print(json.dumps(status_view.facts(found, who), indent=1) if as_json else status_view.text(found, who))
    return Exit.INTEGRITY if found.problems else Exit.OK


@app.command()
@_guarded
def report(study: STUDY, runs_dir: RUNS_DIR = Path("runs"), as_json: AS_JSON = False) -> int:
    """Write `report/` of a study from what is there, finished or not, and print its table."""
    _report(_folder_of(study, runs_dir), as_json)
    return Exit.OK


app.command()(_guarded(cli_results.query))
app.command()(_guarded(cli_results.merge))
app.command()(_guarded(cli_results.compare))
app.command()(_guarded(cli_results.mirror))
submit = typer.Typer(help="Hand a study to Slurm or to a Ray cluster; the same command again is refused or attaches.", no_args_is_help=True)
submit.command()(_guarded(cli_submit.slurm))
submit.command()(_guarded(cli_submit.ray))
app.add_typer(submit, name="submit")


@app.command("list")
@_guarded
def list_(
    kind: Annotated[str | None, typer.Argument(help="studies, models, clusters, tasks, attacks, defenses or backends; default: all.")] = None,
    as_json: AS_JSON = False,
) -> int:
    """List what can be named in a study."""
    from p2p_dist import registry
    from p2p_dist.scheduling.study import CONFIGS, configs_dir

    known = {folder: sorted(path.stem for path in (configs_dir() / folder).glob("*.yaml")) for folder in CONFIGS}
    known |= {plugin: registry.names(plugin) for plugin in registry.PACKAGES}
    if kind is not None and kind not in known:
        raise user_error("E117", f"nothing is called {kind!r}", fix=f"{registry.suggest(kind, known)}one of {', '.join(known)}")
    shown = {kind: known[kind]} if kind else known
    print(json.dumps(shown, indent=1) if as_json else "\n".join(f"{key:10} {', '.join(names)}" for key, names in shown.items()))
    return Exit.OK


@app.command()
@_guarded
def doctor(as_json: AS_JSON = False) -> int:
    """Check this machine: versions, devices, caches, Ray, temporary folders. Exit code 1 when something would not work."""
    from p2p_dist import doctor as checks

    found = checks.run_checks()
    if as_json:
        print(json.dumps([check.to_json() for check in found], indent=1))
    else:
        print("\n".join(check.line() for check in found))
    return Exit.OK if all(check.ok for check in found) else Exit.SOME_FAILED


def _folder_of(study: str, runs_dir: Path) -> Any:
    """The run folder that a study file, a study name or a run folder means."""
    from p2p_dist.results.rundir import RunDir
    from p2p_dist.scheduling.study import find_study
    from p2p_dist.spec import yaml_strict

    if Path(study).is_dir():
        return RunDir(Path(study))
    path = find_study(study)
    if path.is_file():
        return RunDir(runs_dir / str(yaml_strict.read(path).data.get("name", "")))
    return RunDir(runs_dir / study)


def _show_rows(study: Any, out: Path | None, tokens: bool, as_json: bool) -> None:
    from p2p_dist.data_verb import show
    from p2p_dist.report import data_view

    found = show(study, out, tokens)
    print(json.dumps(found, indent=1) if as_json else "\n\n".join(data_view.text(facts["title"], facts) for facts in found))


def _report(folder: Any, as_json: bool) -> None:
    from p2p_dist.report import status_view, table
    from p2p_dist.report.page import write_report
    from p2p_dist.scheduling.progress import titles_of

    found, who = status_view.look(folder)
    page = write_report(folder, found, titles_of(json.loads(folder.resolved.read_text())["runs"]))
    for problem in found.problems:
        print(problem, file=sys.stderr)
    if as_json:
        print(json.dumps({**status_view.facts(found, who), "report": str(page)}, indent=1))
        return
    from rich.console import Console

    from p2p_dist.report.terminal import rich_table

    Console().print(rich_table(table.axes(found.runs), table.rows(found.runs)))
    print(f"report: {page}")
