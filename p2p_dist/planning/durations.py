"""Assumed durations of stages, from the model's shape and the throughput of the hardware.

A training step takes the larger of the time the host needs to issue it and the time the device needs to compute it. A
LoRA step is 4 * N_lin operations per token and an evaluation 2 * N_lin, since frozen weights need no gradient; a step
that trains all weights is 6 * N_lin.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.model import ShapeSpec
from p2p_dist.config.score_methods import PromptInformation, TextRewrites, WordSubstitutions
from p2p_dist.config.stages import AttackStage, ScoreStage, TrainStage, parse
from p2p_dist.planning.cluster import TFLOPS_PER_CORE, ClusterSpec
from p2p_dist.planning.row_tokens import TEST_ROWS, TOKENS_PER_ROW, TRAIN_ROWS, RowLengths, reads_images

NOTHING_KNOWN = RowLengths()
HOST_SECONDS_PER_LAYER = 0.0019
"""Assumed for a GPU: time to issue the forward and backward pass of one block, without CUDA graphs."""
START_SECONDS = {"gpu": 25.0, "cpu": 10.0}
"""Assumed start-up time: importing libraries, loading the base, the first step."""
TFLOPS_PER_GPU = 400.0
"""Assumed for a GPU whose throughput is not given: NeMo's LoRA rows on an H100."""


@dataclass(frozen=True)
class Rates:
    """Assumed throughput: shapes by the canonical identity of their model, the hardware, and the numbers of rows by
    split of the sources whose files tell all of them, by the digest of the source."""

    shapes: Mapping[str, ShapeSpec | None]
    cluster: ClusterSpec
    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    lengths: RowLengths = NOTHING_KNOWN

    @property
    def operations(self) -> float:
        """Operations per second of one GPU or of one worker without a GPU."""
        cluster = self.cluster
        if cluster.gpus_per_node:
            return (cluster.tflops or TFLOPS_PER_GPU) * 1e12
        return (cluster.tflops or TFLOPS_PER_CORE * cluster.cpus_per_node) / cluster.slots_per_node * 1e12

    @property
    def start_seconds(self) -> float:
        return START_SECONDS["gpu" if self.cluster.gpus_per_node else "cpu"]

    def shape_of(self, graph: Graph, stage: Stage) -> ShapeSpec | None:
        """The shape of the model that a stage works on."""
        return self.shapes.get(model_of(graph, stage))

    def seconds(self, graph: Graph, stage: Stage) -> float:
        """Assumed seconds of one stage on one device: 0 for data stages; an unknown shape counts as 10**9 weights."""
        if stage.kind in ("data", "edit"):
            return 0.0
        shape = self.shape_of(graph, stage)
        weights = shape.linear_parameters if shape else 10**9
        rows = graph.stages[stage.reads["rows"]] if "rows" in stage.reads else None
        if stage.kind != "train":
            count = self.scored_rows(graph, stage) if stage.kind == "score" else self.test_rows(graph, rows)
            return 2 * weights * self.row_tokens(graph, stage) * count * _passes(stage) / self.operations
        typed = _typed(stage)
        issue = HOST_SECONDS_PER_LAYER * shape.layers if shape and self.cluster.gpus_per_node else 0.0
        upper = (typed.train.lora.layers or shape.layers) / shape.layers if shape else 1.0
        tokens = self.row_tokens(graph, stage) * typed.train.global_batch
        operations = (6 if typed.train.is_full else 4) * weights * min(1.0, upper) * tokens
        compute = operations / self.operations
        passes = 1.0 if typed.align is None else 1.0 + typed.align.batch / typed.train.global_batch
        return float(self.steps(graph, stage) * max(issue, compute) * passes)

    def row_tokens(self, graph: Graph, stage: Stage) -> int:
        """Assumed tokens of the rows that a stage reads, as their model is shown them."""
        attacked = attacked_rows(graph, graph.stages[stage.reads["rows"]]) if "rows" in stage.reads else None
        if attacked is None:
            return TOKENS_PER_ROW
        while stage.kind != "train" and "adapter" in stage.reads:
            stage = graph.stages[stage.reads["adapter"]]
        typed = parse(stage)
        train = typed.train if isinstance(typed, TrainStage | ScoreStage) else None
        return self.lengths.tokens(attacked.source, reads_images(attacked), train)

    def steps(self, graph: Graph, stage: Stage) -> int:
        """Number of optimizer steps of a train stage."""
        typed = _typed(stage)
        rows = self.train_rows(graph, graph.stages[typed.reads.rows])
        steps = typed.train.num_train_epochs * -(-rows // typed.train.global_batch)
        return steps if typed.stop_after_steps is None else min(steps, typed.stop_after_steps)

    def train_rows(self, graph: Graph, stage: Stage | None) -> int:
        """Training rows behind a data stage: those that the study asks for, those that its file has, or an assumed
        number."""
        attacked = attacked_rows(graph, stage)
        if attacked is None:
            return TRAIN_ROWS
        if attacked.rows.train is not None:
            return attacked.rows.train
        known = self.rows.get(attacked.source)
        if not known:
            return TRAIN_ROWS
        rows = known["train"] + known.get("trusted", 0)
        # Without a test split, which a study must then ask for by number, the test rows come from these.
        return rows if "test" in known else max(1, rows - (attacked.rows.test or 0))

    def test_rows(self, graph: Graph, stage: Stage | None) -> int:
        """Test rows behind a data stage, as `train_rows` counts training rows."""
        attacked = attacked_rows(graph, stage)
        if attacked is None:
            return TEST_ROWS
        if attacked.rows.test is not None:
            return attacked.rows.test
        return self.rows.get(attacked.source, {}).get("test", TEST_ROWS)

    def scored_rows(self, graph: Graph, stage: Stage) -> int:
        """Rows that a score stage asks its model about: those of the sets that its method names, else the training
        rows. Test suites are the clean one and, behind an attack, the triggered one, each as large as the test rows."""
        rows = graph.stages[stage.reads["rows"]]
        typed = parse(stage)
        method = typed.method if isinstance(typed, ScoreStage) else None
        if isinstance(method, WordSubstitutions) or not (sets := getattr(method, "sets", ())):
            return self.train_rows(graph, rows)
        attacked = attacked_rows(graph, rows)
        suites = 2 if attacked is not None and attacked.attack.name != "none" else 1
        counts = {"train": self.train_rows(graph, rows), "reserve": attacked.rows.reserve if attacked else 0}
        test = self.test_rows(graph, rows)
        return sum(counts.get(name, suites * test if name == "suites" else test) for name in sets)

    def guesses_rows(self, graph: Graph) -> bool:
        """True if a study takes all training rows of a task, and no file says how many there are."""
        roots = (stage for stage in graph.stages.values() if stage.kind == "data" and "rows" not in stage.reads)
        attacked = (attacked_rows(graph, stage) for stage in roots)
        return any(one.rows.train is None and not self.rows.get(one.source) for one in attacked if one)


def model_of(graph: Graph, stage: Stage) -> str:
    """The canonical identity of the model that a stage works on; empty for a stage that only handles rows."""
    while not stage.model and "adapter" in stage.reads:
        stage = graph.stages[stage.reads["adapter"]]
    return stage.model


def _passes(stage: Stage) -> int:
    """Forward passes of a scoring over a row's tokens: a rewrite reads an instruction of about a row's length, the row,
    and as many tokens as it writes, for each instruction; an epoch of a surrogate is a training of all its weights; an
    answer that is scored behind several prompts is assumed to be half of a row."""
    typed = parse(stage) if stage.kind == "score" else None
    method = typed.method if isinstance(typed, ScoreStage) else None
    if isinstance(method, PromptInformation):
        return -(-(method.others + 2) // 2)
    if isinstance(method, WordSubstitutions):
        return 3 * (method.warm_up_epochs + method.epochs)
    return 3 * len(method.instructions) if isinstance(method, TextRewrites) else 1


def _typed(stage: Stage) -> TrainStage:
    typed = parse(stage)
    assert isinstance(typed, TrainStage)
    return typed


def attacked_rows(graph: Graph, stage: Stage | None) -> AttackStage | None:
    """The rows of a task that a stage reads, before any defense; None for a stage without such rows."""
    while stage is not None and "rows" in stage.reads:
        stage = graph.stages[stage.reads["rows"]]
    typed = parse(stage) if stage is not None else None
    return typed if isinstance(typed, AttackStage) else None
