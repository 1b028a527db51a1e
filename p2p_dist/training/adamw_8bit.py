"""AdamW with moments in 8 bits, by bitsandbytes (arXiv 2110.02861): 2 bytes per adapter number and moment pair instead
of 8.

Moments are kept in blocks of 256 numbers that share a scale. A checkpoint holds them as fp32 like those of plain AdamW,
so that they go on to the same bits: the largest number of every block is written as the scale itself, which its code
cannot always say (the most negative code is -0.993).
"""

from typing import Any

import torch

from p2p_dist.modeling.quantize import bitsandbytes

BLOCK = 256


def adamw_8bit(numbers: torch.Tensor, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of one run over its flat numbers [P]. Adapters of less than 4,096 numbers keep fp32 moments, as is
    bitsandbytes' way. Raises UserError E281 when bitsandbytes is not installed."""
    made: torch.optim.Optimizer = bitsandbytes().optim.AdamW8bit([numbers], lr=learning_rate, weight_decay=weight_decay)
    return made


def moments_of(state: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both moments, [P] each in fp32, from bitsandbytes' state of one tensor."""
    first, second = (_unpacked(state, number) for number in "12")
    return first, second


def restore(optimizer: Any, numbers: torch.Tensor, done: int, first: torch.Tensor, second: torch.Tensor) -> None:
    """The inverse of `moments_of`: go on after `done` steps."""
    optimizer.init_state(optimizer.param_groups[0], numbers, 0, 0)
    state = optimizer.state[numbers]
    state["step"] = done
    for number, moment in (("1", first), ("2", second)):
        moment = moment.to(numbers.device)
        if state[f"state{number}"].dtype == torch.float32:
            state[f"state{number}"].copy_(moment)
        else:
            codes, scales = torch.ops.bitsandbytes.quantize_blockwise(moment, state[f"qmap{number}"], BLOCK)
            state[f"state{number}"].copy_(codes)
            state[f"absmax{number}"].copy_(scales)


def _unpacked(state: dict[str, Any], number: str) -> torch.Tensor:
    codes: torch.Tensor = state[f"state{number}"]
    if codes.dtype == torch.float32:
        return codes
    levels, scales = state[f"qmap{number}"], state[f"absmax{number}"]
    moment: torch.Tensor = torch.ops.bitsandbytes.dequantize_blockwise(codes, scales, levels, BLOCK, torch.float32)
    lowest = (codes == 0) & (levels[0] < 0)
    return torch.where(lowest, -scales.repeat_interleave(BLOCK)[: codes.numel()], moment)
