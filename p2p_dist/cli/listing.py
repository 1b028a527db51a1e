"""The verb `list`."""

import json
from typing import Annotated

import typer

from p2p_dist.cli.options import AS_JSON
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
    print(
        json.dumps(shown, indent=1)
        if as_json
        else "\n".join(f"{key:10} {', '.join(names)}" for key, names in shown.items())
    )
    return Exit.OK
