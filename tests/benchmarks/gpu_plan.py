"""What the GPU benchmark measures, on which shapes, and the tensors of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score


@dataclass(frozen=True)
class Plan:
    """What is measured, on which shapes: the issue's, or a tiny one that runs anywhere."""

    heads: int = 32
    kv_heads: int = 8
    width: int = 128
    dtype: torch.dtype = torch.bfloat16
    lengths: tuple[int, ...] = (8192, 32_768, 131_072)
    eager_lengths: tuple[int, ...] = (8192, 32_768)
    memory_lengths: tuple[int, ...] = (16_384, 32_768, 65_536, 131_072)
    checked: tuple[tuple[int, int], ...] = ((1000, 4), (8192, 4), (32_768, 2), (131_072, 1))
    """Tokens, and how many of the heads are computed in float64 (spread over them, the last one among them)."""
    decode_keys: tuple[int, ...] = (8192, 131_072, 1_048_576)
    bands: int = 64
    rates: tuple[tuple[str, int], ...] = ()
    """Sizes of what `gpu_rates.rates` measures, where they are not its own."""
    test_shares: int = 10
    """Processes that share the property tests: most of their time is compiling, on one core each."""


def make_call(plan: Plan, length: int, device: torch.device, *, queries: int | None = None) -> Attention:
    """Random tensors of the plan's shape: scores of a standard deviation of 2, the same on every run."""
    generator = torch.Generator(device).manual_seed(length)

    def draw(heads: int, n: int) -> torch.Tensor:
        return torch.randn(1, heads, n, plan.width, generator=generator, device=device, dtype=plan.dtype)

    n = length if queries is None else queries
    q, k, v = (2 * draw(plan.heads, n)), draw(plan.kv_heads, length), draw(plan.kv_heads, length)
    return Attention(q, k, v, Mask(query_offset=length - n), Score(plan.width**-0.5))


def full_request(call: Attention, *, bands: int, parts: bool) -> Request:
    """Every statistic there is, over repeated random tokens."""
    generator = torch.Generator(call.q.device).manual_seed(1)
    B, T = call.q.shape[0], call.q.shape[2]
    ids = torch.randint(0, max(T // 8, 2), (B, T), generator=generator, device=call.q.device)
    before = torch.cat([torch.full_like(ids[:, :1], -1), ids[:, :-1]], 1)
    direction = torch.randn(call.q.shape, generator=generator, device=call.q.device, dtype=call.q.dtype)
    return Request(
        lookups={"duplicate_token": Lookup(ids, ids, gap=1), "induction": Lookup(ids, before)},
        bands=bands,
        parts=parts,
        argmax=True,
        received_max=True,
        received_value=True,
        thresholds=(0.1, 0.01),
        direction=direction,
        mean=call.v.repeat_interleave(call.q.shape[1] // call.k.shape[1], 1).mean(2, keepdim=True),
    )
