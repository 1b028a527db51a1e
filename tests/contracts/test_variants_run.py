"""Options of defenses with stages of their own go from plan to rates on the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.scheduling.study import open_study
from tests.contracts.carried_out import GO_ON, STUDY, carried_out

VARIANTS: list[tuple[str, str, dict[str, int]]] = [
    ("inoculation", f"where: suspects, probe: true, {GO_ON}", {"asr_ext.inoculated": 6, "asr_control.inoculated": 6}),
    ("abl", "isolate: trained, unlearn: leave_out", {}),
    ("cube", "epochs: null", {}),
    ("seep", f"looks: both, {GO_ON}", {}),
    ("prototype_filter", "states: trained", {}),
    ("p2p", "further_steps: 2", {"asr_nobt": 6}),
    ("back_translation", "rewriter: tiny, max_new_tokens: 3, min_coverage: 0.0", {}),
    ("fine_pruning", "further_steps: 2", {}),
]


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize(("name", "options", "counts"), VARIANTS)
def test_variant_from_plan_to_rates(
    name: str, options: str, counts: dict[str, int], study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    study = open_study(study_file(STUDY), [f"defense={{name: {name}, {options}}}"], tmp_path / "runs")
    (run,) = study.expansion.runs
    rates = json.loads(carried_out(study).at("eval", run.evaluation).result.read_text())["rates"]
    assert {rate: rates[rate]["n"] for rate in counts} == counts
    assert (rates["ca_ext"]["n"], rates["asr_ext"]["n"]) == (12, 6)
