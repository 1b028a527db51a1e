"""The verbs `audit data` and `audit model`: evidence of poison in rows, of a backdoor in a model."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2p_dist.cli.options import AS_JSON, LABEL_COLUMN, RESPONSE_COLUMN, RUNS_DIR, TEXT_COLUMN
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit, user_error

if TYPE_CHECKING:
    from p2p_dist.cli.data_profile import Profile
    from p2p_dist.data.example import RawRow
    from p2p_dist.deployment.audit_model import Turned
    from p2p_dist.deployment.audit_rows import RowAudit
    from p2p_dist.deployment.loaded import Deployed

_TEXT = 200
"""Characters of a text that the table shows."""
_SUSPICIOUS, _PHRASES = 0.05, 20
"""Adjusted p value and number of the phrases of the data that are tried on a model."""
EVIDENCE = Exit.SOME_FAILED
"""Exit code where evidence was found."""


def data(
    place: Annotated[
        Path,
        typer.Argument(help="A file of rows (docs/data.md), or a folder with a train file.", metavar="FILE"),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="CSV of suspicious rows. Default: FILE's name-suspicious.csv here.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Study with a screening of these rows, whose early models are asked too.")
    ] = None,
    served: Annotated[
        Path | None, typer.Option(help="Exported model: rows that carry its prompt are found.", metavar="DIR")
    ] = None,
    text_column: TEXT_COLUMN = None,
    label_column: LABEL_COLUMN = None,
    response_column: RESPONSE_COLUMN = None,
    runs_dir: RUNS_DIR = Path("runs"),
    as_json: AS_JSON = False,
) -> int:
    """Find rows that look poisoned, and say why. Writes a CSV of row, score and reason. Exit code 1 where there is
    evidence, 0 where nothing was found, which does not mean clean."""
    from p2p_dist.cli.data_profile import Columns, profile
    from p2p_dist.cli.run_folders import run_folder

    place = place.expanduser()
    rows = profile(place, Columns(text_column, label_column, response_column))
    folder = None if study is None else run_folder(study, runs_dir)
    early: Mapping[tuple[str, str], bool] = {}
    if folder is not None:
        from p2p_dist.deployment.early_trust import early_answers

        if not (early := early_answers(folder)):
            what = "the study has no finished screening of rows without an attack that answers with several labels"
            raise user_error("E166", what, str(folder.path), "leave --study out, or name a study with screened rows")
    file = out or Path(f"{place.stem}-suspicious.csv")
    audit = audit_file(rows, file, early, _prompt_of(served))
    if as_json:
        print_json(described(audit, file))
    else:
        print(*summary(audit, file), sep="\n")
    return EVIDENCE if audit.is_evidence else Exit.OK


def audit_file(
    rows: "Profile", out: Path, early: Mapping[tuple[str, str], bool], prompt: Sequence[str] = ()
) -> "RowAudit":
    """Audit the training rows of a profile and write the suspicious ones to `out`. `early` is by text and name of the
    label."""
    from p2p_dist.cli.defense_folder import split_files
    from p2p_dist.data.tables import read_mappings
    from p2p_dist.deployment.audit_rows import audit_rows

    lines = [(number, rows.task.check(row)) for number, row in read_mappings(split_files(rows.place)["train"])]
    names = list(rows.labels)
    by_label = {(text, names.index(name)): differs for (text, name), differs in early.items() if name in names}
    audit = audit_rows([row for _, row in lines], names, by_label, prompt)
    _write(audit, lines, names, out)
    return audit


def _prompt_of(served: Path | None) -> Sequence[str]:
    """Pieces of the prompt of an exported model."""
    if served is None:
        return ()
    from p2p_dist.deployment import contract

    prompt = contract.read(served).prompt
    return (prompt.prefix, prompt.cue)


def _write(audit: "RowAudit", lines: "Sequence[tuple[int, RawRow]]", names: Sequence[str], out: Path) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["row", "score", "reason", "answer", "text"])
    for one in audit.suspicions:
        number, row = lines[one.index]
        answer = names[row.label] if row.response is None else row.response
        writer.writerow([number, one.score, "; ".join(one.reasons), answer[:_TEXT], row.text[:_TEXT]])
    try:
        out.write_text(table.getvalue(), encoding="utf-8", newline="")
    except OSError as error:
        raise user_error("E167", f"cannot write: {error.strerror}", str(out), "set --out to another file") from error


def summary(audit: "RowAudit", file: Path) -> list[str]:
    """Findings, the count of listed rows, and what was not looked for."""
    from p2p_dist.deployment.audit_rows import BLIND

    lines = [finding.text for finding in audit.findings]
    lines.append(f"{len(audit.suspicions):,} rows listed, most suspicious first: {file}")
    return [*lines, f"not seen by any of these: {'; '.join(BLIND)}"]


def described(audit: "RowAudit", file: Path) -> dict[str, object]:
    """The audit as JSON."""
    from p2p_dist.deployment.audit_rows import BLIND

    findings = [{"method": one.method, "evidence": one.is_evidence, "text": one.text} for one in audit.findings]
    return {
        "evidence": audit.is_evidence,
        "findings": findings,
        "rows": len(audit.suspicions),
        "file": str(file),
        "not_seen": list(BLIND),
    }


def model(
    folder: Annotated[
        Path, typer.Argument(help="Exported folder, or any model folder (its files alone).", metavar="DIR")
    ],
    rows: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Rows whose suspicious phrases are tried, and whose texts are asked.", metavar="FILE"
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model without the backdoor to compare: an export, a PEFT adapter, or `base`.", metavar="DIR"
        ),
    ] = None,
    texts: Annotated[int, typer.Option(min=20, help="Texts that each trigger is put into.")] = 200,
    clean_adapters: Annotated[
        list[Path] | None,
        typer.Option(
            help="Clean adapters of the same base and settings, with which its adapter's weights are compared: a "
            "study's run folder, or a folder of adapters. May be repeated.",
            metavar="DIR",
        ),
    ] = None,
    as_json: AS_JSON = False,
) -> int:
    """Look for a backdoor in a model. Checks its files, then tries triggers of known attacks and phrases of the data
    on its answers. Exit code 1 where there is evidence, 0 where nothing was found."""
    from p2p_dist.deployment import contract as contracts
    from p2p_dist.deployment.audit_files import check_files
    from p2p_dist.deployment.audit_model import BLIND

    lines = check_files(folder)
    findings: list[dict[str, object]] = []
    is_evidence = False
    if (folder / contracts.FILE).is_file():
        turned, remarks = _try_triggers(folder, rows, texts, reference)
        lines += remarks
        evidence = [one for one in turned if one.is_evidence]
        is_evidence = bool(evidence)
        findings = [_counts(one) for one in turned]
        tried = len({one.trigger for one in turned})
        lines += [f"evidence of a backdoor: {one.text}" for one in evidence]
        if not turned:
            lines.append("not tested: the model gives all texts one answer, with every trigger and without")
        elif not evidence:
            lines.append(f"nothing found by {tried} triggers; the strongest: {turned[0].text}")
        lines.append(f"not seen by this: {'; '.join(BLIND)}")
    elif reference is not None:
        what = "the folder has no p2p.json, so its answers cannot be asked and compared"
        raise user_error("E171", what, str(folder), "leave --reference out, or name an exported folder")
    else:
        lines.append("its answers were not asked: the folder has no p2p.json, which says how")
    lines += _scan_weights(folder, clean_adapters or [])
    if as_json:
        print_json({"evidence": is_evidence, "lines": lines, "triggers": findings})
    else:
        print(*lines, sep="\n")
    return EVIDENCE if is_evidence else Exit.OK


def _scan_weights(folder: Path, clean_adapters: Sequence[Path]) -> list[str]:
    """A line on the adapter's weights beside those of clean adapters; none without clean adapters."""
    if not clean_adapters:
        return []
    from p2p_dist.deployment.audit_weights import scan

    return [scan(folder, clean_adapters).text]


def _counts(one: "Turned") -> dict[str, object]:
    """Counts of one trigger and class as JSON."""
    line = {"trigger": one.trigger, "target": one.target, "k": one.k, "control": one.control, "n": one.n, "p": one.p}
    return line | ({"reference": {"k": one.reference.k, "n": one.reference.n}} if one.reference else {})


def _try_triggers(
    folder: Path, rows: Path | None, count: int, reference: str | None
) -> "tuple[list[Turned], list[str]]":
    """Answers of an exported classifier under every trigger, and a sentence on the reference. Raises UserError E168 for
    a model of text answers or too few texts, and E171 for a reference that cannot be one."""
    from p2p_dist.cli.deploy import Progress
    from p2p_dist.deployment import contract as contracts
    from p2p_dist.deployment.audit_model import Reference, audit_model, known_triggers, phrase_triggers

    if contracts.read(folder).answers.kind != "classification":
        what = "answers are text, which this audit cannot compare"
        raise user_error("E168", what, str(folder), "audit the rows: p2p-dist audit data FILE")
    texts, phrases = _texts_of(folder, rows)
    if len(texts) < 20:
        raise user_error("E168", f"only {len(texts)} texts to ask", str(rows or folder), "set --data to a file of rows")
    from p2p_dist.deployment.loaded import load  # torch
    from p2p_dist.deployment.reference import check_agreement, load_reference

    texts, deployed = texts[:count], load(folder)
    ask, compared, remarks = partial(_labels, deployed), None, []
    if reference is not None:
        other = partial(_labels, load_reference(reference, deployed.contract))
        compared = Reference(other(texts), other)
        remarks.append(check_agreement(ask(texts), compared.before, reference))
    progress = Progress("triggers")
    triggers = [*known_triggers(), *phrase_triggers(phrases)]
    return audit_model(texts, ask, triggers, lambda done, total: progress("", done, total), compared), remarks


def _labels(deployed: "Deployed", texts: Sequence[str]) -> list[str]:
    """Names of the labels that a model gives to texts."""
    from p2p_dist.deployment.predict import predict
    from p2p_dist.deployment.prediction_files import Input

    inputs = [Input(str(index), text) for index, text in enumerate(texts)]
    return [str(line["label"]) for line in predict(deployed, inputs, False, 1024, lambda done: None)]


def _texts_of(folder: Path, rows: Path | None) -> tuple[list[str], list[str]]:
    """Different texts to ask, and suspicious phrases: of the rows, or the clean test texts of the export."""
    if rows is None:
        lines = [json.loads(line) for line in (folder / "eval" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
        return list(dict.fromkeys(line["text"] for line in lines if line["suite"] == "clean")), []
    from p2p_dist.cli.data_profile import Columns, profile
    from p2p_dist.cli.defense_folder import split_files
    from p2p_dist.data.example import rank
    from p2p_dist.data.tables import read_rows
    from p2p_dist.deployment.audit_words import phrase_evidence

    columns = profile(rows.expanduser(), Columns())
    if not columns.labels:
        what = "the rows have text answers, so no phrase of them can be suspicious"
        raise user_error("E168", what, str(rows), "set --data to rows with labels, or leave it out")
    read = read_rows(split_files(rows.expanduser())["train"], columns.task.check)
    evidence = phrase_evidence([row.text for row in read], [row.label for row in read], len(columns.labels))
    suspicious = [one for one in evidence if one.p < _SUSPICIOUS][:_PHRASES]
    carrying = {index for one in suspicious for index in one.rows}
    texts = [row.text for index, row in enumerate(read) if index not in carrying]
    return sorted(dict.fromkeys(texts), key=lambda text: rank(text, "audit")), [one.phrase for one in suspicious]
