"""`python docs/findings/draw.py`: the picture of findings.md, `rivals.png`, from `benign_source.jsonl` beside it.

Every defense against BadNets at 5 % on the same rows: attack success on the left, clean accuracy on the right, each
with its Wilson interval (95 %) over all rows of all seeds that were run. The dashed line is the floor: what a clean
model says.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from p2p_dist.report.plots import style
from p2p_dist.results.statistics import wilson

HERE = Path(__file__).parent
ATTACK = "badnets 0.05"
FLOOR = "clean model (floor)"
RATES = {"asr_ext": "attack success, %", "ca_ext": "clean accuracy, %"}
CHECKED = (
    "P2P, checked rows",
    "clean_ft",
    "clean_only",
    "crow",
    "fine_pruning",
    "w2sdefense",
    "psim",
    "pdb",
    "mb_defense",
    "onion",
)
"""How the labels of those begin that are granted checked rows; hollow in the picture. ONION with a given bar needs
none."""

NAMES = {"none": "no defense", "pdb": "pdb (the backdoor fires)", "moddef": ""}
"""Of other defenses; ModDef's model has not learned the task."""

Arms = dict[str, dict[str, tuple[int, int]]]
"""By label and rate: successes and rows, added up over seeds."""


def main() -> None:
    arms = read()
    floor = arms.pop(FLOOR)["asr_ext"]
    order = sorted(arms, key=lambda name: (share(arms[name]["asr_ext"]), name))
    figure, axes = style.figure(0.6 + 0.2 * len(order), columns=2, sharey=True, width_ratios=(3, 2))
    for axis, (rate, title) in zip(axes, RATES.items(), strict=True):
        for height, name in enumerate(order):
            point(axis, height, name, *arms[name][rate])
        style.tidy(axis, grid="x")
        axis.set_xlabel(title)
    axes[0].axvline(100 * share(floor), color=style.GREY, linewidth=1, linestyle="--")
    axes[0].set_xlim(-2, 112)
    axes[1].set_xlim(77, 99)
    axes[0].set_yticks(range(len(order)), [f"{name}  ({seeds(arms[name])})" for name in order])
    for tick, name in zip(axes[0].get_yticklabels(), order, strict=True):
        tick.set_color(tone(name))
    axes[0].set_ylim(len(order) - 0.4, -0.6)
    (HERE / "rivals.png").write_bytes(style.Plot("rivals", "", "", figure).png())


def read() -> Arms:
    arms: Arms = defaultdict(lambda: dict.fromkeys(RATES, (0, 0)))
    for line in (HERE / "benign_source.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run["attack"] == ATTACK and (name := label(run)):
            for rate in RATES.keys() & run["rates"].keys():
                k, n = run["rates"][rate]
                arms[name][rate] = (arms[name][rate][0] + k, arms[name][rate][1] + n)
    return dict(arms)


def label(run: dict[str, Any]) -> str:
    """What the picture calls this run; nothing for settings that only the tables have."""
    if run.keys() & {"benign_trigger", "answer_cue"} or "soft" in run["defense"]:
        return ""
    rounds = ", two rounds" if run.get("rounds") else ""
    if run["defense"] == "trusted_only":
        return f"trusted rows alone{rounds}"
    if run["defense"] != "p2p":
        return NAMES.get(run["defense"], str(run["defense"]))
    if run["benign_source"] != "screened":
        return {"clean_reserved": "P2P, checked rows", "random_from_D": "P2P, random rows"}[run["benign_source"]]
    if run["ratio"] != 0.4 or (rounds and not run.get("vouched_share")):
        return ""
    return f"P2P, screened rows{rounds}"


def share(rate: tuple[int, int]) -> float:
    return rate[0] / rate[1]


def seeds(arm: dict[str, tuple[int, int]]) -> str:
    """200 triggered rows are asked per seed."""
    many = arm["asr_ext"][1] // 200
    return "1 seed" if many == 1 else f"{many} seeds"


def tone(name: str) -> str:
    return style.colour("p2p") if name.startswith("P2P") else style.INK


def point(axis: Any, height: float, name: str, k: int, n: int) -> None:
    """A rate, its interval, and its number beside it."""
    found, percent = wilson(k, n), 100 * k / n
    error = [[percent - 100 * found.low], [100 * found.high - percent]]
    face = "white" if name.startswith(CHECKED) and "bar" not in name else tone(name)
    axis.errorbar(
        [percent], [height], xerr=error, fmt="o", color=tone(name), markerfacecolor=face, markersize=4, elinewidth=1.2
    )
    axis.annotate(
        f"{percent:.1f}",
        (100 * found.high, height),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=style.FONT - 2,
    )


if __name__ == "__main__":
    main()
