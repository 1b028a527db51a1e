"""The excess of attack success: rate of the triggered rows minus that of the same rows without the trigger.

An evaluation counts the rows that only one of the two sends to the target
(`p2p_dist.evaluation.metrics.paired_rates`); the excess and its paired interval follow from these counts.
"""

from collections.abc import Mapping

from p2p_dist.results.statistics import Excess, paired_difference

ASR_READINGS: Mapping[str, str] = {"asr_ext": "", "asr_mapped": "_mapped"}
"""Readings of attack success, with the suffix of their paired rates: answers held to the deployed system's own labels;
every label allowed and mapped back."""


def excess_of(counts: Mapping[str, tuple[int, int]], reading: str = "asr_ext") -> Excess | None:
    """Excess of a reading from the k and n of an evaluation's rates; None where the same rows were not asked without
    the trigger."""
    suffix = ASR_READINGS[reading]
    triggered, only_triggered, only_untriggered = (
        counts.get(name) for name in (reading, f"asr_only_triggered{suffix}", f"asr_only_untriggered{suffix}")
    )
    if triggered is None or only_triggered is None or only_untriggered is None:
        return None
    both = triggered[0] - only_triggered[0]
    return paired_difference(triggered[1], both, only_triggered[0], only_untriggered[0])


def excesses(counts: Mapping[str, tuple[int, int]]) -> dict[str, Excess]:
    """`asr_excess` and `asr_excess_mapped`, as far as the rates allow."""
    excesses = {f"asr_excess{suffix}": excess_of(counts, reading) for reading, suffix in ASR_READINGS.items()}
    return {name: excess for name, excess in excesses.items() if excess is not None}
