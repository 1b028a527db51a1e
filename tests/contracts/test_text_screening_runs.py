"""P2P on rows that nobody checked and that are answered with text, from plan to rates."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.config.stages import parse
from p2p_dist.errors import Exit, UserError
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.report import data_view, status_view
from p2p_dist.results import datastore, scorestore
from p2p_dist.scheduling.prepare import settle
from p2p_dist.scheduling.study import Study, open_study
from p2p_dist.training.base_model import cached_base
from p2p_dist.worker.__main__ import main as worker_main
from tests.contracts.carried_out import GENERATION, carried_out
from tests.rows import write_sums


@pytest.fixture
def opened(study_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """A study over invented sums, none of them trusted."""
    write_sums(tmp_path / "data", range(200, 260))
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))

    def open_(*overrides: str) -> Study:
        return open_study(study_file(GENERATION), ["rows.reserve=0", *overrides], tmp_path / "runs")

    return open_


def test_screened_p2p_on_text_from_plan_to_rates(opened: Callable[..., Study]) -> None:
    """Random weights tell no prompt from another, so it goes on all the same."""
    study = opened(
        "defense={name: p2p, preset: math, benign_source: screened, text_screening: {on_failed_screening: go_on}}"
    )
    (run,) = study.expansion.runs
    assert run.needs["clean_rows"] == "none"
    folder, graph = carried_out(study), study.expansion.graph
    (scored,) = (stage for stage in graph.stages.values() if stage.kind == "score")
    table = scorestore.read(folder.stage(scored))
    assert len(table["train"]) == 48
    assert all(len(line["others"]) == 4 for line in table["train"].values())
    assert folder.stage(scored).last_metrics() == {"rows": 48, "of": 48}
    counts = json.loads(folder.at("eval", run.evaluation).result.read_text())["counts"]
    assert counts["screening"] == [table["screening"]["stop"]]
    assert counts["train"]["injected"] == {"text": 10}
    assert sum(of["text"] for of in counts["trusted"].values()) == 24
    assert sum(of["text"] for part in ("trusted", "not_trusted") for of in counts[part].values()) == 48
    assert counts["clean_rows_used"] == 0
    assert counts["reads_origin"] is False
    record = {"id": "", "rows": 0, "counts": counts, "classes": [], "suites": {}, "warnings": [], "samples": {}}
    shown = data_view.text("rows", record)
    assert "  screened  share of answers likeliest behind their own prompt 0." in shown
    assert "; WARNING: the screening failed: " in shown


def test_own_scores_are_minus_the_loss_of_training(opened: Callable[..., Study]) -> None:
    """The answer behind its own prompt is the row that training reads, token by token."""
    import torch

    from p2p_dist.modeling.forward import answer_losses
    from p2p_dist.modeling.packing import pack

    study = opened(
        "defense={name: p2p, preset: math, benign_source: screened, text_screening: {on_failed_screening: go_on}}"
    )
    folder, graph = carried_out(study), study.expansion.graph
    (scored,) = (stage for stage in graph.stages.values() if stage.kind == "score")
    typed = parse(graph.stages[study.expansion.runs[0].train])
    built = datastore.read(folder.at("data", scored.reads["rows"]))
    base = cached_base(BaseCache(), typed.model, typed.local.model, typed.train)  # type: ignore[union-attr]
    encoded, _ = Encoder.of(base, built, typed.train.max_length).rows(built.train)  # type: ignore[union-attr]
    lines = scorestore.read(folder.stage(scored))["train"]
    for row in encoded[:8]:
        batch = pack([[row]])
        with torch.no_grad():
            losses = answer_losses(base.model, batch.ids, batch.positions, batch.packed, batch.answers, batch.targets)
        assert lines[row.id]["own"] == pytest.approx(-float(losses.sum()), abs=1e-3)
        assert lines[row.id]["tokens"] == len(row.targets)


def test_screening_that_tells_nothing_stops_the_study(
    opened: Callable[..., Study], study_file: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights find every prompt as good as another: no rows are built, and status begins with the reason."""
    study = opened("defense={name: p2p, preset: math, benign_source: screened}")
    graph, folder = study.expansion.graph, study.folder
    folder.write_specs(graph)
    (scored,) = (stage for stage in graph.stages.values() if stage.kind == "score")
    for id_ in (scored.reads["rows"], scored.id):
        assert worker_main(["--study-dir", str(folder.path), "--stages", id_]) == Exit.OK
    stop = scorestore.read(folder.stage(scored))["screening"]["stop"]
    assert stop["reached"] is False
    assert stop["agreement"][0] < 0.5
    (defended,) = (stage for stage in graph.stages.values() if scored.id in stage.reads.values())
    assert worker_main(["--study-dir", str(folder.path), "--stages", defended.id]) == Exit.USAGE
    assert "error[E270]: the screening failed: " in capsys.readouterr().err
    settle(study, study_file(GENERATION))
    collected, owner = status_view.read_state(folder)
    text = status_view.text(collected, owner)
    assert text.startswith("WARNING: the screening failed: ")
    assert "larger model" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("defense", "says"),
    [
        ("{name: p2p, preset: math, benign_source: screened, screening: {draws: 3}}", "set text_screening"),
        ("{name: p2p, preset: math, text_screening: {others: 2}}", "benign_source: screened"),
    ],
)
def test_options_that_do_not_fit_are_refused_when_planned(
    opened: Callable[..., Study], defense: str, says: str
) -> None:
    with pytest.raises(UserError, match=rf"E260.*{says}"):
        opened(f"defense={defense}")
