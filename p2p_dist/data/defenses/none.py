"""No defense: fine-tune on whatever the data set holds."""

from p2p_dist.data.defense import Defense


class NoDefense(Defense):
    """The undefended model that every defense is compared with."""
