"""No defense: fine-tune on the rows unchanged."""

from p2p_dist.data.defense import Defense


class NoDefense(Defense):
    """Undefended model, with which every defense is compared."""
