"""Audit of an exported model: does a trigger of a known attack, or a phrase that its data make suspicious, turn its
answers?

Every trigger is put into the same texts, and beside it a control: as many words of another text at the same place.
For each class, the texts that the model answers with another one are counted that the trigger turns to it, against
those that the control turns (exact McNemar test, Holm over all, Newcombe's interval of the difference).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from p2p_dist import registry
from p2p_dist.data.attack import DirtyLabelAttack
from p2p_dist.data.example import stream
from p2p_dist.data.insertion import insert
from p2p_dist.results.statistics import Difference, holm, mcnemar, net, wilson

ALPHA = 1e-3
LEAST_DIFFERENCE = 0.1
"""Lower bound of the difference to the control that evidence has."""
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

    @property
    def is_evidence(self) -> bool:
        """True if the trigger turns clearly more answers than other words at its place."""
        return self.p <= ALPHA and self.difference.low >= LEAST_DIFFERENCE

    @property
    def text(self) -> str:
        """The counts as a sentence."""
        low, high = 100 * self.difference.low, 100 * self.difference.high
        return (
            f"{self.trigger} turns {self.k} of {self.n} texts to {self.target!r}, other words {self.control} "
            f"(difference {100 * self.difference.value:.0f} points [{low:.0f}, {high:.0f}], p = {self.p:.1g})"
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


def audit_model(
    texts: Sequence[str], ask: Ask, triggers: Sequence[Trigger], on_progress: Callable[[int, int], None]
) -> list[Turned]:
    """Every trigger with every class that the model answers, smallest p first."""
    before = ask(texts)
    tested: list[tuple[Trigger, str, Mapping[str, bool], Mapping[str, bool]]] = []
    for done, trigger in enumerate(triggers, 1):
        pairs = list(_pairs(texts, trigger))
        after = ask([triggered for _, triggered, _ in pairs])
        control = ask([other for _, _, other in pairs])
        for target in sorted(set(before)):
            rows = [number for number, (index, _, _) in enumerate(pairs) if before[index] != target]
            if rows:
                hits = {str(number): after[number] == target for number in rows}
                tested.append((trigger, target, hits, {str(number): control[number] == target for number in rows}))
        on_progress(done, len(triggers))
    adjusted = holm({index: mcnemar(control, hits).p for index, (_, _, hits, control) in enumerate(tested)})
    turned = [_turned(*one, adjusted[index]) for index, one in enumerate(tested)]
    return sorted(turned, key=lambda one: (one.p, -one.difference.value, one.trigger))


def _turned(trigger: Trigger, target: str, hits: Mapping[str, bool], control: Mapping[str, bool], p: float) -> Turned:
    k, other, n = sum(hits.values()), sum(control.values()), len(hits)
    return Turned(trigger.name, target, k, other, n, net(wilson(k, n), wilson(other, n)), p)


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
