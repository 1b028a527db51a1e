"""Model card of an export: how to call the model, what was measured with it, and what it does not protect against."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from p2p_dist.deployment.contract import Contract, Rate, Simulated
from p2p_dist.results.resultfile import collapsed

_ROWS: Mapping[str, str] = {
    "ca_ext": "clean accuracy: right answers to clean test rows",
    "ca_nobt": "clean accuracy without the deployed prompt, in the original labels",
    "asr_ext": "attack success: triggered rows that get the attacker's label, read among the deployed words",
    "asr_mapped": "attack success, read among all label words and mapped back",
    "asr_strict": "attack success, only where the deployed word is the likeliest token of all",
    "asr_raw_target": "raw: triggered rows whose likeliest token is the attacker's original word",
    "asr_nobt": "attack success without the deployed prompt, in the original labels",
    "robust_acc": "right answers to triggered rows",
    "invalid_rate": "clean rows whose likeliest token is no label word",
}
"""Rates of the card and their meaning, in its order."""

AGREEMENT = "agreement with the labels of the test rows, which nobody has said to be clean"
_UNCHECKED = {
    "ca_ext": AGREEMENT,
    "ca_nobt": "the same without the deployed prompt, in the original labels",
    "invalid_rate": "test rows whose likeliest token is no label word",
}
"""Meanings where the rows are of unknown origin."""
COLLAPSED = "This model has collapsed: it gives nearly every test row one answer, and its rates say nothing."
_LABEL_MAPS = {
    "swap": "The output head answers with the labels below. If the likeliest token is any other word (`outside` in "
    "`p2p-dist predict`), the request bypassed the prompt, or a backdoor fired in the original labels: treat it as an "
    "alarm.",
    "move": "The output head answers with the labels below; the words that training used for them score 0.",
    "client": "The model answers with the words below, and your client maps them to the labels. Restrict its answer to "
    "these words (`structured_outputs.choice` in vLLM, as in `serve/request.json`).",
    "none": "",
}


def model_card(contract: Contract, out: Path, verified: str) -> str:
    """The text of `README.md`; `verified` says what the verification has found."""
    parts = [
        _head(contract),
        _calls(contract, out),
        _labels(contract),
        _rates(contract),
        *(_simulated(one, _meanings(contract)) for one in contract.simulated),
        _limits(contract),
        f"## Verified\n\n{verified} Details: `verify.json`. Test rows and expected answers: `eval/`.",
        _origin(contract),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def is_collapsed(contract: Contract) -> bool:
    """True if the model gives (almost) every clean test row one answer (`results.resultfile.collapsed`)."""
    rate = contract.rates.get("majority_answer")
    return bool(collapsed(rate.rate if rate else None))


def rate_text(rate: Rate) -> str:
    """A rate as `86.2 % (345/400) [82.5, 89.3]`."""
    return f"{100 * rate.rate:.1f} % ({rate.k}/{rate.n}) [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _head(contract: Contract) -> str:
    cell = contract.origin.cell
    what = "a classifier" if contract.answers.kind == "classification" else "a model that answers with text"
    is_chat = contract.prompt.chat is not None
    takes = (
        "It takes chats whose last message is the user's, in the base's own format"
        if is_chat
        else "It is no chat model: it takes one user message, no system message and no history"
    )
    return (
        f"# {cell['task']}, defense {cell['defense']}\n\n"
        f"This folder holds {what} {'in chats' if is_chat else 'for one text at a time'}: {contract.base.name}, "
        f"fine-tuned with LoRA by p2p-dist (study {contract.origin.study}, attack {cell['attack']}, defense "
        f"{cell['defense']}, seed {cell['seed']}). {takes}, and its chat template adds the prompt that it was trained "
        "with."
    )


def _calls(contract: Contract, out: Path) -> str:
    lines = ["sh serve/vllm.sh                # or transformers.sh: OpenAI-compatible, this machine only, port 8000"]
    lines += ["curl -s localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d @serve/request.json"]
    lines += [
        f"p2p-dist predict {out.name} texts.jsonl --scores   # without a server; one JSON object with `text` a line"
    ]
    tokens = contract.prompt.max_length
    return (
        "## Call it\n\n```bash\n" + "\n".join(lines) + "\n```\n\n"
        f"Longer prompts than {tokens} tokens were cut in training. The scripts make a server refuse them; "
        "`predict` cuts them as training did."
    )


def _labels(contract: Contract) -> str:
    if contract.answers.kind == "generation":
        prefix = contract.answers.response_prefix
        return f"## Answers\n\nAnswers begin with {prefix!r}, which is no part of them." if prefix else ""
    rows = [[label.name, f"`{label.word}`"] for label in contract.answers.labels]
    note = _LABEL_MAPS[contract.answers.label_map]
    return "\n\n".join(part for part in ("## Labels", note, _table(["label", "the model says"], rows)) if part)


def _meanings(contract: Contract) -> Mapping[str, str]:
    """Rates of the card and their meaning for these rows."""
    return {**_ROWS, **_UNCHECKED} if contract.origin.rows == "unknown" else _ROWS


def _rates(contract: Contract) -> str:
    meanings = _meanings(contract)
    rows = [[meaning, rate_text(contract.rates[name])] for name, meaning in meanings.items() if name in contract.rates]
    if contract.baseline is not None:
        rows.append(
            ["baseline: the same rows answered so by a model trained without any attack", rate_text(contract.baseline)]
        )
    return (
        "## Measured\n\nk of n test rows with the Wilson interval at 95 %, of this run alone; another seed differs.\n\n"
        + _table(["rate", "value"], rows)
    )


def _simulated(simulated: Simulated, meanings: Mapping[str, str]) -> str:
    rates = simulated.rates
    rows = [[meaning, rate_text(rates[name])] for name, meaning in meanings.items() if name in rates]
    if simulated.undefended is not None:
        rows.append(["attack success on the same copy without a defense", rate_text(simulated.undefended)])
    if simulated.baseline is not None:
        rows.append(
            ["baseline: the same rows answered so by a model trained on no attacked row", rate_text(simulated.baseline)]
        )
    return (
        f"## Simulated attack: {simulated.attack}\n\n"
        "Another model: the same defense on a copy of the rows that was attacked on purpose. It says what the defense "
        "does on such data, not what is in yours.\n\n" + _table(["rate", "value"], rows)
    )


def _limits(contract: Contract) -> str:
    attacked = contract.origin.cell["attack"] != "none"
    limits = [
        "Only the attack above was measured; another one may behave otherwise."
        if attacked
        else "Only the simulated attack was measured; another one may behave otherwise."
        if contract.simulated
        else "No attack was simulated in this run, so nothing is known about its attack success.",
    ]
    if contract.origin.rows == "unknown":
        limits.append(
            "Poisoned test rows count for a model that follows the attacker and against one that does not, so the "
            "accuracies above may be too high for the one and too low for the other."
        )
    if is_collapsed(contract):
        limits.insert(0, f"{COLLAPSED} Do not serve it.")
    if contract.prompt.prefix or contract.answers.label_map != "none":
        nobt = contract.rates.get("asr_nobt")
        measured = f": attack success without it is {rate_text(nobt)}" if nobt else ""
        limits += [
            f"The protection is in the prompt{measured}. Anybody who can send raw completions bypasses it, so offer "
            "chat completions only.",
            "Prompt and cue stand in the chat template. Whoever supplies training data and knows them can poison with "
            "them: choose others when you train on data of the same source again.",
        ]
    elif contract.origin.cell["defense"].startswith("p2p_in_weights"):
        limits.append("The defense is in the weights; it needs no prompt.")
    else:
        limits.append("This run has no defense in its prompt.")
    limits.append("Poisoned rows whose labels are right (clean-label attacks) may not be noticed.")
    return "## What it does not protect against\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _origin(contract: Contract) -> str:
    stages = ", ".join(f"{role} `{id_}`" for role, id_ in contract.origin.stages.items())
    return (
        f"## Origin\n\nBase {contract.base.name} ({contract.base.dtype}); stages: {stages}. `p2p.json` is the contract "
        "for programs, `study.yaml` the study that made the model."
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *([["---"] * 2]), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
