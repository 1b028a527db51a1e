"""Model types that the installed transformers knows, read from its source text: importing it would import torch."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

WITH_IMAGES = frozenset({"qwen2_5_vl"})
"""Values of `model_type` of models with a vision tower, whose rows may carry images."""
_KEY = re.compile(r'^\s+\(\s*"([^"]+)",', re.MULTILINE)


@cache
def causal_types() -> frozenset[str]:
    """Values of `model_type` that load as causal language models; empty where they cannot be read."""
    return frozenset(_keys("modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"))


@cache
def all_types() -> frozenset[str]:
    """Values of `model_type` with a configuration class; empty where they cannot be read."""
    files = ("auto_mappings.py", "configuration_auto.py")
    return frozenset(key for file in files for key in _keys(file, "CONFIG_MAPPING_NAMES"))


def _keys(file: str, name: str) -> list[str]:
    """Keys of every literal `OrderedDict([(key, value), ...])` that is assigned to a mapping or updates it."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return []
    try:
        text = (Path(spec.origin).parent / "models" / "auto" / file).read_text(encoding="utf-8")
    except OSError:
        return []
    literal = re.compile(rf"^{name}(?: = |\.update\()\s*OrderedDict\(\s*\[(.*?)^\s*\]", re.MULTILINE | re.DOTALL)
    return [key for match in literal.finditer(text) for key in _KEY.findall(match[1])]
