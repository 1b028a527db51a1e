"""Verbs that make tables of rewritten texts, which attacks and defenses read."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2p_dist.errors import Exit, user_error

if TYPE_CHECKING:
    from rich.progress import Progress


def paraphrases(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Files that hold originals, beside their rewrites or alone (docs/data.md).", metavar="FILES"
        ),
    ],
    out: Annotated[Path, typer.Option(help="The table to write (JSON lines).")],
    original: Annotated[
        str | None, typer.Option(help="Column of the original text. Default: clean_text; with --model: text.")
    ] = None,
    rewritten: Annotated[str, typer.Option(help="Column of its rewrite.")] = "text",
    generator: Annotated[str, typer.Option(help="What made the rewrites; noted in every row.")] = "unknown",
    model: Annotated[
        str | None, typer.Option(help="Let this instruction-tuned model rewrite the originals (named as in a study).")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="What the model is asked; the text follows. Default: SynAttack's form.")
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(help="Regular expression that a good rewrite matches; '' for any. Default: SynAttack's form."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts that the model rewrites at a time.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="A rewrite that is longer has failed.")] = 96,
) -> int:
    """Make a paraphrase table for attacks and defenses. With --model, the same command resumes an interrupted table."""
    from p2p_dist.data.paraphrases import column, table_rows, write_table
    from p2p_dist.data.rewrites import SUBORDINATE, SYNTACTIC

    if model is None:
        good, failed = write_table(out, table_rows(files, original or "clean_text", rewritten, generator))
    else:
        recipe = (
            SYNTACTIC if instruction is None else instruction,
            _checked(SUBORDINATE if accept is None else accept),
            max_new_tokens,
        )
        good, failed = _by_model(column(files, original or "text"), model, recipe, out, batch)
    print(
        f"{out}: {good} rewrites, {failed} failed (empty, the same as the "
        f"original{', cut off or not of the form' if model else ''})"
    )
    return Exit.OK


def _checked(accept: str) -> str:
    try:
        re.compile(accept)
        return accept
    except re.error as error:
        raise user_error(
            "E243", f"not a regular expression: {error}", "--accept", "write a regular expression of Python"
        ) from error


def _by_model(texts: list[str], model: str, recipe: tuple[str, str, int], out: Path, batch: int) -> tuple[int, int]:
    from p2p_dist.config.model import resolve_model
    from p2p_dist.scheduling.study import configs_dir
    from p2p_dist.worker.paraphrase import make_table

    rewriter = resolve_model(model, configs_dir() / "models")
    with _progress() as progress:
        task = progress.add_task("texts")
        return make_table(
            texts, rewriter, recipe, out, batch, lambda done, total: progress.update(task, completed=done, total=total)
        )


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _label(row: Mapping[str, Any], where: str) -> int:
    label = row.get("label")
    if isinstance(label, str) and label.isdigit():
        return int(label)
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise user_error("E203", f"label {label!r} is not a whole number", where, "use labels 0, 1, ...")
    return label


def substitutions(
    train: Annotated[
        Path,
        typer.Argument(help="Labelled rows to learn on, with columns text and label (docs/data.md).", metavar="TRAIN"),
    ],
    others: Annotated[
        list[Path] | None,
        typer.Argument(help="Files with more texts for the table, such as test rows (column text).", metavar="OTHERS"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The table to write (JSON lines).")] = Path("lws.jsonl"),
    synonyms: Annotated[Path, typer.Option(help="Rows with `word` and `synonyms`, made from a thesaurus.")] = Path(
        "synonyms.jsonl"
    ),
    model: Annotated[str, typer.Option(help="The surrogate, named as in a study.")] = "smollm2-135m-instruct",
    target: Annotated[int, typer.Option(min=0, help="The class that the attacker wants.")] = 1,
    rate: Annotated[
        float, typer.Option(min=0.001, max=0.999, help="Poisoned rows to learn the exchanges on, as a share of all.")
    ] = 0.1,
    warm_up_epochs: Annotated[int, typer.Option(min=0, help="Epochs on clean rows first.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs on clean and poisoned rows.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of surrogate and exchanges.")] = 2e-5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> int:
    """Learn word substitutions for the attack lws. Trains a surrogate model and writes a paraphrase table."""
    from p2p_dist.config.model import resolve_model
    from p2p_dist.data.paraphrases import column
    from p2p_dist.data.tables import read_mappings
    from p2p_dist.modeling.substitution import Learning
    from p2p_dist.scheduling.study import configs_dir
    from p2p_dist.worker.word_substitution import Aim, make_table

    rows = [
        (text, _label(row, f"{train}:{line}"))
        for text, (line, row) in zip(column([train], "text"), read_mappings(train), strict=True)
    ]
    settings = Learning(warm_up_epochs, epochs, learning_rate, seed=seed)
    surrogate = resolve_model(model, configs_dir() / "models")
    texts, aim = column(others or [], "text"), Aim(target, rate)
    with _progress() as progress:
        task = progress.add_task("epochs")
        good, failed = make_table(
            rows,
            texts,
            synonyms,
            surrogate,
            aim,
            settings,
            out,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    print(f"{out}: {good} texts with exchanged words, {failed} without")
    return Exit.OK
