"""Answers of a study's screening to its training rows, for the audit of these rows."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from p2p_dist.config.score_methods import EarlyTrust
from p2p_dist.config.stages import AttackStage, ScoreStage
from p2p_dist.results import datastore, scorestore
from p2p_dist.results.resolved import read_resolved
from p2p_dist.results.resultfile import collapsed
from p2p_dist.results.rundir import RunDir


def early_answers(folder: RunDir) -> dict[tuple[str, str], bool]:
    """True for the rows, by text and name of their label, to which the early models of a screening of rows without an
    attack give another label; empty where the study has no such screening. Models that give nearly all rows one answer
    are left out: they contradict every other label."""
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
        scores = {
            row.id: [float(score) for score in lines[row.id]["scores"][: built.labels.n_classes]]
            for row in built.train
            if row.id in lines
        }
        if _is_collapsed(scores.values()):
            continue
        for row in built.train:
            if row.id in scores:
                given = scores[row.id].pop(row.label)
                margins[row.text, built.labels.names[row.label]] += given - max(scores[row.id])
    return {row: margin < 0 for row, margin in margins.items()}


def _is_collapsed(scores: Collection[Sequence[float]]) -> bool:
    """True if nearly all rows have their largest score at one class, or there are none."""
    answers = Counter(max(range(len(row)), key=row.__getitem__) for row in scores)
    return not answers or bool(collapsed(max(answers.values()) / len(scores)))
