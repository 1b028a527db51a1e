"""Many continuations of one prompt in one forward pass: the tokens behind the prompt are a tree, not a line.

Continuations that begin alike share their tokens, and every token looks at the prompt and at its own ancestors only, so
each sees what it would see if it stood alone behind the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from p2p_dist.modeling.attention import Group
from p2p_dist.modeling.packing import GROUP_BY, Batch, pack
from p2p_dist.modeling.tokenization import Encoded


@dataclass(frozen=True)
class Tree:
    """The continuations of a prompt as a tree. Node 0 is the end of the prompt; nodes 1.. have a token and a parent.

    `edges` are (node, token): the token is predicted at the node. `paths` are the edges of each continuation, by
    number.
    """

    tokens: list[int]
    parents: list[int]
    edges: list[tuple[int, int]]
    paths: list[list[int]]

    @property
    def depths(self) -> list[int]:
        """Tokens between the end of the prompt and each of the nodes 1.., itself included."""
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent] + 1)
        return depths[1:]


def tree_of(continuations: Sequence[Sequence[int]]) -> Tree:
    """The tree of some continuations, none of them empty. Their last tokens are predicted and never read."""
    tree = Tree([], [], [], [])
    numbers: dict[tuple[int, int], int] = {}
    nodes: dict[int, int] = {}
    for continuation in continuations:
        node, path = 0, []
        for depth, token in enumerate(continuation):
            edge = numbers.setdefault((node, token), len(numbers))
            path.append(edge)
            if depth + 1 < len(continuation):
                if edge not in nodes:
                    nodes[edge] = len(nodes) + 1
                    tree.tokens.append(token)
                    tree.parents.append(node)
                node = nodes[edge]
        tree.paths.append(path)
    tree.edges.extend(numbers)
    return tree


def pack_trees(prompts: Sequence[Sequence[int]], trees: Sequence[Tree], group_by: int = GROUP_BY) -> Batch:
    """Prompts, each with its tree. `answers` are the nodes 0.. of each prompt, prompt by prompt; there are no targets
    worth the name. Attention sees rows in groups as in `pack`."""
    pairs = list(zip(prompts, trees, strict=True))
    rows = [Encoded("", [*prompt, *tree.tokens], [0] * (len(tree.tokens) + 1)) for prompt, tree in pairs]
    batch = pack([rows], group_by)
    depths = [len(prompt) - 1 + depth for prompt, tree in pairs for depth in (0, *tree.depths)]
    flat = batch.positions.view(-1)
    flat[batch.answers] = torch.tensor(depths)
    kin = {id(tree): _kin(tree) for tree in trees}
    rows_of_groups: dict[int, list[tuple[torch.Tensor, int]]] = {}  # in the order of `pack`
    for tree, (_, length) in zip(trees, batch.packed.places, strict=True):
        rows_of_groups.setdefault(-(-length // group_by), []).append((kin[id(tree)], length))
    groups = tuple(
        replace(group, mask=_mask(group, of_rows), positions=flat[group.spread].view(group.rows, group.longest))
        for group, (_, of_rows) in zip(batch.packed.groups, sorted(rows_of_groups.items()), strict=True)
    )
    return replace(batch, packed=replace(batch.packed, groups=groups))


def _kin(tree: Tree) -> torch.Tensor:
    """[nodes 1.., nodes 1..]: true where the first is the second or descends from it."""
    kin = torch.eye(len(tree.tokens), dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent:
            kin[node] |= kin[parent - 1]
    return kin


def _mask(group: Group, rows: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
    """Causal, but for the tree's tokens at the end of each row among themselves. `rows` are the kin and the length of
    each. Slots behind a row are read by nobody."""
    mask = torch.ones(group.longest, group.longest, dtype=torch.bool).tril().repeat(group.rows, 1, 1, 1)
    for row, (kin, length) in enumerate(rows):
        tail = slice(length - len(kin), length)
        mask[row, 0, tail, tail] = kin
    return mask
