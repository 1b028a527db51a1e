"""Cache of rows that are continued: nothing of a row that ended reaches the one that takes its place."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from p2p_dist.modeling.key_value_cache import KeyValueCache, NextTokens


def test_cleared_slot_has_no_number_that_is_not_finite() -> None:
    """Tokens of a diverged row, cleared, and one token of the next row: attention over the slot is that token's
    value. A mask alone does not stop a key that is not finite."""
    cache = KeyValueCache(slots=1, length=4)
    bad = torch.full((1, 1, 3, 2), torch.nan)
    cache.begin(torch.tensor([0, 1, 2]))
    cache.write(bad, bad)
    cache.clear(torch.tensor([0]))
    cache.begin(torch.tensor([0]))
    rows = NextTokens(cache, torch.tensor([0]), longest=0)
    value = torch.tensor([[[[3.0, 5.0]]]])
    keys, values = rows.cached(torch.ones(1, 1, 1, 2), value)
    out = scaled_dot_product_attention(torch.ones(1, 1, 1, 2), keys, values, attn_mask=rows.mask(None))
    torch.testing.assert_close(out, value)
