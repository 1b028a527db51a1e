"""The verb `init`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.cli.options import AS_JSON, LABEL_COLUMN, RESPONSE_COLUMN, TEXT_COLUMN
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit, user_error


def init(
    place: Annotated[
        Path,
        typer.Argument(help="A file of rows (docs/data.md), or a folder with train and test files.", metavar="DATA"),
    ],
    out: Annotated[Path | None, typer.Option(help="The study file to write. Default: NAME.yaml of DATA here.")] = None,
    model: Annotated[str, typer.Option(help="The model to fine-tune, named as in a study.")] = "smollm2-135m-instruct",
    text_column: TEXT_COLUMN = None,
    label_column: LABEL_COLUMN = None,
    response_column: RESPONSE_COLUMN = None,
    as_json: AS_JSON = False,
) -> int:
    """Write a commented study for your own rows. Recognises the columns of DATA, counts labels, and compares ordinary
    fine-tuning with P2P on the rows as they are and on a copy with a simulated attack."""
    from p2p_dist.cli.data_profile import Columns, profile
    from p2p_dist.cli.study_template import study_name, study_text
    from p2p_dist.config.model import resolve_model
    from p2p_dist.scheduling.study import configs_dir

    name = study_name(place.resolve().stem)
    file = out or Path(f"{name}.yaml")
    _refuse_existing(file)
    resolve_model(model, configs_dir() / "models")
    rows = profile(place.expanduser(), Columns(text_column, label_column, response_column))
    text = study_text(rows, name, model)
    try:
        with file.open("x", encoding="utf-8") as study:
            study.write(text)
    except FileExistsError:
        _refuse_existing(file)
    except OSError as error:
        raise user_error("E127", f"cannot write: {error.strerror}", str(file), "set --out") from error
    next_steps = [f"p2p-dist {verb} {shlex.quote(str(file))}" for verb in ("plan", "data", "run")]
    if as_json:
        print_json({"study": str(file), **rows.to_json(), "next": next_steps})
        return Exit.OK
    answers = (
        f"{len(rows.labels)} labels in {rows.label_column!r}"
        if rows.labels
        else f"answers in {rows.response_column or rows.chat_column!r}"
    )
    counts = ", ".join(f"{count:,} {split} rows" for split, count in rows.rows.items())
    print(f"{file}: {counts}, texts in {rows.text_column or rows.chat_column!r}, {answers}")
    for step, purpose in zip(next_steps, ("what it would run, and how long", "its rows", "run it"), strict=True):
        print(f"  {step:40} {purpose}")
    return Exit.OK


def _refuse_existing(file: Path) -> None:
    if file.exists():
        raise user_error("E127", "the file exists", str(file), "set --out to another file, or remove this one")
