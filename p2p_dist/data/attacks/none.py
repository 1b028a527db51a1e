"""No attack: the rows of the task unchanged."""

from typing import ClassVar

from p2p_dist.data.attack import Attack


class NoAttack(Attack):
    """Clean training: the clean-model baseline of every attack success rate."""

    active: ClassVar[bool] = False
