"""Modes in which the rows of a study's models are computed, read from config.json when the study is planned."""

from collections.abc import Sequence

from p2p_dist.config.families import describe_mode
from p2p_dist.config.model import ModelRef
from p2p_dist.scheduling.model_facts import config_of


def row_modes(models: Sequence[ModelRef], max_length: int) -> dict[str, str]:
    """Mode of rows of up to `max_length` tokens by the model's name, for models whose config.json is here."""
    configs = {model.name: config_of(model) for model in models}
    return {name: describe_mode(config, max_length) for name, config in configs.items() if config is not None}
