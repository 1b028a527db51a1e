"""Answers of a study's screening to its training rows, for the audit of these rows."""

from collections import defaultdict

from p2p_dist.config.methods import EarlyTrust
from p2p_dist.config.stages import AttackStage, ScoreStage
from p2p_dist.results import datastore, scorestore
from p2p_dist.results.collect import read_resolved
from p2p_dist.results.rundir import RunDir


def early_answers(folder: RunDir) -> dict[tuple[str, str], bool]:
    """True for the rows, by text and name of their label, to which the early models of a screening of rows without an
    attack give another label; empty where the study has no such screening."""
    margins: dict[tuple[str, str], float] = defaultdict(float)
    for record in read_resolved(folder)["stages"]:
        stage = folder.at(record["kind"], record["id"])
        if record["kind"] != "score" or not stage.is_done():
            continue
        scored = stage.parse_stage()
        assert isinstance(scored, ScoreStage)
        rows = folder.find(scored.reads.rows)
        made = rows.parse_stage()
        if not isinstance(scored.method, EarlyTrust) or not isinstance(made, AttackStage) or made.attack.name != "none":
            continue
        built = datastore.read(rows)
        lines = scorestore.read(stage)["train"]
        for row in built.train:
            if (line := lines.get(row.id)) is not None:
                scores = [float(score) for score in line["scores"][: built.labels.n_classes]]
                given = scores.pop(row.label)
                margins[row.text, built.labels.names[row.label]] += given - max(scores)
    return {row: margin < 0 for row, margin in margins.items()}
