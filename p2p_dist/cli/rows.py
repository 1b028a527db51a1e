"""Views of a study's rows: counts, samples and token pieces, and their export. The one place that brings rows and
tokenizers together without a model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2p_dist.config.graph import Stage
from p2p_dist.config.model import ModelRef
from p2p_dist.config.stages import AttackStage, parse
from p2p_dist.data.built import Built
from p2p_dist.errors import user_error
from p2p_dist.report import data_export, data_view
from p2p_dist.results import datastore
from p2p_dist.scheduling.chat_checks import view_of
from p2p_dist.scheduling.progress import titles_of
from p2p_dist.scheduling.study import Study
from p2p_dist.worker.build_rows import build_study_rows


def describe_rows(study: Study, out: Path | None, tokens: bool) -> list[dict[str, Any]]:
    """Content of `p2p-dist data --json`: a record of every data stage, in the order of the study. A stage that needs
    scores of a model first has `waits`. With `out`, rows are written there too.

    Raises UserError E229 for a folder that exists, E119 when tokens are asked for and no tokenizer is at hand.
    """
    titles = titles_of([run.to_json() for run in study.expansion.runs])
    study.folder.write_specs(study.expansion.graph)
    built_ids = {stage.id for stage in build_study_rows(study.folder, study.expansion.graph)}
    return [
        {
            "title": f"{_task(study, stage)}: {titles[stage.id]}",
            **(_described(study, stage, out, tokens) if stage.id in built_ids else {"id": stage.id, "waits": True}),
        }
        for stage in study.expansion.graph.stages.values()
        if stage.kind == "data"
    ]


def _task(study: Study, stage: Stage) -> str:
    """Name of the task of a data stage's rows."""
    ancestors = (parse(ancestor) for ancestor in study.expansion.graph.ancestors(stage) if ancestor.kind == "data")
    return next(attacked.task.name for attacked in ancestors if isinstance(attacked, AttackStage))


def _described(study: Study, stage: Stage, out: Path | None, tokens: bool) -> dict[str, Any]:
    built = datastore.read(study.folder.stage(stage))
    trainings = study.spec.trainings
    prompt_of = view_of(study.spec.model[0], built.prompt)
    described = data_view.to_json(built, stage.id, trainings, prompt_of)
    if tokens:
        described["tokens"] = token_views(built, study.spec.model[0], trainings[0].max_length)
    if out is not None:
        data_export.write(_new(out / stage.id), study.folder.stage(stage), built, prompt_of)
    return described


def token_views(built: Built, model: ModelRef, max_length: int) -> list[dict[str, Any]]:
    """One row of each origin, token by token, as training reads it."""
    from p2p_dist.modeling.base import load_tokenizer  # torch and transformers, seconds to import
    from p2p_dist.modeling.prompt_form import form_of
    from p2p_dist.modeling.tokenization import Encoder

    tokenizer = load_tokenizer(model.identity, model.local)
    bos = bool(model.identity.get("add_bos_token", False))
    form = form_of(built.prompt, tokenizer)
    encoder = Encoder(tokenizer, built.labels.words, max_length, add_bos_token=bos, form=form)
    views, seen = [], set[str]()
    for note, row in data_view.samples(built):
        if note.origin in seen:
            continue
        seen.add(note.origin)
        (encoded,), cut = encoder.rows([replace(row, image=None)])  # the tokens of an image are no text
        pieces = _pieces(tokenizer, [*encoded.ids, encoded.targets[-1]])
        start = len(pieces) - len(encoded.targets)
        views.append(
            {
                "origin": note.origin,
                "id": row.id,
                "model": model.name,
                "prompt": pieces[:start],
                "answer": pieces[start:],
                "cut": bool(cut),
            }
        )
    return views


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    return [tokenizer.decode([id_]) for id_ in ids]


def _new(folder: Path) -> Path:
    if folder.exists():
        raise user_error("E229", "the folder exists", str(folder), "choose another --out, or remove it")
    return folder
