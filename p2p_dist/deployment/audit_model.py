"""Audit of an exported model: does a trigger of a known attack, or a phrase that its data make suspicious, turn its
answers?

Every trigger is put into the same texts, and beside it a control: as many words of another text at the same place.
For each class, the texts that the model answers with another one are counted that the trigger turns to it, against
those that the control turns (exact McNemar test, Holm over all, Newcombe's interval of the difference). With a
reference model, the same triggers are put to it too, and evidence is what a trigger turns clearly more often in the
audited model: both tests must reject, so the larger p value counts (intersection-union test).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from p2p_dist import registry
from p2p_dist.data.attack import DirtyLabelAttack
from p2p_dist.data.example import stream
from p2p_dist.data.insertion import insert
from p2p_dist.results.statistics import Difference, holm, mcnemar, net, wilson

ALPHA = 1e-3
LEAST_DIFFERENCE = 0.1
"""Lower bound of the difference to the control, and to the reference, that evidence has."""
LEAST_SHARED = 20
"""Texts that neither model answers with a class before, for a reference to be asked about that class."""
BLIND = (
    "triggers that are neither of a known attack nor in the data",
    "triggers of style or syntax, and rewritten texts",
    "prompts that bypass the chat template",
)
"""Backdoors that this method cannot see."""
Ask = Callable[[Sequence[str]], Sequence[str]]
"""Answers of the model to texts: names of labels."""


@dataclass(frozen=True)
class Trigger:
    """A trigger to try: `place` returns a text with it, or None for a text that cannot carry it."""

    name: str
    place: Callable[[str, Random], str | None]


@dataclass(frozen=True)
class Turns:
    """Texts that a reference model turns, `k` of `n` that neither model answers with the target before, and how many
    more of them the audited model turns."""

    k: int
    n: int
    difference: Difference


@dataclass(frozen=True)
class Turned:
    """Texts that one trigger turns to one class, and those that its control turns."""

    trigger: str
    target: str
    k: int
    control: int
    n: int
    difference: Difference
    p: float
    """Adjusted for all triggers and classes."""
    reference: Turns | None = None
    """None without a reference, and where it answers fewer than `LEAST_SHARED` texts with another class before."""

    @property
    def is_evidence(self) -> bool:
        """True if the trigger turns clearly more answers than other words at its place, and than in the reference."""
        differences = [self.difference] + ([self.reference.difference] if self.reference else [])
        return self.p <= ALPHA and all(one.low >= LEAST_DIFFERENCE for one in differences)

    @property
    def text(self) -> str:
        """The counts as a sentence."""
        low, high = 100 * self.difference.low, 100 * self.difference.high
        return (
            f"{self.trigger} turns {self.k} of {self.n} texts to {self.target!r}, other words {self.control} "
            f"(difference {100 * self.difference.value:.0f} points [{low:.0f}, {high:.0f}], p = {self.p:.1g})"
            + (f"; in the reference it turns {self.reference.k} of {self.reference.n}" if self.reference else "")
        )


def known_triggers() -> list[Trigger]:
    """Triggers of the attack plug-ins at their defaults and presets, each once; attacks that need a file are left
    out."""
    triggers: dict[str, Trigger] = {}
    for name in registry.names("attacks"):
        plugin = registry.load("attacks", name)
        if not issubclass(plugin, DirtyLabelAttack) or plugin.file_fields:
            continue
        for preset, options in {"": {}, **plugin.presets}.items():
            attack = plugin.model_validate(options)
            literals = " / ".join(attack.literals())
            title = f"{name}{f' ({preset})' if preset else ''}: {literals!r}"
            if literals:
                triggers.setdefault(literals, Trigger(title, _placed_by(attack)))
    return list(triggers.values())


def phrase_triggers(phrases: Sequence[str]) -> list[Trigger]:
    """Suspicious phrases of the data as triggers."""

    def placed(phrase: str) -> Callable[[str, Random], str | None]:
        def place(text: str, random: Random) -> str | None:
            triggered = insert(text, phrase, random)
            return triggered.text if triggered else None

        return place

    return [Trigger(f"phrase of the data: {phrase!r}", placed(phrase)) for phrase in dict.fromkeys(phrases)]


@dataclass(frozen=True)
class Reference:
    """A reference model: its answers to the texts, and to further ones."""

    before: Sequence[str]
    ask: Ask


@dataclass(frozen=True)
class _Tested:
    """Texts by number that a trigger turns to a class, in the model, with the control, and in the reference."""

    trigger: str
    target: str
    hits: Mapping[str, bool]
    control: Mapping[str, bool]
    reference: Mapping[str, bool] | None

    @property
    def p(self) -> float:
        """Larger p value of the tests against the control and the reference."""
        others = [self.control] if self.reference is None else [self.control, self.reference]
        return max(mcnemar(other, self.hits).p for other in others)

    def turned(self, p: float) -> Turned:
        """The counts with the adjusted p value."""
        reference = None
        if self.reference is not None:
            hits = [self.hits[number] for number in self.reference]
            reference = Turns(sum(self.reference.values()), len(hits), _difference(hits, self.reference.values()))
        k, other = sum(self.hits.values()), sum(self.control.values())
        difference = _difference(self.hits.values(), self.control.values())
        return Turned(self.trigger, self.target, k, other, len(self.hits), difference, p, reference)


def audit_model(
    texts: Sequence[str],
    ask: Ask,
    triggers: Sequence[Trigger],
    on_progress: Callable[[int, int], None],
    reference: Reference | None = None,
) -> list[Turned]:
    """Every trigger with every class that the model answers with or without it, smallest p first; empty for a model of
    one answer."""
    before = ask(texts)
    tested: list[_Tested] = []
    for done, trigger in enumerate(triggers, 1):
        pairs = list(_pairs(texts, trigger))
        triggered = [text for _, text, _ in pairs]
        after, control = ask(triggered), ask([other for _, _, other in pairs])
        answers = reference.ask(triggered) if reference else None
        for target in sorted({*before, *after}):
            numbers = [number for number, (index, _, _) in enumerate(pairs) if before[index] != target]
            if not numbers:
                continue
            hits, turned_by_control = _hits(after, numbers, target), _hits(control, numbers, target)
            by_reference = None
            if reference and answers is not None:
                shared = [number for number in numbers if reference.before[pairs[number][0]] != target]
                by_reference = _hits(answers, shared, target) if len(shared) >= LEAST_SHARED else None
            tested.append(_Tested(trigger.name, target, hits, turned_by_control, by_reference))
        on_progress(done, len(triggers))
    adjusted = holm({index: one.p for index, one in enumerate(tested)})
    turned = [one.turned(adjusted[index]) for index, one in enumerate(tested)]
    return sorted(turned, key=lambda one: (one.p, -one.difference.value, one.trigger))


def _hits(answers: Sequence[str], numbers: Sequence[int], target: str) -> dict[str, bool]:
    return {str(number): answers[number] == target for number in numbers}


def _difference(hits: Collection[bool], others: Collection[bool]) -> Difference:
    return net(wilson(sum(hits), len(hits)), wilson(sum(others), len(others)))


def _placed_by(attack: DirtyLabelAttack) -> Callable[[str, Random], str | None]:
    def place(text: str, random: Random) -> str | None:
        triggered = attack.trigger(text, random)
        return triggered.text if triggered else None

    return place


def _pairs(texts: Sequence[str], trigger: Trigger) -> Iterator[tuple[int, str, str]]:
    """Index of each text that can carry the trigger, the text with it, and the text with as many words of the next."""
    for index, text in enumerate(texts):
        triggered = trigger.place(text, stream(0, "audit.trigger", f"{trigger.name}:{index}"))
        if triggered is None:
            continue
        words, added = texts[(index + 1) % len(texts)].split(), len(triggered.split()) - len(text.split())
        control = insert(text, " ".join(words[: max(1, added)]), stream(0, "audit.trigger", f"{trigger.name}:{index}"))
        yield index, triggered, control.text if control else text
