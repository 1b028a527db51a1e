"""One run of P2P with the library's functions: rows, attack, defense, training, answers, rates.

    python examples/one_run.py                                   # a tiny random model: seconds, and it learns nothing
    python examples/one_run.py --model smollm2-135m-instruct     # the quickstart's model: some minutes on two CPU cores

A study does the same for a whole grid, in parallel, with checkpoints and a report: `p2p-dist run quickstart`.
"""

import argparse

from p2p_dist import assets
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec, RowsSpec, TrainSpec
from p2p_dist.data import sources
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.tasks.rotten_tomatoes import RottenTomatoes
from p2p_dist.evaluation.label_scoring import score_suite
from p2p_dist.evaluation.metrics import Rate, rates
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.train_run import TrainRun


def one_run(model_name: str, source: str, rows: RowsSpec, train: TrainSpec, seed: int = 0) -> dict[str, Rate]:
    """Defend attacked rows with P2P, fine-tune on them, and return the rates of the deployed system by name."""
    # 1. Read the rows, and let the attacker poison some of them.
    task = RottenTomatoes(source=source)
    place = sources.locate(task)
    if place.kind == "embedded":
        assets.fetch(place.place, print)
    attacked = build_attacked(task, sources.read(task, place), rows, BadNets(rate=0.05, target_label=1), seed)

    # 2. Re-poison the rows with P2P's benign trigger and extended labels.
    defended = build_defended(attacked, task, P2P(ratio=0.2), seed)

    # 3. Train one adapter on the frozen base (a cohort of one run).
    model = resolve_model(model_name, configs_dir() / "models")
    if "asset" in model.local:
        assets.fetch(model.local["asset"], print)
    base = load_base(model.identity, model.local, train.dtype)
    adapters = Adapters(base.model, train.lora, runs=1)
    encoder = Encoder.of(base, defended, train.max_length)
    encoded, _ = encoder.rows(defended.train)
    trained = train_cohort(base, adapters, [TrainRun(train, seed, encoded)])[0]
    print(f"{len(encoded)} rows, {trained.steps} steps, loss {trained.loss:.3f}")

    # 4. Answer every test suite with the adapter, and count.
    adapters.load(0, trained.values)
    answers = {name: score_suite(base, encoder, suite) for name, suite in defended.suites.items()}
    return rates(answers, defended.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a name of `p2p-dist list models`, or a folder")
    parser.add_argument("--source", default="embedded", help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--rows", type=int, default=2000, help="training rows; a fifth of it tests")
    options = parser.parse_args()
    fifth = options.rows // 5
    rows = RowsSpec(train=options.rows, test=fifth, reserve=fifth)
    train = TrainSpec(learning_rate=1e-3, num_train_epochs=2, lora=LoraSpec(r=16))
    for name, rate in one_run(options.model, options.source, rows, train).items():
        print(f"{name:22} {100 * rate.k / rate.n:5.1f} % ({rate.k}/{rate.n})")


if __name__ == "__main__":
    main()
