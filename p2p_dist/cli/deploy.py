"""Verbs from a finished study to its use: export, predict, serve."""

import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2p_dist.cli.options import AS_JSON, RUNS_DIR, STUDY_OR_RUNS
from p2p_dist.cli.output import print_json
from p2p_dist.cli.run_folders import run_folder
from p2p_dist.errors import Exit, user_error

if TYPE_CHECKING:
    from p2p_dist.deployment.export import Exported


LOCAL = "127.0.0.1"
KEY = "P2P_DIST_API_KEY"
"""Variable that holds the key which requests must carry."""


class Formats(StrEnum):
    """Forms of the exported weights."""

    merged = "merged"
    adapter = "adapter"
    both = "both"


class LabelMaps(StrEnum):
    """Places of the map from deployed label words to the task's own (`deployment.contract.LabelMap`)."""

    swap = "swap"
    move = "move"
    client = "client"
    none = "none"


class Engines(StrEnum):
    """Programs that `serve` starts."""

    builtin = "builtin"


class Dtypes(StrEnum):
    """dtypes of merged weights."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def export(
    study: STUDY_OR_RUNS,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must not exist.", metavar="DIR")],
    labels: Annotated[
        list[str] | None,
        typer.Argument(help="Labels of the run, such as attack=badnets defense=p2p seed=0.", metavar="AXIS=LABEL"),
    ] = None,
    format_: Annotated[
        Formats, typer.Option("--format", help="Merged model, LoRA adapter in PEFT's format, or both.")
    ] = Formats.merged,
    label_map: Annotated[
        LabelMaps | None,
        typer.Option(help="Place of the map of label words. Default: swap; client for words of several tokens."),
    ] = None,
    dtype: Annotated[
        Dtypes | None, typer.Option(help="dtype of merged weights. Default: the one of the run's evaluation.")
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Compare prompts and answers of the exported model with the study's.")
    ] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the folder of an earlier export.")] = False,
    runs_dir: RUNS_DIR = Path("runs"),
    as_json: AS_JSON = False,
) -> int:
    """Write a finished run as a folder to serve. Weights, tokenizer, chat template with the run's prompt, contract
    (p2p.json) and model card; verified before it appears."""
    from p2p_dist.deployment.export import ADAPTER, BOTH, MERGED, Options
    from p2p_dist.deployment.export import export as write
    from p2p_dist.deployment.finished_run import choose

    run = choose(run_folder(study, runs_dir), labels or [])
    options = Options(
        {Formats.merged: MERGED, Formats.adapter: ADAPTER, Formats.both: BOTH}[format_],
        None if label_map is None else label_map.value,
        None if dtype is None else dtype.value,
        verify,
        replace,
    )
    exported = write(run, out, options, Progress("verifying"))
    if as_json:
        print_json(_described(exported))
    else:
        print(*_summary(exported), sep="\n")
    return Exit.OK


def predict(
    folder: Annotated[Path, typer.Argument(help="Folder of an export.", metavar="DIR")],
    file: Annotated[
        Path | None, typer.Argument(help="JSON lines with `text` and an `id`; - for standard input.", metavar="FILE")
    ] = None,
    text: Annotated[str | None, typer.Option(help="One text in place of a file.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; the same command resumes a partial one. Default: standard output."),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Add the log-probability of every label.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are answered and written at a time.")] = 1024,
) -> int:
    """Answer texts with an exported model. JSON lines in and out; `outside` marks answers that are no deployed
    label."""
    from p2p_dist.deployment import contract
    from p2p_dist.deployment.prediction_files import Input, read_inputs, resume, write_lines

    contract.read(folder)
    inputs = [Input("1", text)] if text is not None else read_inputs(_lines(file), str(file or "standard input"))
    done = resume(out, inputs) if out is not None else 0
    if done == len(inputs):
        return Exit.OK
    from p2p_dist.deployment.loaded import load  # torch
    from p2p_dist.deployment.predict import predict as answer

    progress = Progress("rows")
    answers = answer(load(folder), inputs[done:], scores, batch, lambda n: progress("", done + n, len(inputs)))
    if out is None:
        write_lines(answers, sys.stdout)
    else:
        with out.open("a", encoding="utf-8") as target:
            write_lines(answers, target)
    return Exit.OK


def serve(
    folder: Annotated[Path, typer.Argument(help="Folder of an export.", metavar="DIR")],
    engine: Annotated[
        Engines, typer.Option(help="Program that answers. For vLLM and transformers, see DIR/serve.")
    ] = Engines.builtin,
    host: Annotated[str, typer.Option(help=f"Address to listen on; beyond this machine, ${KEY} must be set.")] = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, help="Requests that are answered together.")] = 64,
    allow_raw: Annotated[
        bool, typer.Option("--allow-raw", help="Continue raw prompts too, which bypass the defense.")
    ] = False,
) -> int:
    """Answer over HTTP with an exported model. OpenAI's chat completions; raw completions are refused, and /metrics
    counts answers that are no deployed label."""
    from p2p_dist.deployment import contract

    contract.read(folder)
    key = os.environ.get(KEY) or None
    if key is None and host not in (LOCAL, "localhost", "::1"):
        what = f"whoever reaches {host} could use the model"
        raise user_error("E162", what, "--host", f"set {KEY}, or listen on {LOCAL}")
    from aiohttp import web

    from p2p_dist.deployment.loaded import load  # torch
    from p2p_dist.deployment.server import Server

    server = Server(load(folder), batch, key, allow_raw)
    print(f"http://{host}:{port}/v1/chat/completions ({engine.value}; Ctrl-C ends it)", file=sys.stderr, flush=True)
    web.run_app(server.app(), host=host, port=port, print=None)
    return Exit.OK


def _lines(file: Path | None) -> Iterator[str]:
    """Lines of a file or of standard input. Lines end with newlines alone: a text may hold U+2028."""
    if file is None and sys.stdin.isatty():
        raise user_error("E160", "nothing to answer", "the command line", "name a FILE, or set --text")
    if file is None or str(file) == "-":
        yield from sys.stdin
    elif file.is_file():
        with file.open(encoding="utf-8", newline="\n") as lines:
            yield from lines
    else:
        raise user_error("E160", "no such file", str(file), "name a file of JSON lines")


class Progress:
    """Rows done, on one line of standard error where that is a terminal."""

    def __init__(self, title: str):
        self.title = title

    def __call__(self, part: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            words = " ".join(word for word in (self.title, part) if word)
            print(f"\r{words}: {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)


def _described(exported: "Exported") -> dict[str, object]:
    verification = exported.verification
    return {
        "folder": str(exported.folder),
        "contract": exported.contract.model_dump(mode="json", by_alias=True),
        "verification": None if verification is None else verification.to_json(),
        "remark": exported.remark,
    }


def _summary(exported: "Exported") -> list[str]:
    lines = [exported.remark] if exported.remark else []
    verification = exported.verification
    lines.append(verification.summary if verification else "not verified")
    lines += [
        f"flip: {flip.suite}/{flip.id} {flip.before} -> {flip.after}"
        for agreement in (verification.agreement.values() if verification else ())
        for flip in agreement.flips
    ]
    lines.append(f"{exported.folder}: how to call it is in its README.md; `p2p-dist predict {exported.folder} FILE`")
    return lines
