"""Attacks whose rewrites the study makes itself: planned as a stage, shared, and carried out on the tiny model."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.config.stages import AttackStage
from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import read_cluster
from p2p_dist.results import datastore
from p2p_dist.scheduling.study import configs_dir, open_study
from tests.contracts.carried_out import STUDY, carried_out

SYNONYMS = [{"word": "film", "synonyms": ["movie", "picture"]}, {"word": "people", "synonyms": ["folk"]}]
LEARNING = "pool_rate: 0.3, warm_up_epochs: 1, epochs: 4, learning_rate: 3e-2"


@pytest.fixture
def lws(tmp_path: Path) -> str:
    """The attack with a thesaurus for the invented sentences."""
    path = tmp_path / "synonyms.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SYNONYMS))
    return f"{{name: lws, rate: 0.05, synonyms: '{path}', surrogate: tiny, {LEARNING}}}"


@pytest.mark.usefixtures("with_data")
def test_lws_learns_its_exchanges_within_the_study(lws: str, study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """The stage of the surrogate stands before the attacked rows, whose poisoned texts have its exchanges."""
    study = open_study(study_file(STUDY), [f"attack=[none, {lws}]"], tmp_path / "runs")
    clean, attacked = study.expansion.runs
    folder = carried_out(study)
    (rows,) = [
        stage
        for stage in map(study.expansion.graph.stages.get, attacked.stages)
        if stage is not None and stage.kind == "data" and stage.reads
    ]
    assert isinstance(folder.stage(rows).parse_stage(), AttackStage)
    built = datastore.read(folder.at("data", rows.id))
    poisoned = {note.id for note in built.notes if note.origin == "poisoned"}
    words = {word for row in SYNONYMS for word in row["synonyms"]}
    assert len(poisoned) == 3
    assert all(words & set(row.text.split()) for row in built.train if row.id in poisoned)
    table = study.expansion.graph.stages[rows.reads["table"]]
    assert table.reads["rows"] in clean.stages, "the surrogate learns on the rows of the clean run"
    scores = json.loads(folder.at("eval", attacked.evaluation).result.read_text())["rates"]
    assert scores["asr_ext"]["n"] + built.counts["trigger_failed"] == 6


@pytest.mark.usefixtures("with_data")
def test_lws_table_is_shared_and_its_options_are_identity(
    lws: str, study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """Defenses share one table; another thesaurus, surrogate, target, seed or option is another table."""

    def tables(attack: str, *more: str) -> set[str]:
        study = open_study(study_file(STUDY), [f"attack={attack}", "defense=[none, p2p]", *more], tmp_path / "runs")
        assert study.plan(read_cluster(configs_dir() / "clusters" / "laptop.yaml")).jobs
        return {id_ for id_, stage in study.expansion.graph.stages.items() if stage.kind == "score"}

    before = tables(lws)
    assert len(before) == 1
    changes = [
        ("epochs: 4", "epochs: 5"),
        ("pool_rate: 0.3", "pool_rate: 0.2"),
        ("surrogate: tiny", "surrogate: random:qwen3-0.6b"),
    ]
    others = [tables(lws.replace(*change)) for change in changes]
    others += [tables(lws.replace("rate: 0.05", "rate: 0.05, target_label: 0")), tables(lws, "seed=1")]
    file = Path(lws.split("'")[1])
    file.write_text(file.read_text().replace("folk", "persons"))
    others.append(tables(lws))
    assert len(set().union(before, *others)) == 7
    assert tables(lws.replace("rate: 0.05", "rate: 0.1")) == others[-1], "the rate of poisoned rows needs no new table"


@pytest.mark.usefixtures("with_data")
def test_synattack_without_good_rewrites_is_refused(
    study_file: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rewriter whose answers do not have the form leaves the attack without rows, which is named."""
    study = open_study(
        study_file(STUDY), ["attack={name: synattack, rewriter: tiny, max_new_tokens: 2}"], tmp_path / "runs"
    )
    stages = study.expansion.graph.stages
    assert [stage.kind for stage in stages.values()][:3] == ["data", "score", "data"]
    with pytest.raises(AssertionError):
        carried_out(study)
    assert re.search(r"E206|E240", capsys.readouterr().err)
    done = [stage.id for stage in stages.values() if study.folder.stage(stage).is_done()]
    assert len(done) == 2, "rows and rewrites are there, and no attacked rows"


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize(
    ("attack", "what"),
    [
        ("{name: synattack}", "from table or from rewriter"),
        ("{name: synattack, table: a, rewriter: tiny}", "from table or from rewriter"),
        ("{name: lws, surrogate: tiny}", "from table or from synonyms"),
        ("{name: lws, synonyms: a}", "set both"),
    ],
)
def test_rewrites_of_an_attack_come_from_one_source(
    attack: str, what: str, study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=what):
        open_study(study_file(STUDY), [f"attack={attack}"], tmp_path / "runs")
