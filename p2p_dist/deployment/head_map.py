"""Label map in the output head: the rows of label words are exchanged, so that the model answers with the task's own.

A run that answers class y with another word than the task's (P2P: extended labels, arXiv 2510.04503, section 4.2; PDB:
permuted ones) is read back by an inverse map. Logits are products with the head's rows, so a permutation of the rows
of label words is that map, bit for bit, wherever the model is served. The input embedding stays as it is: a head that
was tied to it gets weights of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from p2p_dist.errors import user_error

HEAD = "lm_head"


@dataclass(frozen=True)
class HeadMap:
    """Changes of the head: row `t` becomes the old row `sources[t]`, or zero where that is None."""

    sources: Mapping[int, int | None]

    def applied(self, head: torch.Tensor) -> torch.Tensor:
        """A copy of the head's weights [V, d] (or bias [V]) with its rows exchanged."""
        changed = head.clone()
        for row, source in self.sources.items():
            changed[row] = 0 if source is None else head[source]
        return changed

    def lora(self, head: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The same change as a LoRA of the head: A [rank, d] and B [V, rank] in fp32 with scale * B A = new - old.

        A cycle of m rows needs rank m - 1, because its differences add up to zero. Raises UserError E154 when the rank
        is too small.
        """
        chosen = list(self._independent())
        if len(chosen) > rank:
            what = f"the label map needs a LoRA of rank {len(chosen)} on the head, the adapter has rank {rank}"
            raise user_error("E154", what, "--format", "set --format merged, or --label-map client")
        a, b = torch.zeros(rank, head.shape[1]), torch.zeros(len(head), rank)
        for index, (row, source, last) in enumerate(chosen):
            a[index] = ((0 if source is None else head[source].float()) - head[row].float()) / scale
            b[row, index] = 1
            if last is not None:
                b[last, index] = -1
        return a, b

    def _independent(self) -> "list[tuple[int, int | None, int | None]]":
        """(row, its source, last row of its cycle) of linearly independent differences; the last row of a cycle has
        the negative sum of the others, and rows of no cycle have no last."""
        rows, chosen = dict(self.sources), []
        while rows:
            row = next(iter(rows))
            chain, source = [row], rows[row]
            while source is not None and source in rows and source not in chain:
                chain.append(source)
                source = rows[source]
            closed = source == row
            members = chain[:-1] if closed else chain
            chosen += [(member, rows[member], chain[-1] if closed else None) for member in members]
            for member in chain:
                del rows[member]
        return chosen


def head_map(words: list[int], deployed: list[int], kind: Literal["swap", "move"]) -> HeadMap:
    """The map by which class y is answered with the task's word y in place of its deployed word.

    `words` are the tokens of all label words, `deployed` the index of the word that answers each class. swap is a
    permutation: words that are displaced take the rows that became free, in their order. move sets those to zero.
    Raises ValueError for tokens that are not distinct.
    """
    if len(set(words)) != len(words):
        raise ValueError(f"label words share tokens: {words}")
    sources: dict[int, int | None] = {words[label]: words[index] for label, index in enumerate(deployed)}
    displaced = [token for token in sources if token not in sources.values()]
    free = [token for token in sources.values() if token not in sources and token is not None]
    sources |= dict(zip(free, displaced if kind == "swap" else [None] * len(free), strict=True))
    return HeadMap({row: source for row, source in sources.items() if row != source})
