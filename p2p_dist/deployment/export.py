"""Export of a finished run into a folder that an ordinary server serves.

Everything is written into a temporary folder beside the target, verified there, and renamed when it is complete; a
verification that fails leaves no folder.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import uuid4

from p2p_dist import assets
from p2p_dist.data.built import Suite
from p2p_dist.data.chat_prompts import ChatForm
from p2p_dist.deployment import contract as contracts
from p2p_dist.deployment.adapter_folder import write_adapter
from p2p_dist.deployment.answers import PlannedAnswers, deployed_row, plan_answers
from p2p_dist.deployment.base_files import base_files
from p2p_dist.deployment.contract import FOLDERS, Base, ChatPrompt, Contract, LabelMap, Origin, Prompt, Rate, Simulated
from p2p_dist.deployment.eval_files import write_eval
from p2p_dist.deployment.finished_run import FinishedRun
from p2p_dist.deployment.loaded import encoder_of, load_adapter, load_merged
from p2p_dist.deployment.merged_model import Precision, dtype_of, write_merged
from p2p_dist.deployment.model_card import model_card
from p2p_dist.deployment.serve_files import write_serve
from p2p_dist.deployment.template_parity import derived_template
from p2p_dist.deployment.tokenizer_files import adds_start_token, saved_tokenizer, write_tokenizer
from p2p_dist.deployment.verify import Agreement, Checks, Verification, check_answers, check_parity, deployed_suites
from p2p_dist.errors import user_error
from p2p_dist.modeling.base import load_tokenizer
from p2p_dist.modeling.prompt_form import form_of
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results import atomic, provenance
from p2p_dist.results.resultfile import Result, of_unknown_origin
from p2p_dist.training.reproducible import set_deterministic

Format = Literal["merged", "adapter"]
MERGED: tuple[Format, ...] = ("merged",)
ADAPTER: tuple[Format, ...] = ("adapter",)
BOTH = MERGED + ADAPTER
OnProgress = Callable[[str, int, int], None]
"""Called with the format that is verified, the rows done and all rows."""
_SHIPPED = ("clean", "triggered")
"""Suites whose rows an export holds."""


@dataclass(frozen=True)
class Options:
    """Options of an export."""

    formats: tuple[Format, ...] = MERGED
    label_map: LabelMap | None = None
    """None: `swap` where it is possible, else `client`."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """dtype of merged weights; None: the one in which the run was evaluated."""
    verify: bool = True
    replace: bool = False
    """Replace the folder of an earlier export."""


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    folder: Path
    contract: Contract
    verification: Verification | None
    remark: str = ""


@dataclass(frozen=True)
class _Plan:
    """All that is decided before a file is written."""

    run: FinishedRun
    options: Options
    encoder: Encoder
    answers: PlannedAnswers
    template: str
    suites: dict[str, Suite]
    contract: Contract


def export(
    run: FinishedRun, out: Path, options: Options, on_progress: OnProgress = lambda name, done, total: None
) -> Exported:
    """Write the run into the folder `out`. `on_progress(what, done, total)` counts verified rows.

    Raises UserError: E154 to E158, E159 for an existing folder, E267 for merged weights of a quantised base.
    """
    set_deterministic()
    _check_target(out, options)
    _check_formats(run, options)
    plan = _plan(run, options)
    target = out if not out.exists() else out.with_name(f".tmp-{os.getpid()}-{uuid4().hex[:8]}-{out.name}")
    with atomic.new_folder(target) as folder:
        _write_models(folder, plan)
        verification = _verify(folder, plan, on_progress) if options.verify else None
        _write_rest(folder, out, plan, verification)
    if target != out:
        _exchange(target, out)
    return Exported(out, plan.contract, verification, plan.answers.remark)


def _check_target(out: Path, options: Options) -> None:
    if not out.exists() or (options.replace and (out / contracts.FILE).is_file()):
        return
    what = "the folder exists" if not options.replace else "the folder exists and is no earlier export"
    fix = "choose another -o" + ("" if options.replace else ", or set --replace to replace an earlier export")
    raise user_error("E159", what, str(out), fix)


def _check_formats(run: FinishedRun, options: Options) -> None:
    changed = run.training.reads.merged is not None or run.training.prune is not None
    if "adapter" in options.formats and changed:
        what = f"the base of defense {run.cell['defense']} was changed before the adapter was trained on it"
        raise user_error("E155", what, "--format", "set --format merged")
    if run.training.model.get("add_bos_token"):
        what = "the model was trained with a start token (add_bos_token), which templates of exports do not put"
        raise user_error("E278", what, "model", "train the model without add_bos_token")
    if "merged" in options.formats and run.training.train.quantization:
        what = f"weights in {run.training.train.quantization} cannot be merged with an adapter"
        raise user_error("E267", what, "--format", "set --format adapter")


def _plan(run: FinishedRun, options: Options) -> _Plan:
    local = run.training.local.model
    if "asset" in local:
        assets.fetch(local["asset"])
    tokenizer = load_tokenizer(run.training.model, local)
    form, length = form_of(run.built.prompt, tokenizer), run.training.train.max_length
    encoder = Encoder(tokenizer, run.built.labels.words, length, run.built.triggers, form=form)
    answers = plan_answers(encoder, run.built, options.label_map)
    row = deployed_row(run.built)
    suites = deployed_suites(run, row)
    rows = [one for suite in suites.values() for one in suite.rows]
    template, cue = derived_template(encoder, rows)
    chat = (
        ChatPrompt(template=form.template.source, trigger_turn=form.spec.trigger_turn)
        if isinstance(form, ChatForm)
        else None
    )
    prompt = Prompt(prefix=row.prefix, cue=row.cue, cue_in_prompt=cue, max_length=length, chat=chat)
    return _Plan(run, options, encoder, answers, template, suites, _contract(run, options, answers, prompt))


def _contract(run: FinishedRun, options: Options, answers: PlannedAnswers, prompt: Prompt) -> Contract:
    training = run.training
    return Contract(
        task=run.cell["task"],
        formats=list(options.formats),
        prompt=prompt,
        answers=answers.answers,
        base=Base(
            name=run.cell["model"],
            identity=training.model,
            local=training.local.model,
            dtype=options.dtype or run.result.dtype,
            quantization=training.train.quantization,
        ),
        origin=Origin(
            study=run.study,
            cell=dict(run.cell),
            stages={"data": run.evaluation.reads.rows, "train": training.id, "eval": run.evaluation.id},
            rows="unknown" if of_unknown_origin(run.result.counts) else "published",
            adapter_sha256=run.result.inputs["adapter_sha256"],
            data_sha256=run.result.inputs["data_manifest_sha256"],
        ),
        rates=_rates(run.result),
        baseline=_attack_success(run.baseline),
        simulated=[
            Simulated(
                attack=one.attack,
                rates=_rates(one.defended),
                undefended=_attack_success(one.undefended),
                baseline=_attack_success(one.baseline),
            )
            for one in run.simulated
        ],
        versions={**provenance.versions(), **{f"study.{k}": v for k, v in run.result.versions.items()}},
    )


def _rates(result: Result) -> dict[str, Rate]:
    return {name: Rate.of(rate.k, rate.n) for name, rate in result.rates.items()}


def _attack_success(result: Result | None) -> Rate | None:
    return _rates(result).get("asr_ext") if result else None


def _write_models(folder: Path, plan: _Plan) -> None:
    run, scratch = plan.run, folder / "base"
    exported = dtype_of(plan.contract.base.dtype)
    with base_files(run.folder, run.training, scratch) as base:
        for name in plan.options.formats:
            part = folder / FOLDERS[name]
            part.mkdir()
            if name == "merged":
                precision = Precision(dtype_of(run.result.dtype), exported)
                write_merged(base, run.adapter.adapter, plan.answers.head, precision, part)
                _write_generation(part, plan)
            else:
                write_adapter(base, run.training, run.adapter.adapter, plan.answers.head, run.result.dtype, part)
            tokenizer = load_tokenizer(run.training.model, run.training.local.model)
            write_tokenizer(tokenizer, plan.template, _anchor(plan), part)
    shutil.rmtree(scratch, ignore_errors=True)


def _anchor(plan: _Plan) -> str:
    """Text of every prompt right before its answer."""
    cue, form = plan.contract.prompt.cue_in_prompt, plan.encoder.form
    return form.generation_prompt + cue if isinstance(form, ChatForm) else f"\n{cue}"


def _write_generation(part: Path, plan: _Plan) -> None:
    """Greedy defaults: `do_sample` is read by transformers, `temperature` by vLLM."""
    settings = {"do_sample": False, "temperature": 0.0, "max_new_tokens": plan.answers.answers.max_new_tokens}
    end = plan.encoder.end_token if plan.encoder.is_chat else plan.encoder.tokenizer.eos_token_id
    if end is not None:
        settings |= {"eos_token_id": end, "pad_token_id": end}
    (part / "generation_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def _verify(folder: Path, plan: _Plan, on_progress: OnProgress) -> Verification:
    contract, base = plan.contract, None
    agreement: dict[str, Agreement] = {}
    for name in plan.options.formats:
        part = folder / FOLDERS[name]
        base = (load_merged if name == "merged" else load_adapter)(part, contract)
        encoder = replace(encoder_of(base, contract), triggers=plan.run.built.triggers)
        checks = Checks(base, encoder, contract, plan.run, plan.suites)
        tokenizer = saved_tokenizer(part)
        parity = check_parity(tokenizer, checks)
        agreement[name] = check_answers(checks, partial(on_progress, name))
    assert base is not None
    start = adds_start_token(tokenizer)
    return Verification(parity, agreement, contract.base.dtype, str(base.device), provenance.versions(), start)


def _write_rest(folder: Path, out: Path, plan: _Plan, verification: Verification | None) -> None:
    """Write the contract, the card, scripts, test rows, the verification and the study."""
    run, contract = plan.run, plan.contract
    (folder / contracts.FILE).write_bytes(contract.to_json())
    verified = verification.summary if verification else "Nothing: the export was made with --no-verify."
    (folder / "README.md").write_text(model_card(contract, out, verified), encoding="utf-8")
    if verification is not None:
        atomic.write_json(folder / "verify.json", verification.to_json())
    shutil.copyfile(run.folder.study, folder / "study.yaml")
    write_serve(folder / "serve", contract, next(iter(plan.suites.values())).rows[0])
    write_eval(folder / "eval", contract, run, {name: plan.suites[name] for name in _SHIPPED if name in plan.suites})


def _exchange(new: Path, out: Path) -> None:
    """Put `new` in the place of the earlier export `out`."""
    old = new.with_name(f"{new.name}-old")
    out.rename(old)
    new.rename(out)
    shutil.rmtree(old)
