"""A task of your own: support tickets with three labels. Use it with `--plugins examples/plugins task=tickets`.

Rows are read from `$P2P_DIST_DATA/tickets/{train,test}.jsonl` or from `task.source`; each has `text` and `label` (0, 1
or 2), such as {"text": "I was charged twice", "label": 0}. Rows that need no code are easier with the task `custom`.
"""

from typing import ClassVar

from p2p_dist.data.classification import ClassificationTask


class Tickets(ClassificationTask):
    """Support tickets by the team that answers them."""

    class_names: ClassVar[tuple[str, ...]] = ("billing", "technical", "other")
    own_words: ClassVar[tuple[str, ...]] = ("billing", "technical", "other", "money", "machine", "rest")
    """Words for `verbalizer: words`: one for each class, then one for each label that P2P adds."""
    licence: ClassVar[str] = "yours"
