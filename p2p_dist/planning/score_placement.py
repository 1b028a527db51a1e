"""Placement of score stages: one rank without ZeRO, because a method asks the whole model about rows."""

from dataclasses import replace

from p2p_dist.config import score_methods as methods
from p2p_dist.config.model import ShapeSpec
from p2p_dist.config.study import TrainSpec
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.inference import USABLE, inference_memory
from p2p_dist.planning.memory import GIB, Memory, Split, Work, estimate
from p2p_dist.planning.passes import Device
from p2p_dist.planning.placement import Misfit, Placement, device_memory, weight_bytes

_FORWARD_ONLY = (
    methods.AnswerGradients,
    methods.AnswerStates,
    methods.CleanDistance,
    methods.FreeAnswers,
    methods.LabelScores,
    methods.PromptInformation,
    methods.TextRewrites,
    methods.WordInfluence,
    methods.WordPerplexity,
)
"""Methods that need no gradients of the base. Any other is planned as a training."""
_LOGITS_OF_ALL = (methods.AnswerGradients, methods.WordPerplexity)
"""Methods that may hold the logits of all tokens of a pass."""
_TOKENS_PER_BATCH = 2048
"""Tokens of a pass of these methods, and of those with gradients (`scores`)."""


def place_score(
    shape: ShapeSpec | None, method: methods.ScoreMethod, train: TrainSpec, cluster: ClusterSpec, answer: int = 0
) -> Placement | Misfit:
    """Place a score stage on one rank. `train` has the precision, the adapter and the length of rows of its model,
    `answer` the tokens of a text answer of the task."""
    if shape is None:
        return Placement(1, 0, "none", 1, 1, 1, None)
    cluster = cluster.model_copy(update={"layout": None})
    budget = device_memory(cluster)
    memory = score_memory(shape, method, train, cluster, answer)
    if budget is None or memory.total <= USABLE * budget:
        return Placement(1, 0, "none", 1, 1, 1, memory)
    unit = "GPU" if cluster.gpus_per_node else "worker"
    reason = (
        f"a score method ({method.name}) needs the whole model on one {unit}, {memory.total / GIB:.1f} GiB; "
        f"{cluster.name} has {USABLE * budget / GIB:.1f} GiB usable"
    )
    return Misfit(reason, f"a {unit} with {memory.total / USABLE / 1e9:.0f} GB, a smaller model or another defense")


def score_memory(
    shape: ShapeSpec, method: methods.ScoreMethod, train: TrainSpec, cluster: ClusterSpec, answer: int = 0
) -> Memory:
    """Peak memory of a score stage. A method with gradients counts as a training of one batch, or of as many rows as
    its passes hold, and as a pass beside the optimiser; a surrogate is trained in all its weights, in fp32."""
    device: Device = "cuda" if cluster.gpus_per_node else "cpu"
    gpu_bytes = device_memory(cluster) if cluster.gpus_per_node else None
    surrogate = isinstance(method, methods.WordSubstitutions)
    quantized, full = train.quantization is not None, train.is_full or surrogate
    width = 4 if surrogate else weight_bytes(train, cluster)
    work = Work(shape, train.lora, width, 1, 1, train.max_length, quantized=quantized, full=full)
    if isinstance(method, _FORWARD_ONLY):
        memory = inference_memory(work, Split(), device, gpu_bytes, _row(method, train, answer))
        tokens = max(_TOKENS_PER_BATCH, train.max_length) if isinstance(method, _LOGITS_OF_ALL) else 0
        logits = tokens * shape.vocab * (width + 3 * 4)  # in fp32 too, with their softmax and a copy
        return replace(memory, adapter=memory.adapter // 2, gradients=0, logits=logits)
    rows = max(train.global_batch, -(-_TOKENS_PER_BATCH // train.max_length))
    training, asking = (
        estimate(replace(work, rows=rows), Split(), device),
        inference_memory(work, Split(), device, gpu_bytes),
    )
    return max(training, replace(asking, optimizer=training.optimizer), key=lambda memory: memory.total)


def _row(method: methods.ScoreMethod, train: TrainSpec, answer: int) -> int | None:
    """Tokens of a row with the text that a method has the model write; None where it writes none."""
    if isinstance(method, methods.FreeAnswers):
        return train.max_length + answer
    if isinstance(method, methods.TextRewrites):
        return train.max_length + (1 + len(method.instructions)) * method.max_new_tokens
    return None
