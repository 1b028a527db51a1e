"""Frozen base of a stage: the named model, changed where a defense folds an adapter into it or prunes it."""

from collections.abc import Mapping
from dataclasses import replace

from p2p_dist import assets
from p2p_dist.config.stages import ModelIdentity, TrainStage
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.example import rank
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.merge import merge, prune
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.modeling.weight_checksum import WeightChecksum
from p2p_dist.results import checksums, datastore
from p2p_dist.results.rundir import RunDir

CALIBRATION_ROWS = 128
"""Training rows from which Wanda takes activations."""


def base_of(folder: RunDir, stage: TrainStage, base_cache: BaseCache, keep: bool = True) -> Base:
    """The base of a training. Pass `keep=False` where its weights will be moved (ZeRO). Raises UserError."""
    changed = stage.reads.merged is not None or stage.prune is not None
    base = cached_base(base_cache, stage.model, stage.local.model, stage.train, keep=keep and not changed)
    if stage.reads.merged is not None:
        merge(base, checksums.adapter(folder.at("train", stage.reads.merged)))
    if stage.prune is not None:
        built = datastore.read(folder.at("data", stage.reads.rows))
        calibration = sorted(built.train, key=lambda row: rank(row.text, "calibration"))[:CALIBRATION_ROWS]
        prune(base, stage.prune, Encoder.of(base, built, stage.train.max_length).rows(calibration)[0])
    return replace(base, weight_checksum=WeightChecksum(base.model)) if changed and keep else base


def cached_base(
    base_cache: BaseCache, identity: ModelIdentity, local: Mapping[str, str], train: TrainSpec, keep: bool = True
) -> Base:
    """A model as it is, from the cache where that holds it; its asset is fetched first. Raises UserError."""
    _fetch_asset(local)
    return base_cache.load(identity, local, train.dtype, train.quantization, keep=keep)


def second_base(identity: ModelIdentity, local: Mapping[str, str], train: TrainSpec) -> Base:
    """A further model beside the cached one, in the precision of `train`. Raises UserError."""
    _fetch_asset(local)
    base = load_base(identity, local, train.dtype, train.quantization)
    return replace(base, weight_checksum=WeightChecksum(base.model))


def _fetch_asset(local: Mapping[str, str]) -> None:
    if "asset" in local:
        assets.fetch(local["asset"], print)
