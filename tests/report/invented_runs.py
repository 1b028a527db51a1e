"""Runs with invented rates, for tables that are read off by hand."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from p2p_dist import registry
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Table
from p2p_dist.results.collect import Collected, RunState, StageState
from p2p_dist.results.resultfile import Result
from p2p_dist.results.rundir import RunDir


def rate(k: int, n: int) -> dict[str, Any]:
    return {"k": k, "n": n, "rate": k / n}


def run(defense: str, seed: int = 0, attack: str = "badnets", floor: int | None = None, **rates: Any) -> RunState:
    cell = {"task": "sst2", "model": "Qwen/Qwen3-8B", "attack": attack, "defense": defense, "seed": str(seed)}
    stages = [StageState(f"{defense}{seed}", "train", "done", {}, {"seconds": 30.0, "cohort": 3, "tokens": 1000})]
    ids = {"train": f"{defense}{seed}", "eval": f"e{defense}{seed}", "floor": None}
    needs = asdict(registry.load("defenses", defense)().assumptions()) if defense in ("none", "p2p") else {}
    return RunState(
        cell,
        stages,
        rates,
        rate(floor, 912) if floor is not None else None,
        {"train": {"injected": {"2": 40}}},
        ids,
        needs,
    )


def study_data(tmp_path: Path, *runs: RunState, results: dict[str, Result] | None = None) -> StudyData:
    """A study of these runs. Its stages have names in place of ids, so no file could hold them."""
    stages: dict[str, dict[str, Any]] = {
        stage.id: {"kind": "train", "spec": {}, "reads": {}} for one in runs for stage in one.stages
    }
    stages |= {one.ids["eval"]: {"kind": "eval", "spec": {}, "reads": {"adapter": one.ids["train"]}} for one in runs}
    resolved = {"stages": [{"id": id_, **stage} for id_, stage in stages.items()]}
    return StudyData(RunDir(tmp_path), Collected("x", "", list(runs), results or {}, [], resolved=resolved), {})


def shown(table: Table) -> list[list[str]]:
    return [[f"{cell.shown} {cell.small}".strip() for cell in row] for row in table.rows]


def collapsing(defense: str, seed: int = 0, attack: str = "badnets", **rates: Any) -> RunState:
    """A run whose model gives every row one answer, and so never the attacker's."""
    return run(
        defense, seed, attack, ca_ext=rate(50, 100), asr_ext=rate(0, 50), majority_answer=rate(100, 100), **rates
    )
