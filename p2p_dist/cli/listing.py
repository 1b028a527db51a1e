"""The verbs `list` and `schema`: what can be named in a study, and the keys that it may have."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.cli.options import AS_JSON, PLUGINS
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit, user_error


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="studies, models, clusters, tasks, attacks, defenses, backends or mirrors; or study, rows or train "
            "for the keys of a study. Default: all.",
            metavar="KIND",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="One of them, to be shown in full, such as `list defenses p2p`.", metavar="NAME"),
    ] = None,
    plugins: PLUGINS = None,
    as_json: AS_JSON = False,
) -> int:
    """List what can be named in a study, or show one in full. A plug-in is shown with its options, their types,
    defaults and documentation, its presets, the files it reads and what it takes for granted."""
    from p2p_dist import registry
    from p2p_dist.cli import describe
    from p2p_dist.scheduling.study import CONFIGS, configs_dir

    known = {folder: sorted(path.stem for path in (configs_dir() / folder).glob("*.yaml")) for folder in CONFIGS}
    known |= {kind: registry.names(kind) for kind in registry.PACKAGES}
    if kind in describe.PARTS:
        described = describe.part(str(kind))
    elif kind is not None and kind not in known:
        choices = [*known, *describe.PARTS]
        message = f"unknown kind {kind!r}{registry.suggest(kind, choices)}"
        raise user_error("E117", message, fix=f"name one of {', '.join(choices)}")
    elif kind in describe.DESCRIBED and name is None and not as_json:
        print("\n".join(describe.summaries(str(kind), known[str(kind)])))
        return Exit.OK
    elif kind is None or name is None:
        _print_names({kind: known[kind]} if kind else known, as_json)
        return Exit.OK
    elif name not in known[kind]:
        raise registry.unknown(kind, name, known[kind])
    elif kind in CONFIGS:
        _print_file(configs_dir() / kind / f"{name}.yaml", as_json)
        return Exit.OK
    elif kind in ("backends", "mirrors"):
        raise user_error("E117", f"{kind} have no options in a study", fix=f"run `p2p-dist list {kind}`")
    else:
        described = describe.plugin(kind, name)
    if as_json:
        print_json(described)
    else:
        print(describe.text(described))
    return Exit.OK


def schema(
    kind: Annotated[str, typer.Argument(help="study, model or cluster.", metavar="KIND")] = "study",
    plugins: PLUGINS = None,
) -> int:
    """Print the JSON schema of a study file for editors. It covers the plug-ins that are found now, those of --plugins
    included, with the documentation of every option."""
    from p2p_dist import registry
    from p2p_dist.config.model import ModelFile, model_names
    from p2p_dist.config.schema import model_schema, study_schema
    from p2p_dist.planning.cluster import ClusterSpec
    from p2p_dist.scheduling.study import configs_dir

    kinds = {"study": None, "model": ModelFile, "cluster": ClusterSpec}
    if kind not in kinds:
        message = f"unknown kind {kind!r}{registry.suggest(kind, kinds)}"
        raise user_error("E117", message, fix=f"name one of {', '.join(kinds)}")
    model = kinds[kind]
    print_json(model_schema(model) if model else study_schema(model_names(configs_dir() / "models")))
    return Exit.OK


def _print_names(known: dict[str, list[str]], as_json: bool) -> None:
    if as_json:
        print_json(known)
        return
    print("\n".join(_wrapped(kind, names) for kind, names in known.items()))
    if len(known) > 1:
        print(
            "\nOne in full: `p2p-dist list defenses p2p`. Keys of a study:\n`p2p-dist list study`, `rows` or `train`."
        )


def _print_file(path: Path, as_json: bool) -> None:
    from p2p_dist.config import yaml_strict

    if as_json:
        print_json({"file": str(path), **yaml_strict.read(path).data})
    else:
        print(f"# {path}\n{path.read_text()}", end="")


def _wrapped(kind: str, names: Sequence[str]) -> str:
    """The names of one kind in lines of at most 80 columns, under each other."""
    indent = " " * 11
    return textwrap.fill(f"{kind:10} {', '.join(names)}", 80, subsequent_indent=indent, break_on_hyphens=False)
