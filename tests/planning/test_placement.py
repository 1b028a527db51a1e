"""Placement of trainings: simplest first, and a reason with a way out when nothing fits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from p2p_dist.config.model import read_model
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import ClusterSpec, LayoutSpec, core_tflops, read_cluster, this_machine
from p2p_dist.planning.inference import USABLE
from p2p_dist.planning.memory import Split, Work, estimate
from p2p_dist.planning.nodes import spread
from p2p_dist.planning.placement import Misfit, Placement, host_bytes, place
from p2p_dist.scheduling.study import configs_dir


def gpus(memory: float, count: int = 8, nodes: int = 1) -> ClusterSpec:
    return ClusterSpec(name="test", nodes=nodes, cpus_per_node=8, gpus_per_node=count, gpu_memory_gb=memory)


def put(model: str, cluster: ClusterSpec, cohort: int = 1, **train: object) -> Placement | Misfit:
    return place(read_model(model, configs_dir() / "models").shape, TrainSpec(**train), cohort, cluster)


@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-14b"])
def test_one_gpu_while_the_base_fits(model: str) -> None:
    found = put(model, gpus(80), max_length=64)
    assert isinstance(found, Placement)
    assert (found.ranks, found.zero, found.offload, found.micro_batch, found.accumulation) == (1, 0, "none", 32, 1)


def test_a_cohort_is_as_large_as_fits() -> None:
    small, large = put("qwen3-0.6b", gpus(72), cohort=16), put("qwen3-14b", gpus(72), cohort=16)
    assert isinstance(small, Placement)
    assert isinstance(large, Placement)
    assert small.cohort > large.cohort >= 1
    assert small.micro_batch == 32, "cohorts shrink before the batch is cut"


def test_the_batch_is_cut_before_the_base_is_sharded() -> None:
    found = put("qwen3-14b", gpus(40))
    assert isinstance(found, Placement)
    assert (found.ranks, found.zero) == (1, 0)
    assert found.micro_batch * found.accumulation == 32
    assert found.accumulation > 1


def test_layers_are_computed_again_before_the_base_is_sharded() -> None:
    """Rows of 8,192 tokens: one keeps 86 GB of activations beside 30 GB of base, and 7 GB when only inputs of layers
    stay."""
    found = put("qwen3-14b", gpus(80), max_length=8192)
    assert isinstance(found, Placement)
    assert (found.ranks, found.zero, found.gradient_checkpointing) == (1, 0, True)
    assert found.micro_batch * found.accumulation == 32
    shorter = put("qwen3-14b", gpus(80), max_length=2048)
    assert isinstance(shorter, Placement)
    assert (shorter.zero, shorter.gradient_checkpointing) == (0, False), "the batch is cut first"
    quantized = put("qwen3-14b", gpus(24), max_length=4096, quantization="nf4")
    assert isinstance(quantized, Placement)
    assert quantized.gradient_checkpointing


def test_zero_3_only_when_the_base_does_not_fit() -> None:
    found = put("qwen3-14b", gpus(24))
    assert isinstance(found, Placement)
    assert (found.zero, found.offload) == (3, "none")
    assert found.ranks == 2
    over_nodes = put("qwen3-14b", gpus(8, count=4, nodes=4), max_length=64)
    assert isinstance(over_nodes, Placement)
    assert over_nodes.ranks > 4
    assert over_nodes.ranks % 4 == 0, "whole nodes"


def test_zero_3_needs_a_node_that_can_read_the_base() -> None:
    """The main rank reads the whole base into the memory of its host."""
    cluster = gpus(24, count=2)
    assert isinstance(put("qwen3-14b", cluster.model_copy(update={"memory_gb": 64.0})), Placement)
    found = put("qwen3-14b", cluster.model_copy(update={"memory_gb": 16.0}))
    assert isinstance(found, Misfit)
    assert "GiB of a node's memory to read the base" in found.reason
    assert found.nearest == "a node with 32 GB of memory"


def test_jobs_side_by_side_read_their_bases_together() -> None:
    """Four jobs of two GPUs begin at once and hold the base four times, 118 GB in all; the planner takes wider ones. A
    study of one training has one base to read."""
    cluster = gpus(24).model_copy(update={"memory_gb": 70.0})
    shape = read_model("qwen3-14b", configs_dir() / "models").shape
    several, alone = (place(shape, TrainSpec(), 1, cluster, jobs=jobs) for jobs in (None, 1))
    assert isinstance(several, Placement)
    assert isinstance(alone, Placement)
    assert (several.ranks, alone.ranks) == (4, 2)
    split = Split(2, 2, "optimizer")
    work = Work(shape, LoraSpec(), 2, 1, 1, 64, full=True)
    assert host_bytes(work, split, 4) == 4 * 16 * shape.parameters + 12 * shape.parameters, "one checkpoint at a time"


def test_everything_that_is_placed_fits() -> None:
    for memory in (6, 10, 16, 24, 40, 80):
        found = put("qwen3-8b", gpus(memory))
        if isinstance(found, Placement):
            assert found.memory is not None
            assert found.memory.total <= USABLE * memory * 1e9
            assert found.micro_batch * found.ranks * found.accumulation >= 32


def test_what_never_fits_says_what_would() -> None:
    found = put("qwen3-14b", gpus(16, count=1), max_length=4096)
    assert isinstance(found, Misfit)
    assert "needs at least" in found.reason
    needed = float(found.nearest.split("with ")[1].split(" GB")[0])
    assert isinstance(put("qwen3-14b", gpus(needed + 1, count=1), max_length=4096), Placement)


def test_shorter_rows_are_offered_where_they_help() -> None:
    shape = read_model("qwen3-0.6b", configs_dir() / "models").shape
    need = (
        estimate(Work(shape, LoraSpec(), 2, 1, 1, 1024, recompute=True, global_rows=32), Split(), "cuda").total
        / USABLE
        / 1e9
    )
    found = put("qwen3-0.6b", gpus(need, count=1), max_length=8192)
    assert isinstance(found, Misfit)
    assert "train.max_length=1024" in found.nearest


def test_unknown_shapes_and_unknown_memory_are_not_guessed() -> None:
    found = place(None, TrainSpec(), 4, gpus(80))
    assert isinstance(found, Placement)
    assert found.memory is None
    roomy = put("qwen3-14b", ClusterSpec(name="unsaid", cpus_per_node=8, gpus_per_node=1))
    assert isinstance(roomy, Placement)
    assert roomy.memory is not None


def test_core_tflops_without_bfloat16_is_lower() -> None:
    """A plan of this machine must not promise the speed of instructions that its CPU lacks."""
    speeds = [
        core_tflops(flags)
        for flags in ({"avx2"}, {"avx2", "avx512f"}, {"avx512f", "avx512_bf16"}, {"avx512_bf16", "amx_bf16"})
    ]
    assert speeds == sorted(set(speeds))
    assert speeds[-2:] == [0.1, 0.2]


def test_this_machine_has_memory() -> None:
    assert (this_machine().memory_gb or 0) > 0.1


def test_a_cluster_file_forces_a_layout() -> None:
    """Also where the planner would choose otherwise, and still within memory."""
    cluster = gpus(80, nodes=2).model_copy(update={"layout": LayoutSpec(engine="deepspeed", ranks=16, zero=3, hpz=8)})
    found = put("qwen3-8b", cluster, 4)
    assert isinstance(found, Placement)
    assert (found.ranks, found.zero, found.hpz, found.cohort, found.micro_batch, found.accumulation) == (
        16,
        3,
        8,
        1,
        2,
        1,
    )
    again = cluster.model_copy(update={"layout": LayoutSpec(engine="plain", gradient_checkpointing=True)})
    kept, recomputed = put("qwen3-8b", gpus(80, nodes=2)), put("qwen3-8b", again)
    assert isinstance(kept, Placement)
    assert isinstance(recomputed, Placement)
    assert recomputed.gradient_checkpointing
    assert kept.memory is not None
    assert recomputed.memory is not None
    assert recomputed.memory.activations < kept.memory.activations / 9
    small = cluster.model_copy(update={"gpu_memory_gb": 0.5})
    assert isinstance(put("qwen3-8b", small, 4), Misfit)
    plain = cluster.model_copy(update={"layout": LayoutSpec(engine="plain", micro_batch=8)})
    found = put("qwen3-0.6b", plain, 4)
    assert isinstance(found, Placement)
    assert (found.ranks, found.zero, found.cohort, found.micro_batch, found.accumulation) == (1, 0, 4, 8, 4)


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ({"engine": "plain", "zero": 2}, "engine plain has no zero"),
        ({"engine": "deepspeed"}, "needs zero"),
        ({"engine": "deepspeed", "zero": 2, "offload": "all"}, "need zero: 3"),
        ({"engine": "deepspeed", "zero": 3, "ranks": 6, "hpz": 4}, "hpz 4 does not divide ranks 6"),
        ({"engine": "plain", "ranks": 64}, "layout.ranks 64, evenly over 2 node"),
        ({"engine": "plain", "ranks": 9}, "layout.ranks 9, evenly over 2 node"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout: dict[str, object], why: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: c\ncpus_per_node: 8\nnodes: 2\ngpus_per_node: 8\nlayout: {json.dumps(layout)}\n")
    with pytest.raises(UserError, match=why):
        read_cluster(path)


def test_cuda_graphs_hold_activations_twice() -> None:
    """Not under ZeRO, whose passes are not repeated."""
    cluster = gpus(80)
    plain, repeated = (put("qwen3-0.6b", one) for one in (cluster, cluster.model_copy(update={"cuda_graphs": True})))
    assert isinstance(plain, Placement)
    assert isinstance(repeated, Placement)
    assert plain.memory is not None
    assert repeated.memory is not None
    assert repeated.memory.activations == 2 * plain.memory.activations
    assert repeated.memory.logits == 2 * plain.memory.logits
    work = Work(read_model("qwen3-8b", configs_dir() / "models").shape, LoraSpec(), 2, 1, 8, 128)
    assert estimate(replace(work, cuda_graphs=True), Split(8, 3), "cuda") == estimate(work, Split(8, 3), "cuda")


def test_cuda_graphs_are_refused_without_gpus(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: c\ncpus_per_node: 8\ncuda_graphs: true\n")
    with pytest.raises(UserError, match=r"cuda_graphs is for nodes with GPUs: remove it, or set gpus_per_node"):
        read_cluster(path)


@pytest.mark.parametrize(
    ("gpus_per_node", "ranks", "slots"), [(0, 2, 1), (0, 4, 1), (0, 6, 2), (0, 8, 2), (8, 2, 2), (8, 12, 12)]
)
def test_slots_of_a_gang(gpus_per_node: int, ranks: int, slots: int) -> None:
    """A GPU is a slot; where there are none a node is, and the ranks that share its cores take one together."""
    assert ClusterSpec(name="c", cpus_per_node=4, gpus_per_node=gpus_per_node, nodes=2).slots_of(ranks) == slots


def test_a_gang_is_on_as_few_nodes_as_hold_it_evenly() -> None:
    assert [spread(width, 8) for width in (1, 8, 9, 12, 16, 11)] == [(1, 1), (1, 8), (3, 3), (2, 6), (2, 8), (11, 1)]


def test_features_of_images_are_planned_and_not_sharded() -> None:
    """Images take device memory by their number and tokens, and a base that reads them is never cut by ZeRO-3."""
    shape = read_model("qwen2.5-vl-7b-instruct", configs_dir() / "models").shape
    train = TrainSpec(image_tokens=64, max_length=128, dtype="bfloat16")
    fits = place(shape, train, 1, gpus(80), images=10_000)
    assert isinstance(fits, Placement)
    assert fits.memory is not None
    assert fits.memory.images == 2 * 10_000 * 64 * 3584 * 2
    assert isinstance(place(shape, train, 1, gpus(16), images=10_000), Misfit)
    forced = gpus(80).model_copy(update={"layout": LayoutSpec(engine="deepspeed", ranks=8, zero=3)})
    refused = place(shape, train, 1, forced, images=10_000)
    assert isinstance(refused, Misfit)
    assert "ZeRO-3" in refused.reason


@pytest.mark.parametrize(
    ("model", "cluster", "layout"),
    [
        ("qwen3-0.6b", gpus(80), (1, 0, "none")),
        ("qwen3-8b", gpus(80), (4, 2, "none")),
        ("qwen3-14b", gpus(48), (8, 3, "none")),
        ("qwen3-8b", gpus(141, count=1), (1, 2, "optimizer")),
    ],
)
def test_all_weights_are_placed_by_their_memory(model: str, cluster: ClusterSpec, layout: tuple[int, int, str]) -> None:
    """On one GPU while everything fits, then ZeRO-2, then ZeRO-3; one GPU leaves the optimizer's states to its host."""
    placement = put(model, cluster, cohort=8, method="full")
    assert isinstance(placement, Placement)
    assert (placement.ranks, placement.zero, placement.offload) == layout
    assert placement.cohort == 1


def test_all_weights_need_a_host_for_a_checkpoint() -> None:
    placement = put("qwen3-8b", gpus(80).model_copy(update={"memory_gb": 64}), method="full")
    assert isinstance(placement, Misfit)
    assert "of a node's memory" in placement.reason
