"""The kinds of device behind a table."""

from dataclasses import replace

import pytest

from p2p_dist.report.devices import kinds, note
from p2p_dist.report.groups import Group, group
from p2p_dist.results.collect import RunState
from tests.report.invented_runs import rate, run


def on(device: str | None, defense: str) -> RunState:
    one = run(defense, ca_ext=rate(1, 2))
    cost = {} if device is None else {"device": device}
    return replace(one, stages=[replace(stage, cost=cost) for stage in one.stages])


def groups(*devices: str | None) -> list[Group]:
    return group([on(device, defense) for device, defense in zip(devices, ("none", "p2p", "onion"), strict=False)])


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ((None, None), ""),
        (("EPYC, AVX2", "EPYC, AVX2"), " Device: EPYC, AVX2."),
        (("EPYC, AVX2", "H200", "H200"), "mixes devices: H200 (2 runs), EPYC, AVX2 (1 run)"),
    ],
)
def test_note_names_the_devices_of_a_table(devices: tuple[str | None, ...], words: str) -> None:
    assert words in note(groups(*devices))
    assert bool(words) == bool(note(groups(*devices)))


def test_kinds_count_finished_runs() -> None:
    waiting = replace(on("H200", "p2p"), rates={})
    assert kinds(group([on("H200", "none"), waiting])) == {"H200": 1}
