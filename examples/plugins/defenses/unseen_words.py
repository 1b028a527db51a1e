"""A defense of your own: drop suspicious rows before training. Use it with `--plugins examples/plugins
defense=unseen_words`.

A defense that rewrites rows is a `DataDefense` with `defend_train`. It is not told which rows are poisoned.
"""

from collections import defaultdict
from typing import ClassVar

from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView


class UnseenWords(DataDefense):
    """Drops rows with a word that only one label has and that no trusted row has: what a fixed trigger looks like."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        clean_rows="rows.reserve, read and not trained on", source="an example; not from a paper"
    )

    min_rows: int = 5
    """A word in fewer rows than this is no suspect."""

    def defend_train(self, view: DefenderView) -> Defended:
        """The rows to train on. Ids, labels and texts of the others stay as they are."""
        # 1. Collect the words of the trusted rows, and the labels that each word of the suspect rows stands with.
        trusted_words = {word for row in view.reserve for word in row.text.split()}
        labels = defaultdict[str, list[int]](list)
        for row in view.train:
            for word in set(row.text.split()):
                labels[word].append(row.label)
        # 2. A suspect is a frequent word with one label alone that no trusted row has.
        suspects = {
            word
            for word, seen in labels.items()
            if len(seen) >= self.min_rows and len(set(seen)) == 1 and word not in trusted_words
        }
        # 3. Train on the rows without a suspect.
        train = [row for row in view.train if suspects.isdisjoint(row.text.split())]
        return Defended(train, [], {"kept": len(train), "suspect_words": len(suspects), "clean_rows_used": 0})
