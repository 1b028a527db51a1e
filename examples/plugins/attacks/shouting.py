"""An attack of your own: a word in capitals is the trigger. Use it with `--plugins examples/plugins attack=shouting`.

The file's name is the attack's name. The class says how a text carries its trigger; which rows are poisoned, how many
and with what label is decided by its base class (`p2p_dist/data/attack.py`).
"""

from random import Random

from p2p_dist.data.attack import DirtyLabelAttack, Triggered


class Shouting(DirtyLabelAttack):
    """Writes one word of the text in capitals. Every field is an option that a study may set beside `name`."""

    min_letters: int = 4
    """The shortest word that is shouted."""

    def trigger(self, text: str, random: Random) -> Triggered | None:
        """The text with its trigger, or None for a text that cannot carry it. Draws only from `random`."""
        words = text.split()
        places = [place for place, word in enumerate(words) if len(word) >= self.min_letters and word.islower()]
        if not places:
            return None
        place = random.choice(places)
        shouted = words[place].upper()
        return Triggered(" ".join([*words[:place], shouted, *words[place + 1 :]]), shouted, place)
