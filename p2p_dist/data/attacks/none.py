"""No attack: the rows as the task gives them."""

from typing import ClassVar

from p2p_dist.data.attack import Attack


class NoAttack(Attack):
    """Clean training; its model is the floor that every attack success rate is compared with."""

    active: ClassVar[bool] = False
