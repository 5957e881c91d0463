"""Decoding calls for the tests of both backends: a few queries at the end of many keys, under every rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probe.kernels.inputs import Attention, Mask, Score

RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "causal": ({}, {}),
    "bidirectional": ({"causal": False}, {}),
    "window": ({"window": 100}, {}),
    "window 1": ({"window": 1}, {}),
    "bidirectional window": ({"causal": False, "window": 50}, {}),
    "padding left": ({"lengths": torch.tensor([[0, 300], [120, 300]])}, {}),
    "padding both sides": ({"lengths": torch.tensor([[7, 299], [290, 295]])}, {}),
    "an empty sequence": ({"lengths": torch.tensor([[0, 300], [40, 40]])}, {}),
    "documents": ({"documents": torch.stack([torch.arange(300) // 40, (torch.arange(300) >= 298).long()])}, {}),
    "soft cap": ({}, {"softcap": 3.0}),
    "learned sinks": ({}, {"sinks": torch.linspace(-1.0, 4.0, 4)}),
    "slopes": ({}, {"slopes": torch.linspace(0.01, 0.3, 4)}),
    "temperature": ({}, {"temperature": torch.linspace(0.5, 2.0, 6).view(2, 3)}),
    "everything": (
        {
            "window": 200,
            "lengths": torch.tensor([[0, 300], [120, 300]]),
            "documents": (torch.arange(300) >= torch.tensor([[150], [298]])).long(),
        },
        {
            "softcap": 5.0,
            "sinks": torch.linspace(-1.0, 4.0, 4),
            "slopes": torch.linspace(0.01, 0.3, 4),
            "temperature": torch.linspace(0.5, 2.0, 6).view(2, 3),
        },
    ),
}
"""Mask and score of calls with 2 sequences, 3 queries, 4 heads over 2, 300 keys."""


def decoding(
    rule: str = "causal",
    *,
    T: int = 3,
    S: int = 300,
    D: int = 16,
    Dv: int | None = None,
    ratio: int = 2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    gain: float = 2.0,
) -> Attention:
    """Random q, k, v (scores with a standard deviation of `gain`), the queries last among the keys."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    mask, score = RULES[rule]
    return Attention(
        q=(draw(2, 2 * ratio, T, D) * gain).to(dtype),
        k=draw(2, 2, S, D),
        v=draw(2, 2, S, D if Dv is None else Dv),
        mask=Mask(query_offset=S - T, **mask),
        score=Score(scale=D**-0.5, **score),
    )


def first(call: Attention, *, sequences: int = 2, groups: int = 2) -> Attention:
    """The first sequences and key/value heads of a call, with their query heads and rules."""
    heads = groups * (call.q.shape[1] // call.k.shape[1])
    mask, score = call.mask, call.score

    def cut(values: Tensor | None, count: int) -> Tensor | None:
        return None if values is None else values[:count]

    return Attention(
        *(x[:sequences, :n] for x, n in ((call.q, heads), (call.k, groups), (call.v, groups))),
        replace(mask, lengths=cut(mask.lengths, sequences), documents=cut(mask.documents, sequences)),
        replace(
            score,
            sinks=cut(score.sinks, heads),
            slopes=cut(score.slopes, heads),
            temperature=cut(score.temperature, sequences),
        ),
    )


def tied(S: int = 300, dtype: torch.dtype = torch.float32) -> Attention:
    """Scores of small whole numbers, exact in any order of adding, most of them shared by many keys.

    Key j scores (7 j) % 5 for the first head of a group and minus that for the second.
    """
    k = torch.zeros(2, 2, S, 16)
    k[..., 0] = ((7 * torch.arange(S)) % 5).float()
    q = torch.zeros(2, 4, 3, 16)
    q[:, 0::2, :, 0], q[:, 1::2, :, 0] = 1.0, -1.0
    v = torch.ones(2, 2, S, 16, dtype=dtype)
    return Attention(q.to(dtype), k.to(dtype), v, Mask(query_offset=S - 3), Score(1.0))


def tied_keys(count: int, S: int = 300) -> tuple[list[int], list[int]]:
    """The `count` strongest keys of the last query of `tied`, first and second head, by plain sorting."""
    scores = [(7 * j) % 5 for j in range(S)]
    falling = sorted(range(S), key=lambda j: (-scores[j], j))
    rising = sorted(range(S), key=lambda j: (scores[j], j))
    return falling[:count], rising[:count]
