"""The attention map where someone wants to look: exact rows × columns of any context, and its strongest entries."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.inputs import Attention, Request
from probe.kernels.scores import prepared
from probe.kernels.sequences import Sequence, rows_per_strip, sequences
from probe.kernels.strips import Workspace, strip
from probe.kernels.validate import KernelError, validate


def pattern_window(call: Attention, rows: range, columns: range) -> Float[Tensor, "B H rows columns"]:
    """P[i, j] for the query rows and key columns of two ranges, float32, recomputing those rows only.

    Normalised over all keys, whatever the columns. 0 where not visible. Memory: the answer and one strip of rows.
    Raises KernelError for a range outside the call.
    """
    validate(call, Request())
    for name, span, limit in (("rows", rows, call.q.shape[2]), ("columns", columns, call.k.shape[2])):
        if span.step != 1 or not 0 <= span.start <= span.stop <= limit:
            raise KernelError(f"{name} are {span.start}:{span.stop}:{span.step}; wanted a step of 1 within 0:{limit}")
    out = call.q.new_zeros(call.q.shape[0], call.q.shape[1], len(rows), len(columns), dtype=_dtype(call))
    for sequence in sequences(call):
        first, last = (
            max(0, rows.start - sequence.first_row),
            min(sequence.n_rows, rows.stop - sequence.first_row),
        )
        for group, start, weights, low in _strips(sequence, first, last, out):
            left = max(columns.start - sequence.first_key, low)
            right = min(columns.stop - sequence.first_key, low + weights.shape[-1])
            if left >= right:
                continue
            row = start + sequence.first_row - rows.start
            column = left + sequence.first_key - columns.start
            heads = slice(group * sequence.group, (group + 1) * sequence.group)
            place = (
                sequence.index,
                heads,
                slice(row, row + weights.shape[1]),
                slice(column, column + right - left),
            )
            out[place] = weights[..., left - low : right - low]
    return out


def strongest_pairs(
    call: Attention, head: int, count: int
) -> tuple[Float[Tensor, "B count"], Int[Tensor, "B count"], Int[Tensor, "B count"]]:
    """The `count` largest P[i, j] of one head: (weight, query row, key), strongest first, streamed strip by strip.

    Equal weights go to the earlier query, then the earlier key. Fewer visible pairs than `count` leave weight 0
    at row and key −1. Raises KernelError for a head that does not exist.
    """
    validate(call, Request())
    if not 0 <= head < call.q.shape[1] or count < 1:
        raise KernelError(f"head {head}, count {count}; wanted a head below {call.q.shape[1]} and a count above 0")
    B = call.q.shape[0]
    weight = torch.zeros(B, count, dtype=_dtype(call), device=call.q.device)
    query, key = torch.full_like(weight, -1, dtype=torch.long), torch.full_like(weight, -1, dtype=torch.long)
    for sequence in sequences(call):
        b, group = sequence.index, head // sequence.group
        for g, start, weights, low in _strips(sequence, 0, sequence.n_rows, weight, only=group):
            own = weights[head - g * sequence.group]
            best, place = _largest(own.flatten(), count)
            new_query = place // own.shape[1] + start + sequence.first_row
            new_key = place % own.shape[1] + low + sequence.first_key
            every = torch.cat([weight[b], best])
            queries, keys = torch.cat([query[b], new_query]), torch.cat([key[b], new_key])
            chosen = _ordered(every, queries, keys)[:count]
            real = every[chosen] > 0
            weight[b] = every[chosen]
            query[b], key[b] = torch.where(real, queries[chosen], -1), torch.where(real, keys[chosen], -1)
    return weight, query, key


def strongest_queries(
    call: Attention, count: int, *, skip: int = 0
) -> tuple[Float[Tensor, "B H count"], Int[Tensor, "B H count"], Int[Tensor, "B H count"]]:
    """Of every head the `count` queries whose strongest key has most weight: (weight, query row, that key).

    skip: the first keys of a sequence that do not count, such as its sinks. Strongest first; equal weights go to the
    earlier query, a query's equal keys to the earlier key. Fewer such queries than `count` leave weight 0 at row and
    key −1. Streamed strip by strip, all heads in one sweep. Raises KernelError for a count below 1 or a skip below 0.
    """
    validate(call, Request())
    if count < 1 or skip < 0:
        raise KernelError(f"count {count}, skip {skip}; wanted a count above 0 and a skip of 0 or more")
    weight = call.q.new_zeros(call.q.shape[0], call.q.shape[1], count, dtype=_dtype(call))
    query, key = torch.full_like(weight, -1, dtype=torch.long), torch.full_like(weight, -1, dtype=torch.long)
    for sequence in sequences(call):
        for group, start, weights, low in _strips(sequence, 0, sequence.n_rows, weight):
            seen = weights[..., max(0, skip - low) :]
            if not seen.shape[-1]:
                continue
            heads = slice(group * sequence.group, (group + 1) * sequence.group)
            place = (sequence.index, heads)
            best, column = _first_largest(seen)
            rows = torch.arange(start, start + best.shape[1], device=best.device) + sequence.first_row
            keys = column + max(skip, low) + sequence.first_key
            every = torch.cat([weight[place], best], -1)
            queries = torch.cat([query[place], rows.expand_as(column)], -1)
            # Rows come in order and sorting is stable: of equal weights the earlier query stays first.
            order = every.argsort(dim=-1, descending=True, stable=True)[:, :count]
            real = every.gather(-1, order) > 0
            weight[place] = every.gather(-1, order)
            query[place] = torch.where(real, queries.gather(-1, order), -1)
            key[place] = torch.where(real, torch.cat([key[place], keys], -1).gather(-1, order), -1)
    return weight, query, key


def _first_largest(weights: Float[Tensor, "r rows keys"]) -> tuple[Float[Tensor, "r rows"], Int[Tensor, "r rows"]]:
    """Each row's largest entry and its first place; `max` may name any of equal ones."""
    best = weights.amax(-1)
    places = torch.arange(weights.shape[-1], device=weights.device)
    last = weights.shape[-1] - 1
    first = torch.where(weights == best[..., None], places, last).amin(-1)
    return best, first


def _largest(weights: Float[Tensor, "entries"], count: int) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """The `count` largest entries and their places; `topk` may take any of equal ones, this takes the first."""
    least = weights.topk(min(count, weights.numel())).values[-1]
    above = (weights > least).nonzero()[:, 0]
    place = torch.cat([above, (weights == least).nonzero()[: count - above.numel(), 0]])
    return weights[place], place


def _ordered(weight: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Indices by falling weight, then rising query, then rising key (stable sorts, least important first)."""
    order = key.argsort(stable=True)
    order = order[query[order].argsort(stable=True)]
    return order[weight[order].argsort(descending=True, stable=True)]


def _dtype(call: Attention) -> torch.dtype:
    return torch.float64 if call.q.dtype == torch.float64 else torch.float32


def _strips(
    sequence: Sequence, first: int, last: int, like: Tensor, only: int | None = None
) -> Iterator[tuple[int, int, Float[Tensor, "r rows keys"], int]]:
    """(group, first row, normalised weights [r, rows, keys], first key) of every strip of rows [first, last)."""
    step = rows_per_strip(sequence)
    for group in range(sequence.k.shape[0]) if only is None else (only,):
        tensors = prepared(sequence, group, like.dtype)
        work = Workspace(sequence.group, min(step, max(1, last - first)), sequence.n_keys, like)
        for start in range(first, last, step):
            part = strip(sequence, group, start, min(start + step, last), work, tensors)
            yield (
                group,
                start,
                part.weights / part.total.clamp(min=torch.finfo(like.dtype).tiny)[..., None],
                part.low,
            )
