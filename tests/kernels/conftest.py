"""Attention calls of every shape, and the one comparison with the float64 definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from probe.kernels import reference
from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score
from probe.kernels.statistics import Statistics
from probe.kernels.testing import assert_output_close, assert_statistics_close, bound_of

RULES: dict[str, Callable[[int, int, int], tuple[dict[str, Any], dict[str, Any]]]] = {
    "causal": lambda T, H, S: ({}, {}),
    "bidirectional": lambda T, H, S: ({"causal": False}, {}),
    "window 1": lambda T, H, S: ({"window": 1}, {}),
    "window 17": lambda T, H, S: ({"window": 17}, {}),
    "window beyond": lambda T, H, S: ({"window": T + 5}, {}),
    "bidirectional window": lambda T, H, S: ({"causal": False, "window": 5}, {}),
    "soft cap": lambda T, H, S: ({}, {"softcap": 2.0}),
    "learned sinks": lambda T, H, S: ({}, {"sinks": torch.linspace(-1, 3, H)}),
    "bias": lambda T, H, S: ({}, {"bias": slopes(H)}),
    "everything": lambda T, H, S: (
        {"window": 17, "allowed": checkered},
        {"softcap": 5.0, "sinks": torch.linspace(-1, 3, H), "bias": slopes(H)},
    ),
    "decoding": lambda T, H, S: ({"query_offset": S - T}, {}),
    "decoding in a window": lambda T, H, S: ({"query_offset": S - T, "window": 17}, {}),
    "left padding": lambda T, H, S: ({"lengths": torch.tensor([[0, T], [T // 3, T]])}, {}),
    "right padding": lambda T, H, S: ({"lengths": torch.tensor([[0, max(T - 2, 1)], [0, T]])}, {}),
    "nothing seen": lambda T, H, S: ({"allowed": checkered}, {}),
    "nothing seen, bidirectional": lambda T, H, S: ({"allowed": checkered, "causal": False}, {}),
    "packed": lambda T, H, S: ({"allowed": packed}, {}),
    "sigmoid": lambda T, H, S: ({}, {"sigmoid": True}),
    "documents": lambda T, H, S: ({"documents": documents(T)}, {}),
    "slopes": lambda T, H, S: ({}, {"slopes": torch.linspace(0.05, 0.6, H)}),
    "slopes, bidirectional": lambda T, H, S: ({"causal": False}, {"slopes": torch.linspace(0.05, 0.6, H)}),
    "temperature": lambda T, H, S: ({}, {"temperature": torch.linspace(0.5, 2, 2 * T).view(2, T)}),
    "everything in tensors": lambda T, H, S: (
        {"window": 17, "documents": documents(T), "lengths": torch.tensor([[0, T], [T // 3, T]])},
        {
            "softcap": 5.0,
            "sinks": torch.linspace(-1, 3, H),
            "slopes": torch.linspace(0.05, 0.6, H),
            "temperature": torch.linspace(0.5, 2, 2 * T).view(2, T),
        },
    ),
}


def documents(T: int) -> Tensor:
    """Two sequences of documents: of 20 and of 7 tokens."""
    return torch.stack([torch.arange(T) // 20, torch.arange(T) // 7])


def slopes(H: int) -> Callable[[Tensor, Tensor], Tensor]:
    """ALiBi: another slope for every head."""
    slope = torch.linspace(0.05, 0.6, H)[None, :, None, None]
    return lambda rows, columns: -slope * (rows[:, None] - columns[None, :]).abs()


def checkered(rows: Tensor, columns: Tensor) -> Tensor:
    """Every third query sees nothing, the others every key but each fifth."""
    return ((rows % 3 != 0)[:, None] & (columns % 5 != 0)[None, :])[None, None]


def packed(rows: Tensor, columns: Tensor) -> Tensor:
    """Documents of 20 tokens in a row, each blind to the others."""
    return (rows[:, None] // 20 == columns[None, :] // 20)[None, None]


def make_call(
    T: int,
    *,
    rule: str = "causal",
    D: int = 16,
    Dv: int | None = None,
    groups: int = 2,
    ratio: int = 2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    gain: float = 2.0,
    B: int = 2,
) -> Attention:
    """Random q, k, v with scores of a standard deviation of `gain`; decoding has 9 more keys than queries."""
    generator = torch.Generator().manual_seed(seed)
    S = T + 9 if rule.startswith("decoding") else T

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    H = groups * ratio
    mask, score = RULES[rule](T, H, S)
    return Attention(
        q=draw(B, H, T, D) * gain,
        k=draw(B, groups, S, D),
        v=draw(B, groups, S, D if Dv is None else Dv),
        mask=Mask(**mask),
        score=Score(scale=D**-0.5, **score),
    )


def make_request(call: Attention, *, seed: int = 0, alphabet: int = 7, **settings: Any) -> Request:
    """Both token lookups over random ids, some labels −1, and a small streaming window."""
    generator = torch.Generator().manual_seed(seed)
    B, _, T, _ = call.q.shape
    S = call.k.shape[2]
    ids = torch.randint(-1, alphabet, (B, S), generator=generator)
    before = torch.cat([torch.full((B, 1), -1), ids[:, :-1]], 1)
    lookups = {
        "duplicate_token": Lookup(ids[:, S - T :], ids, gap=1),
        "induction": Lookup(ids[:, S - T :], before, gap=0),
    }
    return Request(**{"sinks": 2, "window": 9, "bands": 8, "lookups": lookups, **settings})


def make_more(call: Attention, *, seed: int = 0, **settings: Any) -> Request:
    """Everything that a request can add: argmax, what keys receive at most, counts, and effects along a direction."""
    generator = torch.Generator().manual_seed(seed)
    B, H, T, _ = call.q.shape
    Dv = call.v.shape[3]
    extra: dict[str, Any] = {"argmax": True, "received_max": True, "received_value": True, "thresholds": (0.05, 0.3)}
    extra["direction"] = torch.randn(B, H, T, Dv, generator=generator)
    extra["mean"] = torch.randn(1, H, 1, Dv, generator=generator)
    return make_request(call, seed=seed, **{**extra, **settings})


def compare(
    call: Attention,
    request: Request | None = None,
    backend: Callable[[Attention, Request], tuple[Tensor, Statistics]] = blockwise,
    rounded: float = 0.0,
) -> dict[str, float]:
    """Worst error of a backend on a call as a share of the bound, by statistic; raises where it is above 1.

    rounded: of the weights before they meet v (see `Bound`)."""
    request = make_request(call) if request is None else request
    bound = bound_of(call, request, rounded=rounded)
    z_wanted, wanted = reference.statistics(call, request)
    z, found = backend(call, request)
    worst = assert_statistics_close(found, wanted, bound)
    return {**worst, "z": assert_output_close(z, z_wanted, call, bound)}


@pytest.fixture(scope="session")
def call() -> Callable[..., Attention]:
    return make_call


@pytest.fixture(scope="session")
def request_for() -> Callable[..., Request]:
    return make_request


@pytest.fixture(scope="session")
def more_for() -> Callable[..., Request]:
    return make_more


@pytest.fixture(scope="session")
def check() -> Callable[..., dict[str, float]]:
    return compare


@pytest.fixture(scope="session")
def rules() -> list[str]:
    return list(RULES)
