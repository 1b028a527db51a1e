"""Any study file and any override: a plan is right, or a UserError with place and fix; never a traceback.

A good study is changed in one or two places: bytes of the file, values of its keys (plug-ins' options too), overrides.
`P2P_DIST_FUZZ` sets the number of examples.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p_dist import registry
from p2p_dist.cli.plan import described
from p2p_dist.config.study import LoraSpec, RowsSpec, StudySpec, TrainSpec
from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.report import plan_view
from p2p_dist.scheduling.study import find_cluster, find_study, open_study

EXAMPLES = int(os.environ.get("P2P_DIST_FUZZ", "40"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COUNTS: Counter[str] = Counter()
HERE = ClusterSpec(name="here", cpus_per_node=2)
STUDY: dict[str, Any] = {
    "name": "tiny",
    "task": [{"name": "rotten_tomatoes"}],
    "model": ["tiny"],
    "attack": ["none", {"name": "badnets", "rate": 0.05}],
    "defense": ["none", {"name": "p2p"}],
    "seed": [0],
    "exclude": [{"attack": "none", "defense": "p2p"}],
    "rows": {"train": 64, "test": 20, "reserve": 20},
    "train": {"learning_rate": 1e-2, "num_train_epochs": 1, "global_batch": 16, "lora": {"r": 4}},
}
NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 7, 64, 10**6, 1 << 63, 10**30, 0.0, 0.5, 1.0, 1.5, 1e-320, 1e308])
WORDS = st.sampled_from(
    ["", "none", "p2p", "badnets", "sst2", "tiny", "random:tiny", "a/b", "a/b@" + "0" * 40, ".", "/dev/null", "x" * 300]
) | st.text(max_size=6)
SCALARS = st.none() | st.booleans() | NUMBERS | st.integers() | WORDS
PLAUSIBLE = st.integers(1, 20) | st.floats(0, 1) | st.sampled_from([[], {}, "first", "random", ["train"], "all-linear"])
VALUES = PLAUSIBLE | st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=5
)


def keys_of(kind: str) -> list[tuple[str, str]]:
    """Every (plug-in, option) of a kind."""
    return [(name, key) for name in registry.names(kind) for key in registry.load(kind, name).model_fields]


KEYS = [
    *((key,) for key in StudySpec.model_fields),
    *(("train", key) for key in TrainSpec.model_fields),
    *(("train", "lora", key) for key in LoraSpec.model_fields),
    *(("rows", key) for key in RowsSpec.model_fields),
]
BYTES = st.binary(max_size=8) | st.text(max_size=8).map(str.encode)
OVERRIDES = st.text(max_size=20) | st.tuples(st.sampled_from(KEYS).map(".".join), st.text(max_size=12)).map("=".join)
OPTIONS = [(axis, *pair) for axis in ("task", "attack", "defense") for pair in keys_of(f"{axis}s")]


@pytest.fixture(scope="module", autouse=True)
def _counts() -> Iterator[None]:
    yield
    print(f"fuzz of studies: {sum(COUNTS.values())} examples, {dict(COUNTS)}")


def plan_or_refused(content: bytes, folder: Path, *overrides: str) -> None:
    """Plan a study to the end; what is refused has a place or a fix, and can be printed."""
    file = folder / "study.yaml"
    file.write_bytes(content)
    try:
        study = open_study(file, overrides, folder / "runs")
        answer, _ = described(study, HERE, 1)
        json.dumps(answer)
        plan_view.text(study.spec.name, answer).encode()
        assert study.folder.path.parent == folder / "runs"
        COUNTS["planned"] += 1
        return
    except UserError as error:
        refused = error
    COUNTS["refused"] += 1
    assert refused.problems
    assert all(problem.where or problem.fix for problem in refused.problems), refused
    str(refused).encode()


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize(
    "override", ["model=NAME", "task={name: sst2, source: NAME}", "attack={name: synattack, table: NAME}"]
)
def test_study_path_of_a_length_that_no_system_has_is_e116(override: str, tmp_path: Path) -> None:
    """Any error of the file system about a path in a study names it."""
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY))
    with pytest.raises(UserError, match=r"E116.*xxx"):
        open_study(tmp_path / "study.yaml", [override.replace("NAME", "x" * 300)], tmp_path / "runs")
    for find in (find_study, find_cluster):
        with pytest.raises(UserError, match="E116"):
            find("x" * 300)


@pytest.mark.usefixtures("with_data")
@FUZZ
@given(keys=st.sampled_from(KEYS), value=VALUES, as_override=st.booleans())
def test_study_any_value_of_a_key(keys: tuple[str, ...], value: object, as_override: bool, tmp_path: Path) -> None:
    """In the file, or on the command line."""
    if as_override:
        text = value if isinstance(value, str) else json.dumps(value)
        plan_or_refused(json.dumps(STUDY).encode(), tmp_path, f"{'.'.join(keys)}={text}")
        return
    study = json.loads(json.dumps(STUDY))
    place = study
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    plan_or_refused(json.dumps(study).encode(), tmp_path)


@pytest.mark.usefixtures("with_data")
@FUZZ
@given(option=st.sampled_from(OPTIONS), value=VALUES)
def test_study_any_value_of_an_option(option: tuple[str, str, str], value: object, tmp_path: Path) -> None:
    """Of every task, attack and defense."""
    axis, name, key = option
    study = {**STUDY, axis: [{"name": name, key: value}]}
    plan_or_refused(json.dumps(study).encode(), tmp_path)


@pytest.mark.usefixtures("with_data")
@FUZZ
@given(
    start=st.integers(0, 600), content=st.binary(max_size=8) | st.text(max_size=8).map(str.encode), cut=st.booleans()
)
def test_study_damaged_bytes(start: int, content: bytes, cut: bool, tmp_path: Path) -> None:
    """Bytes are put somewhere, or the file ends there."""
    whole = "\n".join(f"{key}: {json.dumps(value)}" for key, value in STUDY.items()).encode()
    start = min(start, len(whole))
    plan_or_refused(whole[:start] + content + (b"" if cut else whole[start:]), tmp_path)


@pytest.mark.usefixtures("with_data")
@FUZZ
@given(texts=st.lists(OVERRIDES, max_size=3))
def test_study_any_override(texts: list[str], tmp_path: Path) -> None:
    """Any words on the command line."""
    plan_or_refused(json.dumps(STUDY).encode(), tmp_path, *texts)
