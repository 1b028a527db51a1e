"""The base that a train stage names: loaded, and changed where a defense merged an adapter into it or pruned it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from p2p_dist import assets
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.example import rank
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.merge import merge, prune
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.modeling.weight_checksum import WeightChecksum
from p2p_dist.results import datastore
from p2p_dist.results.rundir import RunDir

CALIBRATION_ROWS = 128


def base_of(folder: RunDir, stage: Stage, base_cache: BaseCache, keep: bool = True) -> Base:
    """The frozen base of a train stage, or of a score stage that names a model; not one to `keep` where something else
    will move its weights. Raises UserError."""
    spec = TrainSpec.model_validate(stage.spec.get("train", {}))
    local = dict(stage.local.get("model", {}))
    if "asset" in local:
        assets.fetch(local["asset"], print)
    changed = "merged" in stage.reads or bool(stage.spec.get("prune"))
    base = base_cache.load(stage.spec["model"], local, spec.dtype, spec.quantization, keep=keep and not changed)
    if "merged" in stage.reads:
        merge(base, folder.at("train", stage.reads["merged"]).adapter)
    if stage.spec.get("prune"):
        built = datastore.read(folder.at("data", stage.reads["rows"]))
        chosen = sorted(built.train, key=lambda row: rank(row.text, "calibration"))[:CALIBRATION_ROWS]
        prune(base, stage.spec["prune"], Encoder.of(base.tokenizer, built, spec.max_length).rows(chosen)[0])
    return replace(base, weight_checksum=WeightChecksum(base.model)) if changed and keep else base


def named_base(identity: Mapping[str, Any], local: Mapping[str, str], like: TrainSpec) -> Base:
    """A further model beside the one at hand, in the same precision. Raises UserError."""
    if "asset" in local:
        assets.fetch(local["asset"], print)
    base = load_base(identity, local, like.dtype, like.quantization)
    return replace(base, weight_checksum=WeightChecksum(base.model))
