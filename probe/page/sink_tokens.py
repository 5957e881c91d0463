"""Sinks by name: which tokens, at which positions, receive attention mass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probe.table import HeadTable

STRONG = 0.1
"""A head's strongest later sink is listed when it receives at least this share, averaged over sequences."""


@dataclass(frozen=True)
class SinkToken:
    """One token that heads rest on after the first position.

    token: its string, or None where only the position is known. heads: how many distinct heads pick it in
    some sequence; picks: how many (head, sequence) pairs; positions: the commonest, with their counts;
    mass: mean over picks of the head's `sink_other`; before: the tokens just before one occurrence.
    """

    token: str | None
    heads: int
    picks: int
    positions: tuple[tuple[int, int], ...]
    mass: float
    before: tuple[str, ...]


@dataclass(frozen=True)
class FirstToken:
    """What stands at position 0 (None: unknown), in how many sequences, and what it receives."""

    tokens: tuple[tuple[str, int], ...] | None
    mean: float
    heads_above: int
    threshold: float


def first_token(table: HeadTable, tokens: Sequence[Sequence[str]] | None) -> FirstToken | None:
    """The first position: its tokens and α_0 averaged over heads; None when no profile was kept."""
    if "received" not in table.profiles:
        return None
    received = table.profiles["received"][..., 0]
    threshold = float(table.metadata.get("parameters", {}).get("epsilon", 0.3))
    counted = None if tokens is None else tuple(Counter(text[0] for text in tokens if text).most_common(6))
    return FirstToken(counted, float(np.nanmean(received)), int((received > threshold).sum()), threshold)


Tokens = Sequence[Sequence[str]] | None


def later_sinks(table: HeadTable, tokens: Tokens, limit: int = 12) -> list[SinkToken] | None:
    """Tokens after the first that strong heads rest on, by total mass; None when no profile was kept.

    Without token strings, positions stand for tokens.
    """
    if "sink_other_at" not in table.profiles:
        return None
    at = table.profiles["sink_other_at"]
    frame = table.frame[(table.frame["stack"] == "decoder") & (table.frame["kind"] == "self")]
    mass = frame["sink_other"].to_numpy().reshape(at.shape[1:])
    picks: dict[str | int, list[tuple[int, int, float, int]]] = {}
    for sequence, layer, head in np.argwhere((at >= 1) & (mass >= STRONG)[None]).tolist():
        position = int(at[sequence, layer, head])
        key = position if tokens is None else tokens[sequence][position]
        number = layer * at.shape[2] + head
        picks.setdefault(key, []).append((sequence, position, float(mass[layer, head]), number))
    ordered = sorted(picks.items(), key=lambda item: -sum(pick[2] for pick in item[1]))
    return [_sink(key, found, tokens) for key, found in ordered[:limit]]


def _sink(
    key: str | int, picks: list[tuple[int, int, float, int]], tokens: Sequence[Sequence[str]] | None
) -> SinkToken:
    positions = Counter(position for _, position, _, _ in picks)
    sequence, position = picks[0][0], picks[0][1]
    before = () if tokens is None else tuple(tokens[sequence][max(0, position - 4) : position])
    return SinkToken(
        token=key if isinstance(key, str) else None,
        heads=len({number for _, _, _, number in picks}),
        picks=len(picks),
        positions=tuple(positions.most_common(3)),
        mass=float(np.mean([mass for _, _, mass, _ in picks])),
        before=before,
    )
