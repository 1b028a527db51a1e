"""Passes repeated as CUDA graphs, with graphs and FlashAttention written out for CPUs, train to the bits of plain
passes."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu_passes
from bench.common import Figure
from p2p_dist.config.families import Limit
from p2p_dist.errors import Exit, UserError
from p2p_dist.modeling import packing, varlen_attention
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import Batch
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scheduling.study import open_study
from p2p_dist.training import cohort, objectives, pass_graphs
from p2p_dist.training.cohort import Cohort, Observer
from p2p_dist.training.engine import Execution, PlainEngine
from p2p_dist.training.pass_graphs import BatchMemory, PassGraphs, agree
from p2p_dist.training.train_run import TrainRun
from p2p_dist.worker.__main__ import main
from tests.contracts.carried_out import STUDY
from tests.flash_on_cpu import flash_on_cpu, with_ends
from tests.training.tape import Tape
from tests.training.test_cohort import IDENTITY, rows, spec

pytestmark = [pytest.mark.torch, pytest.mark.process]


@pytest.fixture(autouse=True)
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Batches have the ends of their rows, and graphs are tapes."""

    def packed(runs: Sequence[Sequence[Encoded]], group_by: int) -> Batch:
        return with_ends(packing.pack(runs, group_by))

    monkeypatch.setattr(cohort, "pack", packed)
    monkeypatch.setattr(pass_graphs, "CudaGraph", Tape)
    monkeypatch.setattr(Tape, "made", 0)
    with flash_on_cpu():
        yield


def trained(runs: Sequence[TrainRun], **execution: Any) -> tuple[torch.Tensor, list[float], PassGraphs | None]:
    """Numbers of all runs, their last losses, and the graphs."""
    base = load_base(IDENTITY, {}, "float32")
    adapters = Adapters(base.model, runs[0].spec.lora, len(runs))
    training = Cohort(base, adapters, runs, Observer(), Execution(**execution))
    found = training.run()
    assert isinstance(training.engine, PlainEngine)
    return torch.stack([run.values for run in found]), [run.loss for run in found], training.engine.graphs


CHANGES: list[dict[str, Any]] = [{}, {"learning_rate": 3e-3, "max_grad_norm": 0.1}]
MANY = [TrainRun(spec(num_train_epochs=6, **changes), seed, rows(60, seed)) for seed, changes in enumerate(CHANGES)]
"""Two runs whose batches have some eight widths."""


@pytest.mark.parametrize(
    ("runs", "execution"),
    [
        (MANY[:1], {}),
        (MANY, {}),
        (MANY[:1], {"micro_batch": 3}),
        (MANY[:1], {"gradient_checkpointing": True}),
    ],
    ids=["one run", "cohort", "micro-batches", "checkpointing"],
)
def test_repeated_passes_train_to_the_same_bits(runs: list[TrainRun], execution: dict[str, Any]) -> None:
    """Rows, lengths, dropout masks, numbers of answers and adapters change from batch to batch."""
    expected, losses, _ = trained(runs, **execution)
    found, same, graphs = trained(runs, cuda_graphs=True, **execution)
    assert torch.equal(found, expected)
    assert same == losses
    assert graphs is not None
    assert not graphs.refusal
    assert graphs.replayed > graphs.plain / 4
    assert Tape.made == len([form for form in graphs._forms.values() if form.recording])
    assert graphs.summary().startswith(f"CUDA graphs: {graphs.replayed} of {graphs.replayed + graphs.plain} passes")


def test_runs_that_pass_alone_have_graphs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapters of two runs lie at two places."""
    monkeypatch.setattr("p2p_dist.training.passes.apart", lambda *_: True)
    expected, _, _ = trained(MANY)
    found, _, graphs = trained(MANY, cuda_graphs=True)
    assert torch.equal(found, expected)
    assert graphs is not None
    assert graphs.replayed


ONE_FORM = [TrainRun(spec(num_train_epochs=4), 0, [row for row in rows(200, 3) if len(row.ids) == 9][:8] * 4)]
"""Batches that all have one form."""


def test_a_pass_that_depends_on_other_numbers_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch of a graph shows it: here a number of the host enters the loss, and changes."""
    steps = iter(range(1, 1000))
    plain = objectives.cross_entropy

    def with_a_number(base: Any, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
        return plain(base, batch, counts) * (1 + next(steps) // 2 % 2)

    monkeypatch.setattr(cohort, "loss_of", lambda objective: with_a_number)
    _, _, graphs = trained(ONE_FORM, cuda_graphs=True)
    assert graphs is not None
    assert "other numbers" in graphs.refusal
    assert graphs.replayed == 0
    assert graphs.summary().endswith(f"stopped: {graphs.refusal}")


def test_a_pass_that_cannot_be_recorded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = objectives.cross_entropy

    def reading(base: Any, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
        losses = plain(base, batch, counts)
        return losses * (1 if float(losses.detach().sum()) else 2)

    monkeypatch.setattr(cohort, "loss_of", lambda objective: reading)
    with pytest.raises(UserError, match="E321") as error:
        trained(ONE_FORM, cuda_graphs=True)
    assert "the host reads a number" in str(error.value)
    assert "remove cuda_graphs" in str(error.value)


def test_lack_of_memory_is_no_fault_of_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised as it is, so that the job is tried again with a smaller micro-batch."""

    def exhausted(*_: Any) -> None:
        what = "Of the allocated memory 4.10 GiB is in private pools (e.g., CUDA Graphs)"
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate 2.00 GiB. {what}")

    monkeypatch.setattr(pass_graphs, "CudaGraph", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        trained(ONE_FORM, cuda_graphs=True)


def test_rows_in_groups_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training goes on without graphs, to the bits of one that has none."""
    monkeypatch.setattr(varlen_attention, "is_right", lambda *heads: False)
    expected, _, _ = trained(ONE_FORM)
    found, _, graphs = trained(ONE_FORM, cuda_graphs=True)
    assert torch.equal(found, expected)
    assert graphs is not None
    assert graphs.summary().endswith("stopped: no variable-length attention for this model on this device")


def test_rows_too_long_for_the_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step: a repeated pass does not look at lengths."""
    monkeypatch.setattr("p2p_dist.modeling.lengths.row_limit", lambda config: Limit(8, "reads eight"))
    with pytest.raises(UserError, match="E294"):
        trained(ONE_FORM, cuda_graphs=True)


NAN = float("nan")
SUMS = [
    ("equal", [[1.0, 2.0], [3.0, NAN]], True, True),
    ("close", [[1.0, 2.001], [3.0, NAN]], False, True),
    ("a run apart", [[1.5, 2.0], [3.0, NAN]], False, False),
    ("another NaN", [[1.0, NAN], [3.0, NAN]], False, False),
    ("no NaN", [[1.0, 2.0], [3.0, 4.0]], False, False),
]


@pytest.mark.parametrize(("found", "exact", "close"), [case[1:] for case in SUMS], ids=[case[0] for case in SUMS])
def test_passes_agree_run_by_run(found: list[list[float]], exact: bool, close: bool) -> None:
    """To the bit, and to two per cent where kernels are not deterministic; a run that has diverged is no difference.
    A third run with large numbers covers nobody's."""
    large = [1e6, 1e6]
    tensors = [torch.tensor([*rows, large]) for rows in (found, [[1.0, 2.0], [3.0, NAN]])]
    assert [agree(*tensors, is_exact) for is_exact in (True, False)] == [exact, close]


def test_memory_of_batches_is_shared_and_grows() -> None:
    memory = BatchMemory()
    first = memory.places([torch.arange(6), torch.ones(2, 2)])
    smaller = memory.places([torch.arange(4), torch.ones(1, 3)])
    assert [each.data_ptr() for each in smaller] == [each.data_ptr() for each in first]
    assert smaller[1].shape == (1, 3)
    larger = memory.places([torch.arange(8), torch.ones(2, 2)])
    assert [one.data_ptr() == other.data_ptr() for one, other in zip(larger, first, strict=True)] == [False, True]
    assert first[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_benchmark_compares_equal_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gates, at sizes that say nothing, as on a GPU."""
    monkeypatch.setattr(gpu_passes, "has_gpu", lambda: True)
    figures = gpu_passes.measure(gpu_passes.parse(["--smoke", "--dtype", "float32"]))
    assert all(isinstance(figure, Figure) and all(gate.holds for gate in figure.gates) for figure in figures)
    assert len(figures) == 2
    assert Tape.made


def test_worker_repeats_passes_and_says_how_many(
    study_file: Callable[[str], Path],
    data_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The adapter's file has the same bytes."""
    monkeypatch.setenv("P2P_DIST_DATA", str(data_root))
    files = []
    for folder, options in (("plain", []), ("repeated", ["--cuda-graphs"])):
        study = open_study(study_file(STUDY), ["train.num_train_epochs=12"], tmp_path / folder)
        study.folder.write_specs(study.expansion.graph)
        for stage in study.expansion.graph.stages.values():
            assert main(["--study-dir", str(study.folder.path), "--stages", stage.id, *options]) == Exit.OK
        files += study.folder.path.glob("train/*/adapter/*.safetensors")
    assert len(files) == 2
    assert files[0].read_bytes() == files[1].read_bytes()
    said = re.search(r"CUDA graphs: (\d+) of 36 passes repeated, \d+ forms of batches$", capsys.readouterr().out, re.M)
    assert said is not None
    assert int(said[1])
