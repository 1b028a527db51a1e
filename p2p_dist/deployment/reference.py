"""Reference model of an audit: another export, an adapter on the same base, or the base itself."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from p2p_dist.deployment import contract as contracts
from p2p_dist.deployment.contract import Contract
from p2p_dist.deployment.loaded import Deployed, encoder_of, load, load_adapter
from p2p_dist.errors import UserError, user_error
from p2p_dist.modeling.adapter_config import FILE
from p2p_dist.modeling.base import load_base
from p2p_dist.results.statistics import wilson

BASE = "base"
"""Name of the audited model's own base in place of a folder."""


def load_reference(place: str, audited: Contract) -> Deployed:
    """Load a reference. An export is asked by its own prompt; an adapter and the base by the prompt and the words of
    the audited model.

    Raises UserError E171 for another place and for an export with other labels, and as `load` does.
    """
    folder = Path(place).expanduser()
    if (folder / contracts.FILE).is_file():
        labels = {label.name for label in contracts.read(folder).answers.labels}
        if labels != {label.name for label in audited.answers.labels}:
            raise _unfit(f"the reference has other labels: {', '.join(sorted(labels)) or 'none'}", place)
        return load(folder)
    if (folder / FILE).is_file():
        base = load_adapter(folder, audited)
    elif place == BASE:
        origin = audited.base
        base = load_base(origin.identity, origin.local, origin.dtype, origin.quantization)
    else:
        raise _unfit(f"no export, no adapter in PEFT's format and not {BASE!r}", place)
    return Deployed(audited, base, encoder_of(base, audited))


def check_agreement(answers: Sequence[str], reference: Sequence[str], place: str) -> str:
    """A sentence on the texts without a trigger that both models answer alike.

    Raises UserError E171 when they are no more than two models share that answer at random: such a reference does not
    know the task, or was read by words that are not its own, and would take evidence away.
    """
    n = len(answers)
    alike = sum(one == other for one, other in zip(answers, reference, strict=True))
    counts, others = Counter(answers), Counter(reference)
    chance = sum(counts[label] * others[label] for label in counts) / n**2
    if wilson(alike, n).low <= chance:
        raise _unfit(f"it answers {alike} of {n} texts as the model does, {chance * n:.0f} are so by chance", place)
    return f"reference {place}: it answers {alike} of {n} texts as the model does"


def _unfit(what: str, place: str) -> UserError:
    fix = "name an export of the same task without the suspected backdoor, such as one trained on trusted rows"
    return user_error("E171", f"not a reference for this model: {what}", place, fix)
