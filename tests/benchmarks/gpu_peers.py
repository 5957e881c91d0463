"""What the fused passes are measured against, on the same tensors: torch's attention kernels, FlexAttention, eager."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from triton.errors import TritonError

from probe.kernels.inputs import Attention
from probe.kernels.validate import KernelError

ROWS = 512
"""Rows that a statistic in torch is computed for at once: their weights, float32, must fit."""


def sdpa(call: Attention, backend: SDPBackend) -> Callable[[], Tensor]:
    """Causal attention by one of torch's kernels, and no other: it raises RuntimeError where that one cannot run."""

    def run() -> Tensor:
        with sdpa_kernel(backend), torch.no_grad():
            return scaled_dot_product_attention(
                call.q, call.k, call.v, is_causal=True, scale=call.score.scale, enable_gqa=True
            )

    return run


def sdpa_one(call: Attention) -> Callable[[], Any]:
    """The output of one query over all its keys, by whichever kernel torch takes."""
    return lambda: scaled_dot_product_attention(call.q, call.k, call.v, scale=call.score.scale, enable_gqa=True)


def flex(call: Attention, *, statistics: bool = True) -> Callable[[], Any]:
    """FlexAttention, compiled, returning its log-sum-exp; then the row statistics from it in torch, rows at a time."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    mask = causal_blocks(call.q.shape[2], call.q.device)

    def run() -> Any:
        with torch.no_grad():
            z, extra = compiled(
                call.q,
                call.k,
                call.v,
                block_mask=mask,
                scale=call.score.scale,
                enable_gqa=True,
                return_aux=AuxRequest(lse=True),
            )
            return (z, statistics_from_lse(call, extra.lse)) if statistics else z

    return run


def causal_blocks(T: int, device: torch.device, *, size: int = 128) -> Any:
    """FlexAttention's causal block mask, written down: `create_block_mask` would first make all T · T booleans, 16 GiB
    at 131,072 tokens."""
    from torch.nn.attention.flex_attention import BlockMask

    n = -(-T // size)
    row = torch.arange(n, device=device, dtype=torch.int32)
    every = row.expand(1, 1, n, n).contiguous()
    whole = row[None, None].contiguous()  # blocks left of the diagonal are seen whole, the diagonal's own in part
    diagonal = torch.zeros_like(every)
    diagonal[..., 0] = row
    return BlockMask.from_kv_blocks(
        torch.ones_like(whole), diagonal, whole, every,
        BLOCK_SIZE=size, mask_mod=lambda b, h, i, j: i >= j, seq_lengths=(T, T),
    )  # fmt: skip


def statistics_from_lse(call: Attention, lse: Tensor, *, sinks: int = 4, window: int = 64) -> list[Tensor]:
    """Entropy, maximum, distance, first, local, sink and window mass of a causal call, as one writes them in torch.

    Each [B, H, T] float32. Rows are taken `ROWS` at a time, and the keys they see; one head's weights are
    [B, H, rows, keys].
    """
    (B, H, T, _), r = call.q.shape, call.q.shape[1] // call.k.shape[1]
    out = [lse.new_empty(B, H, T, dtype=torch.float32) for _ in range(7)]
    for start in range(0, T, ROWS):
        rows = slice(start, min(start + ROWS, T))
        i = torch.arange(rows.start, rows.stop, device=lse.device)[:, None]
        j = torch.arange(rows.stop, device=lse.device)
        for h in range(H):  # one head at a time: all of them at 128k would be 8 GiB
            k = call.k[:, h // r, : rows.stop]
            s = (call.q[:, h, rows] @ k.mT).float() * call.score.scale
            s = s.masked_fill(j > i, -torch.inf)
            P = torch.exp(s - lse[:, h, rows, None])
            found = (
                -torch.xlogy(P, P).sum(-1),
                P.amax(-1),
                (P * (i - j)).sum(-1),
                P[..., 0],
                (P * (i - j < window)).sum(-1),
                P[..., :sinks].sum(-1),
                (P * ((i - j < window) & (j >= sinks))).sum(-1),
            )
            for whole, part in zip(out, found, strict=True):
                whole[:, h, rows] = part
    return out


def eager(call: Attention) -> Callable[[], list[Tensor]]:
    """What people write today: T × T weights of all heads in float32, then each statistic a reduction of them."""

    def run() -> list[Tensor]:
        with torch.no_grad():
            r, T = call.q.shape[1] // call.k.shape[1], call.q.shape[2]
            k, v = (tensor.repeat_interleave(r, 1) for tensor in (call.k, call.v))
            i = torch.arange(T, device=k.device)[:, None]
            j = torch.arange(T, device=k.device)
            s = (call.q @ k.mT).float() * call.score.scale
            P = s.masked_fill_(j > i, -torch.inf).softmax(-1)
            return [
                P.to(v.dtype) @ v,
                -torch.xlogy(P, P).sum(-1),
                P.amax(-1),
                (P * (i - j)).sum(-1),
                P[..., 0],
                (P * (i - j < 64)).sum(-1),
                P[..., :4].sum(-1),
                (P * ((i - j < 64) & (j >= 4))).sum(-1),
            ]

    return run


def reason(error: Exception) -> str:
    """Why a peer did not run, in one line of the table."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    return f"does not run: {str(error).strip().splitlines()[0][:90] if str(error).strip() else type(error).__name__}"


PEER_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError, NotImplementedError, ImportError, TypeError, KernelError, TritonError,
)  # fmt: skip
"""What a kernel that does not exist here, or does not fit, raises."""


def tried(make: Callable[[], Any]) -> tuple[Any, str | None]:
    """The result of `make`, or why there is none; what it held on a GPU is given back."""
    try:
        return make(), None
    except PEER_ERRORS as error:
        why_not = reason(error)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, why_not
