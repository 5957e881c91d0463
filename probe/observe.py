"""The one joint: an attention call as the hooks see it, handed to the kernels as they describe it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.hooks.call import AttentionCall
from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score
from probe.kernels.statistics import Statistics


def described(call: AttentionCall) -> Attention:
    """The kernels' description of a model's attention call: same tensors, no copy, masks as rules."""
    rule = call.rule()
    bias = call.bias

    def bias_block(rows: Int[Tensor, "rows"], columns: Int[Tensor, "columns"]) -> Float[Tensor, "B H rows columns"]:
        if bias is None:
            raise ValueError(f"{call.site.name} gives no bias")
        return bias[..., rows, :][..., columns]

    return Attention(
        q=call.q,
        k=call.k,
        v=call.v,
        mask=Mask(rule.causal, rule.window, rule.query_offset, rule.lengths, rule.allowed),
        score=Score(call.scale, call.softcap, None if bias is None else bias_block, call.sinks),
    )


def observed(
    call: AttentionCall, request: Request, *, backend: str = "auto"
) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output and statistics of a call: the output is the attention itself, so the model runs it once, not twice.

    Inside an edit (an enclosing instrument) the output is the edit's. Where gradients are recorded it is the model's
    own attention, as the kernels' carries none: the attention is then computed twice.
    """
    z, statistics = attention_statistics(described(call), request, backend=backend)
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (call.q, call.k, call.v))
    return (call.attend() if recorded or call.inner is not None else z), statistics


def token_lookups(tokens: Int[Tensor, "B T"]) -> dict[str, Lookup]:
    """METRICS' two lookups by token identity: earlier copies of the token, and what followed them."""
    missing = torch.full_like(tokens[:, :1], -1)
    before = torch.cat([missing, tokens[:, :-1]], dim=1)
    return {"duplicate_token": Lookup(tokens, tokens, gap=1), "induction": Lookup(tokens, before, gap=0)}


def uniform_mass(
    call: AttentionCall,
    request: Request,
    kept: dict[object, dict[str, Float[Tensor, "B H T"]]],
    *,
    backend: str = "auto",
) -> dict[str, Float[Tensor, "B H T"]]:
    """What uniform attention under this call's own mask puts on each lookup's keys, one head wide.

    The lookups' chance level: the same kernel with q = 0. `kept` holds it by mask, as layers share theirs.
    """
    rule = call.rule()
    key = (rule.causal, rule.window, rule.query_offset, None if rule.allowed is None else id(call.mask))
    if key not in kept:
        T, S = call.q.shape[2], call.k.shape[2]
        nothing = torch.zeros(call.q.shape[0], 1, max(T, S), 1, dtype=torch.float32, device=call.q.device)
        mask = Mask(rule.causal, rule.window, rule.query_offset, rule.lengths, rule.allowed)
        flat = Attention(nothing[:, :, :T], nothing[:, :, :S], nothing[:, :, :S], mask, Score(scale=1.0))
        asked = Request(lookups=request.lookups, bands=0, parts=False, distances=False)
        kept[key] = attention_statistics(flat, asked, backend=backend)[1].lookup
    return kept[key]


def repeats(tokens: Int[Tensor, "B T"]) -> Tensor:
    """Bool [B, T]: queries whose token occurred before; the ones that both lookups are averaged over."""
    out = torch.zeros_like(tokens, dtype=torch.bool)
    for row, mark in zip(tokens, out, strict=True):
        _, inverse = row.unique(return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), len(row), device=row.device)
        place = torch.arange(len(row), device=row.device)
        first.scatter_reduce_(0, inverse, place, "amin")
        mark.copy_(first[inverse] < place)
    return out
