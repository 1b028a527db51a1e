"""The verb `list`."""

import textwrap
from collections.abc import Sequence
from typing import Annotated

import typer

from p2p_dist.cli.options import AS_JSON
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit, user_error


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="studies, models, clusters, tasks, attacks, defenses or backends; default: all."),
    ] = None,
    as_json: AS_JSON = False,
) -> int:
    """List what can be named in a study."""
    from p2p_dist import registry
    from p2p_dist.scheduling.study import CONFIGS, configs_dir

    known = {folder: sorted(path.stem for path in (configs_dir() / folder).glob("*.yaml")) for folder in CONFIGS}
    known |= {plugin: registry.names(plugin) for plugin in registry.PACKAGES}
    if kind is not None and kind not in known:
        raise user_error(
            "E117", f"nothing is called {kind!r}", fix=f"{registry.suggest(kind, known)}one of {', '.join(known)}"
        )
    shown = {kind: known[kind]} if kind else known
    if as_json:
        print_json(shown)
    else:
        print("\n".join(_wrapped(key, names) for key, names in shown.items()))
    return Exit.OK


def _wrapped(kind: str, names: Sequence[str]) -> str:
    """The names of one kind in lines of at most 80 columns, under each other."""
    indent = " " * 11
    return textwrap.fill(f"{kind:10} {', '.join(names)}", 80, subsequent_indent=indent, break_on_hyphens=False)
