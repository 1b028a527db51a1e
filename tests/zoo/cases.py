"""The cases of the zoo: one for every family, and more where rows are long."""

from dataclasses import dataclass, field
from typing import Any

from p2p_dist.config.families import PACKED, ROW_BY_ROW, Mode


@dataclass(frozen=True)
class Case:
    """A family with changes of its config, and the mode that its rows are computed in."""

    family: str
    mode: Mode
    changes: dict[str, Any] = field(default_factory=dict)


DYNAMIC = {
    "max_position_embeddings": 16,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
}
LONG = {
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
ALL: dict[str, Case] = {
    **{family: Case(family, "packed") for family in sorted(PACKED)},
    **{family: Case(family, "row by row") for family in sorted(ROW_BY_ROW)},
    **{
        f"{family}, rows past the window": Case(family, "packed", {"sliding_window": 6})
        for family in ("mistral", "gemma2", "gemma3_text", "gpt_oss", "cohere2", "phi3", "olmo3", "exaone4")
    },
    "llama, dynamic rope": Case("llama", "packed", DYNAMIC),
    "phi3, longrope": Case("phi3", "packed", LONG),
}
CHOSEN = (
    "llama",
    "gemma2",
    "gemma2, rows past the window",
    "granite",
    "cohere",
    "gpt_oss, rows past the window",
    "gpt2",
    "gpt_neox",
    "deepseek_v3",
    "glm4_moe",
    "lfm2",
    "mamba",
    "falcon",
    "qwen2_5_vl",
    "phi3, longrope",
)
"""Those of every test run; all of them are behind `make test-zoo`."""
