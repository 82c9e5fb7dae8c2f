"""The uniforms of ``sample`` in tensor operators: csrc/numerics/philox.h."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF


def uniforms(seeds: Tensor, rows: Tensor, count: int) -> Tensor:
    """``[…, count]`` in [0, 1), of 53 bits: those of the draws of each row, from int64 ``seeds`` and ``rows``."""
    draws = torch.arange(count, device=seeds.device)
    seeds, rows, draws = torch.broadcast_tensors(seeds.unsqueeze(-1), rows.unsqueeze(-1), draws)
    counter = [draws & _LOW, draws >> 32 & _LOW, rows & _LOW, rows >> 32 & _LOW]
    key = [seeds & _LOW, seeds >> 32 & _LOW]
    for _ in range(10):
        # Of products modulo 2^64 the sign plays no part in 32 bits of them.
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            (second >> 32 & _LOW) ^ counter[1] ^ key[0],
            second & _LOW,
            (first >> 32 & _LOW) ^ counter[3] ^ key[1],
            first & _LOW,
        ]
        key = [key[0] + 0x9E3779B9 & _LOW, key[1] + 0xBB67AE85 & _LOW]
    bits = (counter[1] << 32 | counter[0]) >> 11 & (1 << 53) - 1
    return bits.double() * 2.0**-53
