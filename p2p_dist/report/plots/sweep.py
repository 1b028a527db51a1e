"""Rates against a number that the study varies, as the paper's Figure 3: poisoning rate, share of benign rows, ..."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from p2p_dist.report import looks
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.groups import Estimate, Group
from p2p_dist.report.looks import Plot

RATES = (("ca_ext", "clean accuracy", "#009E73", "s"), ("asr_ext", "attack success", "#D55E00", "o"))


def draw(evidence: Evidence) -> list[Plot]:
    """One picture for each option of an attack or defense that takes at least three values while all else is the same."""
    return list(_plots(evidence))


def _plots(evidence: Evidence) -> Iterator[Plot]:
    series: dict[tuple[str, ...], dict[float, Group]] = {}
    for group in evidence.groups:
        for axis in ("attack", "defense"):
            options = _options(evidence, group, axis)
            for option, value in options.items():
                rest = tuple(f"{key}={other}" for key, other in options.items() if key != option)
                others = tuple(label for key, label in group.cell.items() if key != axis)
                series.setdefault((axis, group.cell[axis].partition("(")[0], option, *others, *rest), {})[value] = group
    for key, found in series.items():
        points = [(value, group) for value, group in sorted(found.items()) if group.rate("ca_ext")]
        if len(points) >= 3:
            yield _picture(key[0], key[1], key[2], key[3:], points)


def _options(evidence: Evidence, group: Group, axis: str) -> dict[str, float]:
    """The numbers among a plug-in's options, from the spec of the stage that it made."""
    step = "attack" if axis == "attack" else "defend"
    stages = (evidence.specs.get(stage.id, {}) for stage in group.runs[0].stages)
    specs = [stage["spec"][axis] for stage in stages if stage.get("kind") == "data" and stage["spec"].get("step") == step]
    spec: Mapping[str, Any] = next((spec for spec in specs if spec["name"] == group.cell[axis].partition("(")[0]), {})
    return {key: float(value) for key, value in spec.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def _picture(axis: str, name: str, option: str, others: Sequence[str], points: Sequence[tuple[float, Group]]) -> Plot:
    figure, axes = looks.figure(2.4)
    words = []
    values = [value for value, _ in points]
    for rate, title, colour, marker in RATES:
        found: list[tuple[float, Estimate]] = [(value, estimate) for value, group in points if (estimate := group.rate(rate))]
        if not found:
            continue
        axes.plot([value for value, _ in found], [100 * estimate.value for _, estimate in found], color=colour, marker=marker, markersize=4, linewidth=1.4)
        low, high = [100 * estimate.low for _, estimate in found], [100 * estimate.high for _, estimate in found]
        axes.fill_between([value for value, _ in found], low, high, color=colour, alpha=0.18, linewidth=0)
        axes.annotate(
            title, (found[-1][0], 100 * found[-1][1].value), xytext=(6, 0), textcoords="offset points", va="center", fontsize=looks.FONT, color=colour
        )
        words.append(f"{title}: " + ", ".join(f"{value:g} {estimate.words()}" for value, estimate in found))
    looks.tidy(axes)
    axes.set_xlabel(f"{axis}.{option} of {name}")
    axes.set_ylabel("percent of test rows")
    axes.set_ylim(-3, 103)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xlim(values[0], values[-1] + 0.22 * (values[-1] - values[0]))
    where = ", ".join(label for label in others if "=" not in label)
    file = "_".join(["sweep", name, option, *(label for label in others if "=" not in label)])
    return Plot(file, f"{name}: what {option} does ({where}); bands: deviation over seeds, or 95 % interval of one", "; ".join(words), figure)
