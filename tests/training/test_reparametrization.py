"""Generated adapters: the nets of moderate fitting, trained in place of the adapter and resumed to the bit."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from p2p_dist import registry
from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.run_settings import Settings
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.data.defenses.moddef import ModDef
from p2p_dist.errors import UserError
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.cohort import Observer, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.reparametrization import Generator
from p2p_dist.training.train_run import Trained, TrainRun
from tests.training.test_checkpoint import Keeper
from tests.training.test_cohort import IDENTITY, rows, spec

WIDTH = 2


def adapters(runs: int = 1) -> Adapters:
    return Adapters(load_base(IDENTITY, {}, "float32").model, LoraSpec(r=4), runs)


def start(generator: Generator) -> torch.Tensor:
    return generator.init_params(torch.Generator().manual_seed(1))


def nets(generator: Generator, numbers: torch.Tensor) -> list[tuple[torch.Tensor, nn.Module]]:
    """The same two nets made of torch's own layers: input and module, for A and for B."""
    found = []
    for side, (e, inner, outer) in zip(
        "AB", (numbers.split(generator.sizes)[:3], numbers.split(generator.sizes)[3:]), strict=True
    ):
        net = nn.Sequential(
            nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh(), nn.Linear(WIDTH, sum(generator.counts[side]), bias=False)
        )
        net.load_state_dict({"0.weight": inner.view(WIDTH, WIDTH), "2.weight": outer.view(-1, WIDTH)})
        found.append((e.clone().requires_grad_(), net))
    return found


def test_it_starts_with_b_zero_and_a_not() -> None:
    one = adapters()
    named = one.state_dict(Generator(one, WIDTH).values(start(Generator(one, WIDTH))))
    assert all(bool((matrix == 0).all()) == ("lora_B" in name) for name, matrix in named.items())
    of_a, inner, outer = start(Generator(one, WIDTH)).split(Generator(one, WIDTH).sizes)[:3]
    assert bool((of_a >= 0).all())
    assert max(float(inner.abs().max()), float(outer.abs().max())) <= 2**-0.5


def test_all_matrices_of_a_side_are_the_output_of_one_net() -> None:
    one = adapters()
    generator = Generator(one, WIDTH)
    numbers = start(generator) + 0.1
    expected = [net(e).detach() for e, net in nets(generator, numbers)]
    named = one.state_dict(generator.values(numbers))
    for side, whole in zip("AB", expected, strict=True):
        torch.testing.assert_close(
            torch.cat([matrix.reshape(-1) for name, matrix in named.items() if f"lora_{side}" in name]), whole
        )


def test_gradients_reach_every_number() -> None:
    one = adapters()
    generator = Generator(one, WIDTH)
    numbers = start(generator) + 0.1
    grad = torch.randn(one.size, generator=torch.Generator().manual_seed(2))
    of_sides = {
        side: torch.cat([grad[part.start : part.stop] for part in one.layout if part.side == side]) for side in "AB"
    }
    expected = []
    for side, (e, net) in zip("AB", nets(generator, numbers), strict=True):
        net(e).backward(of_sides[side])
        expected += [e.grad, *(weight.grad.reshape(-1) for weight in net.parameters() if weight.grad is not None)]
    torch.testing.assert_close(
        generator.pulled_back(numbers, grad), torch.cat([part for part in expected if part is not None])
    )


def trained(runs: list[TrainRun], observer: Observer, execution: Execution | None = None) -> list[Trained]:
    base = load_base(IDENTITY, {}, "float32")
    stacked = Adapters(base.model, runs[0].spec.lora, len(runs))
    ready = [replace(run, generator=Generator(stacked, WIDTH)) for run in runs]
    return train_cohort(base, stacked, ready, observer, execution or Execution())


class Losses(Observer):
    def __init__(self) -> None:
        self.found: list[float] = []

    def line(self, run: int, line: dict[str, float]) -> None:
        self.found.append(line["loss"])


def test_it_learns_and_ends_as_an_adapter() -> None:
    losses = Losses()
    (found,) = trained([TrainRun(spec(num_train_epochs=15), 0, rows(32, 3))], losses)
    assert found.values.numel() == adapters().size
    assert losses.found[-1] < 0.7 * losses.found[0]


def test_resumed_at_any_step_gives_the_same_bits() -> None:
    run, keeper = TrainRun(spec(), 3, rows(37, 5)), Keeper()
    (whole,) = trained([run], keeper)
    for state in keeper.states.values():
        assert state.values.numel() == Generator(adapters(), WIDTH).size
        (resumed,) = trained([replace(run, resume=state)], Observer())
        assert torch.equal(resumed.values, whole.values)


def test_a_cohort_is_its_runs_alone() -> None:
    runs = [TrainRun(spec(), 0, rows(40, 0)), TrainRun(spec(learning_rate=3e-3), 1, rows(23, 1))]
    for together, run in zip(trained(runs, Observer()), runs, strict=True):
        (alone,) = trained([run], Observer())
        torch.testing.assert_close(together.values, alone.values, atol=1e-5, rtol=0)


def test_zero_is_refused() -> None:
    with pytest.raises(UserError, match="E268"):
        trained([TrainRun(spec(), 0, rows(8, 0))], Observer(), Execution(zero=2))


def asked(plugin: ModDef) -> Stage:
    settings = Settings(
        {"rows": {}},
        registry.load("attacks", "none")(),
        {},
        {"name": "moddef"},
        {"source": "random"},
        TrainSpec().model_dump(),
        0,
        {},
    )
    build = Builder(Graph(), settings)
    return build.graph.stages[plugin.stages(build, build.attacked(None)).reads["adapter"]]


def test_what_the_variants_train() -> None:
    plain, generated = asked(ModDef()), asked(ModDef(variant="reparam"))
    assert plain.id == asked(ModDef(r=1, learning_rate=2e-5, epochs=1, width=7)).id
    assert plain.spec["train"]["lora"]["alpha"] == TrainSpec().lora.alpha
    assert (
        plain.spec["train"]["learning_rate"],
        plain.spec["train"]["num_train_epochs"],
        plain.spec["train"]["lora"]["r"],
    ) == (2e-5, 1, 1)
    train = generated.spec["train"]
    assert (train["learning_rate"], train["num_train_epochs"], train["lora"]["r"], train["lora"]["alpha"]) == (
        3e-4,
        10,
        8,
        16.0,
    )
    assert generated.spec["reparametrized"] == {"width": 2}
    assert (
        len(
            {
                plain.id,
                generated.id,
                asked(ModDef(variant="reparam", width=4)).id,
                asked(ModDef(variant="reparam", r=2)).id,
            }
        )
        == 4
    )
