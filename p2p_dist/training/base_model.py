"""Frozen base of a stage: the named model, changed where a defense folds an adapter into it or prunes it."""

from collections.abc import Mapping
from dataclasses import replace

from p2p_dist import assets
from p2p_dist.config.methods import OutlierRows
from p2p_dist.config.stages import ModelIdentity, TrainStage
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.example import rank
from p2p_dist.modeling.base import Base, empty_base, load_base, usual_device
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.guard import mode_now, set_mode
from p2p_dist.modeling.merge import merge, prune
from p2p_dist.modeling.outlier_rows import replace_outlier_rows
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.modeling.weight_checksum import WeightChecksum
from p2p_dist.results import checksums, datastore
from p2p_dist.results.rundir import RunDir
from p2p_dist.training.ranks import Ranks

CALIBRATION_ROWS = 128
"""Training rows from which Wanda takes activations."""


def base_of(folder: RunDir, stage: TrainStage, base_cache: BaseCache, keep: bool = True) -> Base:
    """The base of a training. Pass `keep=False` where its weights will be moved (ZeRO). Raises UserError."""
    base = cached_base(base_cache, stage.model, stage.local.model, stage.train, keep=keep and not _is_changed(stage))
    changed = _changed(folder, stage, base)
    return replace(changed, weight_checksum=WeightChecksum(base.model)) if _is_changed(stage) and keep else changed


def base_to_shard(folder: RunDir, stage: TrainStage, ranks: Ranks) -> Base:
    """The base of a training that will be sharded (ZeRO-3): the main rank has it in its host's memory, the others have
    nothing of its weights, and no GPU ever holds the whole. Every rank loads a base that a defense changes.

    All ranks must call it. Raises UserError.
    """
    identity, local, train = stage.model, stage.local.model, stage.train
    _fetch_asset(local)
    if ranks.main or _is_changed(stage):
        base = _changed(folder, stage, load_base(identity, local, train.dtype, train.quantization, on_host=True))
    else:
        base = empty_base(identity, local, train.dtype)
    set_mode(base.model, ranks.json_from_main(mode_now(base.model)))
    return replace(base, device=usual_device())


def _is_changed(stage: TrainStage) -> bool:
    return stage.reads.merged is not None or stage.prune is not None


def _changed(folder: RunDir, stage: TrainStage, base: Base) -> Base:
    """The base with what a defense changes in its weights."""
    if stage.reads.merged is not None:
        merge(base, checksums.adapter(folder.at("train", stage.reads.merged)))
    if stage.prune is not None:
        built = datastore.read(folder.at("data", stage.reads.calibration or stage.reads.rows))
        calibration = sorted(built.train, key=lambda row: rank(row.text, "calibration"))[:CALIBRATION_ROWS]
        encoder = Encoder.of(base, built, stage.train.max_length, stage.train.image_tokens)
        encoded, _ = encoder.rows(calibration)
        if isinstance(stage.prune, OutlierRows):
            replaced = replace_outlier_rows(base, stage.prune, encoded)
            print(f"outlier rows: {sum(replaced.values())} rows of {len(replaced)} weights replaced", flush=True)
        else:
            prune(base, stage.prune, encoded)
    return base


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
