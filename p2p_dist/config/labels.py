"""Labels of plug-ins on the axes of a study: the name, and the options that tell two of one name apart."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from p2p_dist import registry
from p2p_dist.config.study import Plugin


def plugin_labels(plugins: Sequence[Plugin]) -> list[str]:
    """Names of the plug-ins; of one that the study has twice, with the options that differ from its defaults."""
    names = Counter(registry.name_of(plugin) for plugin in plugins)
    return [
        registry.name_of(plugin) if names[registry.name_of(plugin)] == 1 else _long_label(plugin) for plugin in plugins
    ]


def _long_label(plugin: Plugin) -> str:
    options = ", ".join(f"{key}={value}" for key, value in _flat(_changed(plugin)))
    return f"{registry.name_of(plugin)}({options})" if options else registry.name_of(plugin)


def _changed(options: BaseModel, usual: BaseModel | None = None) -> dict[str, Any]:
    """Options that differ from those of `usual`, or from their defaults; nested ones from those of the nested default,
    whose own defaults may be others."""
    changed: dict[str, Any] = {}
    for name, info in type(options).model_fields.items():
        value = getattr(options, name)
        default = info.get_default(call_default_factory=True) if usual is None else getattr(usual, name)
        if value == default:
            continue
        if isinstance(value, BaseModel):
            changed[name] = _changed(value, default if type(default) is type(value) else None)
        else:
            changed[name] = value
    return changed


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options by the key of an override, such as `screening.rounds`."""
    for key, value in options.items():
        yield from _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
