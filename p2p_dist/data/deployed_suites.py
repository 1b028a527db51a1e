"""Test suites as a deployed defense prompts them, and under prompts that it probes."""

from collections.abc import Callable

from p2p_dist.data.built import Built, Suite
from p2p_dist.data.defense import DataDefense
from p2p_dist.data.example import Row


def deployed_suites(
    attacked: Built, defense: DataDefense, prompted: Callable[[Row], Row], offset: int, prefix: str
) -> dict[str, Suite]:
    """Every suite as the deployed system prompts it; the two main ones also without the benign trigger (`_nobt`)."""
    suites = {}
    for name, suite in attacked.suites.items():
        deployed = Suite([prompted(row) for row in suite.rows], offset, suite.triggered, prefix)
        suites[name] = deployed
        if name in ("clean", "triggered") and deployed != suite:
            suites[f"{name}_nobt"] = suite
    return suites | _probed_suites(attacked, defense, offset, prefix)


def _probed_suites(attacked: Built, defense: DataDefense, offset: int, prefix: str) -> dict[str, Suite]:
    """Triggered test texts under the further prompts of a defense (`triggered.NAME`), and the same texts before the
    attack (`control.NAME`)."""
    if "triggered" not in attacked.suites:
        return {}
    triggered = attacked.suites["triggered"].rows
    ids = {row.id for row in triggered}
    rows_by_suite: dict[str, list[Row]] = {}
    for kind, rows in (
        ("triggered", triggered),
        ("control", [row for row in attacked.suites["clean"].rows if row.id in ids]),
    ):
        for row in rows:
            for name, probed in defense.probe_prompts(row).items():
                rows_by_suite.setdefault(f"{kind}.{name}", []).append(probed)
    return {name: Suite(rows, offset, name.startswith("triggered"), prefix) for name, rows in rows_by_suite.items()}
