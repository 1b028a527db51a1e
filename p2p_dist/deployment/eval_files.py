"""Folder `eval/` of an export: test rows, the answers to them, and tasks of lm-eval and inspect-ai over these rows."""

import json
from collections.abc import Mapping
from pathlib import Path

from p2p_dist.data.built import Suite
from p2p_dist.deployment.answers import messages_of
from p2p_dist.deployment.contract import Contract
from p2p_dist.deployment.finished_run import FinishedRun
from p2p_dist.deployment.reading import Reading, read_answer
from p2p_dist.results import predictions
from p2p_dist.results.predictions import Generated

HARNESS = "lm_eval"
"""Folder of the tasks of lm-eval."""

_LM_EVAL_ROWS = '''"""Rows of the tasks in this folder: ../test.jsonl, and the words of labels in ../../p2p.json."""

import json
from pathlib import Path

from datasets import Dataset

EVAL = Path(__file__).resolve().parent.parent


def _rows(suite):
    contract = json.loads((EVAL.parent / "p2p.json").read_text(encoding="utf-8"))
    prompt, labels = contract["prompt"], contract["answers"]["labels"]
    # The end of the cue that is no part of the prompt's tokens belongs to the answer.
    space = prompt["cue"][len(prompt["cue_in_prompt"]) :]
    names, words = [one["name"] for one in labels], [space + one["word"] for one in labels]
    lines = (EVAL / "test.jsonl").read_text(encoding="utf-8").split("\\n")
    rows = [row for row in map(json.loads, filter(None, lines)) if row["suite"] == suite]
    return {
        "test": Dataset.from_list(
            [{"text": row["text"], "choices": words, "gold": names.index(row["label"])} for row in rows]
        )
    }


def clean(**_):
    """Clean rows."""
    return _rows("clean")


def triggered(**_):
    """Triggered rows, with their right labels."""
    return _rows("triggered")
'''
_LM_EVAL_TASK = """task: p2p_{suite}
custom_dataset: !function rows.{suite}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
num_fewshot: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
_INSPECT = '''"""Test rows of this export as a task of inspect-ai: share of rows answered by the right word."""

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate

EVAL = Path(__file__).resolve().parent


@task
def p2p(suite: str = "clean") -> Task:
    """Rows of the suite `clean` or `triggered`."""
    answers = json.loads((EVAL.parent / "p2p.json").read_text(encoding="utf-8"))["answers"]
    words = {label["name"]: label["word"] for label in answers["labels"]}
    lines = (EVAL / "test.jsonl").read_text(encoding="utf-8").split("\\n")
    rows = [row for row in map(json.loads, filter(None, lines)) if row["suite"] == suite]
    samples = [Sample(id=row["id"], input=row["text"], target=words[row["label"]]) for row in rows]
    config = GenerateConfig(temperature=0, max_tokens=answers["max_new_tokens"])
    scorer = match(location="exact", ignore_case=False)
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=scorer, config=config)
'''


CODE: Mapping[str, str] = {f"{HARNESS}/rows.py": _LM_EVAL_ROWS, "inspect_task.py": _INSPECT}
"""Files with code that every export of a classifier has below `eval/`, and their content."""


def write_eval(folder: Path, contract: Contract, run: FinishedRun, suites: Mapping[str, Suite]) -> None:
    """Write `eval/`: test rows of the study, its answers to them as `predict --scores` writes them, and for a
    classifier the tasks of lm-eval and inspect-ai."""
    folder.mkdir()
    source = run.folder.at("eval", run.evaluation.id)
    tests, expected = [], []
    for name, suite in suites.items():
        for row in suite.rows:
            gold = row.response if row.response is not None else contract.answers.labels[row.label].name
            chat = {"messages": messages_of(row)} if row.turns else {}
            tests.append({"id": f"{name}/{row.id}", "suite": name, "text": row.text, "label": gold, **chat})
        ids = {row.id for row in suite.rows}
        if contract.answers.kind == "generation":
            texts = predictions.read_generated(source, [name])[name]
            expected += [text_line(f"{name}/{line.id}", line) for line in texts if line.id in ids]
        else:
            scored = predictions.read(source, [name])[name]
            expected += [
                answer_line(f"{name}/{line.id}", read_answer(line, run.says), contract, True)
                for line in scored
                if line.id in ids
            ]
    for file, lines in (("test.jsonl", tests), ("expected.jsonl", expected)):
        _write(folder / file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    if contract.answers.kind == "classification":
        write_tasks(folder, list(suites))


def write_tasks(folder: Path, suites: list[str]) -> None:
    """Write a task of lm-eval for every suite, and one of inspect-ai for all. They read `test.jsonl` and `p2p.json`
    beside them when they run, so the folder can be moved."""
    (folder / HARNESS).mkdir()
    for name, text in CODE.items():
        _write(folder / name, text)
    for suite in suites:
        _write(folder / HARNESS / f"p2p_{suite}.yaml", _LM_EVAL_TASK.format(suite=suite))


def answer_line(id_: str, reading: Reading, contract: Contract, scores: bool) -> dict[str, object]:
    """One answer as a line of `predict`: class, alarm, and log-probabilities by class on request."""
    names = [label.name for label in contract.answers.labels]
    line: dict[str, object] = {"id": id_, "label": names[reading.label], "outside": reading.outside}
    return line | ({"scores": dict(zip(names, reading.scores, strict=True))} if scores else {})


def text_line(id_: str, answer: Generated) -> dict[str, object]:
    """One text answer as a line of `predict`."""
    return {"id": id_, "text": answer.text, "finished": answer.finished}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
