"""Label maps in the head: rows change places and nothing else does, as weights and as a LoRA."""

import pytest

pytestmark = pytest.mark.torch

P2P_WORDS, P2P_DEPLOYED = [10, 11, 12, 13], [2, 3]


def head():
    import torch

    return torch.randn(20, 8, generator=torch.Generator().manual_seed(0))


def test_swap_exchanges_rows_and_leaves_the_others() -> None:
    import torch

    from p2p_dist.deployment.head_map import head_map

    old = head()
    new = head_map(P2P_WORDS, P2P_DEPLOYED, "swap").applied(old)
    for row, source in ((10, 12), (11, 13), (12, 10), (13, 11)):
        assert torch.equal(new[row], old[source])
    others = [row for row in range(20) if row not in P2P_WORDS]
    assert torch.equal(new[others], old[others])


def test_move_leaves_zeros_in_place_of_deployed_rows() -> None:
    import torch

    from p2p_dist.deployment.head_map import head_map

    old = head()
    new = head_map(P2P_WORDS, P2P_DEPLOYED, "move").applied(old)
    assert torch.equal(new[[10, 11]], old[[12, 13]])
    assert not new[[12, 13]].any()


def test_shifted_labels_are_a_cycle() -> None:
    """PDB: class y is answered with word (y + 1) mod n."""
    import torch

    from p2p_dist.deployment.head_map import head_map

    for kind in ("swap", "move"):
        new = head_map([5, 6, 7], [1, 2, 0], kind).applied(head())
        assert torch.equal(new[[5, 6, 7]], head()[[6, 7, 5]])


@pytest.mark.parametrize(
    ("words", "deployed", "kind", "rank"),
    [(P2P_WORDS, P2P_DEPLOYED, "swap", 2), (P2P_WORDS, P2P_DEPLOYED, "move", 4), ([5, 6, 7], [1, 2, 0], "swap", 2)],
)
def test_lora_of_the_head_equals_the_new_rows(words: list[int], deployed: list[int], kind: str, rank: int) -> None:
    import torch

    from p2p_dist.deployment.head_map import head_map
    from p2p_dist.errors import UserError

    change = head_map(words, deployed, kind)  # type: ignore[arg-type]
    a, b = change.lora(head(), rank + 1, scale=0.5)
    assert (a.shape, b.shape) == ((rank + 1, 8), (20, rank + 1))
    assert torch.allclose(head() + 0.5 * b @ a, change.applied(head()), atol=1e-5)
    with pytest.raises(UserError, match=r"E154.*rank"):
        change.lora(head(), rank - 1, scale=0.5)


def test_words_with_one_token_in_common_are_refused() -> None:
    from p2p_dist.deployment.head_map import head_map

    with pytest.raises(ValueError, match="share tokens"):
        head_map([1, 1, 2, 3], [2, 3], "swap")
