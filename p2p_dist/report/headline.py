"""The result in sentences: attack success, what the defense leaves of it, its cost in accuracy, and the uncertainty."""

from collections.abc import Iterator, Sequence

from p2p_dist.report.groups import Estimate, Group, same_but
from p2p_dist.report.plots import style
from p2p_dist.report.table import points
from p2p_dist.results.paired_rates import ASR_READINGS
from p2p_dist.results.statistics import power_note

DEFINITIONS = (
    (
        "Attack success (ASR)",
        "the share of test rows with the attacker's trigger that the deployed model sends to the attacker's target; "
        "rows whose true label is the target do not count. Lower is better.",
    ),
    (
        "Clean-model baseline",
        "the same share for a model trained on clean rows. Some rows go there without any attack: only what "
        "exceeds the baseline is the attack's doing.",
    ),
    (
        "Excess",
        "attack success minus the share of the same rows without the trigger that the same model, asked with the same "
        "prompt, sends to the target.",
    ),
    (
        "Benign trigger",
        "the defender's own prompt, which P2P trains into the model and puts before every request. It routes round the "
        "backdoor and does not remove it, so the model must never be served without it.",
    ),
)
"""The terms that a reader needs for all the rest, each with its meaning."""


def sentences(groups: Sequence[Group]) -> list[str]:
    """The first attack that has a defended and an undefended model, how the others stand, and what is not known. Of
    models that have collapsed it says how many there are, and nothing about their rates."""
    all_pairs = list(_pairs(groups))
    if not all_pairs:
        return ["No attacked model has been evaluated beside a defended one yet."]
    pairs = [pair for pair in all_pairs if not any(group.collapsed for group in pair)]
    collapsed = list(_collapsed(groups, len(all_pairs) - len(pairs), len(all_pairs)))
    if not pairs:
        return ["No pair of an attacked and a defended model has rates that say anything.", *collapsed]
    attacked, defended = pairs[0]
    varying = [axis for axis in ("task", "model") if len({group.cell[axis] for group in groups}) > 1]
    where = ", ".join(attacked.cell[axis] for axis in varying)
    lines = [(f"{where}: " if where else "") + _compare(attacked, defended)]
    if len(pairs) > 1:
        lines.append(_others(pairs))
    success = defended.rate("asr_ext")
    if success and (nobt := defended.rate("asr_nobt")):
        lines.append(
            f"The same weights served without the benign trigger: {shown(nobt)}. The defense routes round the "
            "backdoor and does not remove it."
            if nobt.value > 0.5 > success.value
            else f"The same weights served without the benign trigger: {shown(nobt)}."
        )
    if defended.constrained and (mapped := defended.rate("asr_mapped")):
        lines.append(
            f"These answers are held to {style.title_of(defended.defense)}'s own labels (constrained decoding). With "
            f"every label allowed and mapped back, attack success is {shown(mapped)}."
        )
    lines += _untriggered(defended)
    lines += _hidden([defended for _, defended in pairs])
    if floor := defended.rate("floor"):
        lines.append(f"The clean-model baseline is {shown(floor)}.")
    lines += collapsed
    if note := power_note((defended.rate("asr_ext") or attacked.rate("asr_ext")).spread):  # type: ignore[union-attr]
        lines.append(note)
    return lines


def _untriggered(group: Group) -> Iterator[str]:
    """Attack success above the same rows without the trigger."""
    reading = "asr_mapped" if group.constrained else "asr_ext"
    untriggered, excess = group.rate(f"asr_untriggered{ASR_READINGS[reading]}"), group.excess(reading)
    if untriggered and excess:
        mapped = " (every label allowed)" if group.constrained else ""
        yield (
            f"Without the trigger, under the same prompt, the same model sends {shown(untriggered)} of these rows to "
            f"the target{mapped}: the trigger adds {points(excess.value)} points "
            f"[{points(excess.low)}, {points(excess.high)}]."
        )


def _hidden(defended: Sequence[Group]) -> Iterator[str]:
    firing = {(group.attack, group.defense): (group.hidden, group.constrained) for group in defended if group.hidden}
    for (attack, defense), (rates, constrained) in list(firing.items())[:3]:
        k, n = sum(rate["k"] for rate in rates), sum(rate["n"] for rate in rates)
        yield (
            f"Under {style.title_of(defense)} the backdoor of {attack} still fires, on {100 * k / n:.1f} % "
            f"({k}/{n}) of the triggered rows: "
            + (
                "its attack success holds only while answers are constrained to labels of its own."
                if constrained
                else "its attack success is what mapping labels back makes of that, and is no defense."
            )
        )


def _collapsed(groups: Sequence[Group], left_out: int, pairs: int) -> Iterator[str]:
    if collapsed := sum(group.collapsed for group in groups):
        models = sum(len(group.runs) - group.missing for group in groups)
        without = f", and {left_out} of {pairs} pairs are left out here" if left_out else ""
        yield (
            f"{collapsed} of {models} models collapsed to one answer: their attack rates say nothing about a "
            f"defense{without}."
        )


def shown(estimate: Estimate) -> str:
    """`4.0 % (2/50)` for one seed, `4.0 % [1.0, 9.8] over 3 seeds` for several, or `4.0 ± 1.2 % over 3 seeds` (one
    standard deviation) where their rows are not known."""
    if estimate.spread.sd is None:
        rate = estimate.rates[0]
        return f"{100 * rate.rate:.1f} % ({rate.k}/{rate.n})"
    if estimate.interval is not None:
        bounds = f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
        return f"{100 * estimate.value:.1f} % {bounds} over {estimate.spread.seeds} seeds"
    return f"{100 * estimate.value:.1f} ± {100 * estimate.spread.sd:.1f} % over {estimate.spread.seeds} seeds"


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    for attacked in groups:
        if attacked.attack == "none" or attacked.defense != "none" or not attacked.rate("asr_ext"):
            continue
        for defended in groups:
            if (
                defended.defense != "none"
                and same_but(defended.cell, attacked.cell, "defense")
                and defended.rate("asr_ext")
            ):
                yield attacked, defended


def _compare(attacked: Group, defended: Group) -> str:
    before, after = attacked.rate("asr_ext"), defended.rate("asr_ext")
    assert before
    assert after
    first = (
        f"Attack success of {attacked.attack} is {shown(before)} without a defense and {shown(after)} with "
        f"{style.title_of(defended.defense)}."
    )
    accuracy, accuracy_after = attacked.rate("ca_ext"), defended.rate("ca_ext")
    return (
        f"{first} Clean accuracy is {shown(accuracy)} and {shown(accuracy_after)}."
        if accuracy and accuracy_after
        else first
    )


def _others(pairs: Sequence[tuple[Group, Group]]) -> str:
    after = [rate.value for _, defended in pairs if (rate := defended.rate("asr_ext"))]
    before = [rate.value for attacked, _ in pairs if (rate := attacked.rate("asr_ext"))]
    return (
        f"Over all {len(pairs)} pairs of an attacked and a defended model, attack success is {100 * min(before):.1f} "
        f"to {100 * max(before):.1f} % without "
        f"a defense and {100 * min(after):.1f} to {100 * max(after):.1f} % with one."
    )
