"""Help texts: groups of verbs and options, at most 80 columns, no sentence cut off."""

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from p2p_dist.cli.main import app

WIDTH = 80


def every_verb() -> list[list[str]]:
    """The words of every verb, those of `submit` included."""
    command = typer.main.get_command(app)
    words: list[list[str]] = [[]]
    for name, verb in command.commands.items():  # type: ignore[attr-defined]
        words.append([name])
        words += [[name, inner] for inner in getattr(verb, "commands", ())]
    return words


def help_of(*verb: str) -> str:
    done = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": str(WIDTH)})
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_help_of_every_verb_fits_80_columns() -> None:
    verbs = every_verb()
    assert ["submit", "slurm"] in verbs
    assert len(verbs) > 15
    assert [line for verb in verbs for line in help_of(*verb).splitlines() if len(line) > WIDTH] == []


@pytest.mark.process
def test_help_lists_verbs_in_groups_uncut() -> None:
    """Every verb stands under a heading with its whole first sentence, in a terminal; a runner of tests has two columns
    more."""
    environment = {**os.environ, "COLUMNS": str(WIDTH)}
    command = [sys.executable, "-m", "p2p_dist", "--help"]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    headings = ["Studies:", "Results:", "Data:", "Clusters:", "Reference:"]
    assert [line for line in text.splitlines() if line in headings] == headings
    assert "Commands:" not in text
    verbs = [
        line for line in text.partition("Studies:")[2].splitlines() if line.startswith("  ") and "codes" not in line
    ]
    assert [line for line in verbs if line.endswith("...")] == []
    assert "  merge          Join the same study run on two clusters." in verbs
    clusters = help_of("submit").partition("Commands:")[2]
    assert "slurm  Submit a study to Slurm, as a job or as an array." in clusters
    assert "ray    Submit a study to a Ray cluster and follow it." in clusters


def test_help_of_run_lists_options_in_groups() -> None:
    text = help_of("run")
    assert text.index("Hardware:") < text.index("--slots INT") < text.index("Jobs:") < text.index("--stall-after FLOAT")
    assert text.index("Jobs:") < text.index("Options:") < text.index("--runs-dir PATH")


def test_help_of_plan_groups_the_simulation() -> None:
    text = help_of("plan")
    simulation = text[text.index("Simulation") : text.index("Options:")]
    assert all(name in simulation for name in ("--simulate", "--mtbf", "--repair", "--seed"))
