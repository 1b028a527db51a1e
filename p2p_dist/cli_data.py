"""Verbs that make data: paraphrase tables. `p2p_dist.cli` puts them on the command line."""

import re
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.data.rewrites import SUBORDINATE, SYNTACTIC
from p2p_dist.errors import Exit, user_error


def paraphrases(
    files: Annotated[list[Path], typer.Argument(help="Files that hold originals, beside their rewrites or alone (JSON lines, CSV, Parquet).")],
    out: Annotated[Path, typer.Option(help="The table to write (JSON lines).")],
    original: Annotated[str | None, typer.Option(help="Column of the original text. Default: clean_text; with --model: text.")] = None,
    rewritten: Annotated[str, typer.Option(help="Column of its rewrite.")] = "text",
    generator: Annotated[str, typer.Option(help="What made the rewrites; noted in every row.")] = "unknown",
    model: Annotated[str | None, typer.Option(help="Let this instruction-tuned model rewrite the originals (named as in a study).")] = None,
    instruction: Annotated[str, typer.Option(help="What the model is asked; the text follows. Default: SynAttack's form.", show_default=False)] = SYNTACTIC,
    accept: Annotated[str, typer.Option(help="Regular expression that a good rewrite matches; '' for any.", show_default=False)] = SUBORDINATE,
    batch: Annotated[int, typer.Option(min=1, help="Texts that the model rewrites at a time.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="A rewrite that is longer has failed.")] = 96,
) -> int:
    """Make a paraphrase table, which attacks and defenses that rewrite texts read. With --model it goes on where it was stopped."""
    from p2p_dist.data.paraphrases import column, table_rows, write_table

    if model is None:
        good, failed = write_table(out, table_rows(files, original or "clean_text", rewritten, generator))
    else:
        _check(accept)
        good, failed = _by_model(column(files, original or "text"), model, (instruction, accept, max_new_tokens), out, batch)
    print(f"{out}: {good} rewrites, {failed} failed (empty, the same as the original{', cut off or not of the form' if model else ''})")
    return Exit.OK


def _check(accept: str) -> None:
    try:
        re.compile(accept)
    except re.error as error:
        raise user_error("E243", f"not a regular expression: {error}", "--accept", "one as Python reads it") from error


def _by_model(texts: list[str], model: str, recipe: tuple[str, str, int], out: Path, batch: int) -> tuple[int, int]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from p2p_dist.rewrite_job import make_table
    from p2p_dist.scheduling.study import configs_dir
    from p2p_dist.spec.model import resolve_model

    found = resolve_model(model, configs_dir() / "models")
    with Progress("rewriting", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("texts")
        return make_table(texts, found, recipe, out, batch, lambda done, total: progress.update(task, completed=done, total=total))
