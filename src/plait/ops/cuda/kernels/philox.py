"""The uniform number of `ops.random.token_uniform` on the device, bit for bit."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def token_uniform(seed_low, seed_high, sample, position_low, position_high):
    """float64 in [0, 1) from uint32 words; Philox4x32-10."""
    c0, c1, c2, c3 = position_low, position_high, sample, tl.zeros_like(sample)
    k0, k1 = seed_low, seed_high
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (p1 >> 32).to(tl.uint32) ^ c1 ^ k0,
            p1.to(tl.uint32),
            (p0 >> 32).to(tl.uint32) ^ c3 ^ k1,
            p0.to(tl.uint32),
        )
        k0 = (k0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    high, low = (c0 >> 5).to(tl.float64), (c1 >> 6).to(tl.float64)
    return (high * 67108864.0 + low) / 9007199254740992.0
