"""Where heads look in a task's own prompts: from named places to named places, at answers, at copies, one back.

Rows of attention are made for the places that are named or judged, and for no others; what is asked of every row
(one back, at earlier copies, at what followed them) comes from the streaming statistics. No T × T map is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.analyses.means import observe
from probe.hooks.attention import AttentionCall
from probe.hooks.heads import Head
from probe.kernels.inputs import Lookup, Request
from probe.observe import observed
from probe.running import Running
from probe.tasks.task import Prompt, clean_ids

JUDGED = "judged"
"""The name of the rows at which a prompt is judged, in evidence such as `induction@judged`."""

ANSWERS = ("answer_attention", "wrong_attention", "repeated_wrong_attention")
PATTERNS = ("previous_token", "duplicate_token", "induction")


@dataclass(frozen=True, eq=False)
class Looks:
    """By name, what each head does: [prompts, layers, heads] float64, NaN where a prompt has no such row or key.

    `attention:END>S2`: mass from one named place to another. `answer_attention`, `wrong_attention`: mass that the
    judged rows put on tokens that are right next, and the last of them on wrong ones; `repeated_wrong_attention`: on
    wrong ones that had come before. `previous_token`, `duplicate_token`, `induction`: METRICS' masses, mean over all
    rows that count; a row counts for the last two where its token came exactly once before, so that what it looks at
    can be told; and for these two with `@NAME`, at that place. Masses on answers and at a place are there where half
    of the prompts or more have such tokens, or such a row.
    """

    values: Mapping[str, Float[np.ndarray, "n L H"]]
    layers: tuple[int, ...]

    def of(self, head: Head) -> dict[str, float]:
        """Means over prompts of one head; names that are defined for no prompt are left out."""
        layer = self.layers.index(head[0])
        means: dict[str, float] = {}
        for name, value in self.values.items():
            own = value[:, layer, head[1]]
            if not np.isnan(own).all():
                means[name] = float(np.nanmean(own))
        return means


def looks(running: Running, prompts: Sequence[Prompt]) -> Looks:
    """Observe the clean prompts once. Memory: a batch's rows at named and judged places, beside one forward."""
    ids = clean_ids(prompts)
    names = tuple(dict.fromkeys(name for prompt in prompts for name in prompt.positions))  # the same in every batch
    patterns = _Patterns(ids, names)
    kept: dict[str, dict[int, list[Tensor]]] = {}

    def see(call: AttentionCall, _z: Tensor, rows: slice) -> None:
        part = prompts[rows]
        found = {**_targets(call, part, ids[rows], names), **patterns.of(call, part, rows)}
        for name, value in found.items():
            kept.setdefault(name, {}).setdefault(call.site.layer, []).append(value.double().cpu())

    observe(running, ids, see)
    layers = tuple(site.layer for site in running.sites)
    values = {name: torch.stack([torch.cat(by[layer]) for layer in layers], 1).numpy() for name, by in kept.items()}
    rare = {name for name, value in values.items() if (name in ANSWERS or "@" in name) and not _common(value)}
    return Looks({name: value for name, value in values.items() if name not in rare}, layers)


def _common(value: Float[np.ndarray, "n L H"]) -> bool:
    """Whether it is defined in half of the prompts or more."""
    return bool(2 * (~np.isnan(value).all((1, 2))).sum() >= len(value))


def right_tokens(prompt: Prompt) -> list[tuple[int, set[int]]]:
    """(judged position, tokens that are right next), for every judged position whose right tokens are known."""
    if prompt.target_ids is not None:
        return [(at, {token}) for at, token in zip(prompt.metric_positions, prompt.target_ids, strict=True)]
    return [(prompt.metric_positions[-1], set(prompt.answer_ids))] if prompt.answer_ids else []


def _targets(
    call: AttentionCall, prompts: Sequence[Prompt], ids: Int[Tensor, "b T"], names: Sequence[str]
) -> dict[str, Float[Tensor, "b H"]]:
    """The masses that depend on what a place is called or holds."""
    named = sorted({at for p in prompts for at in (*p.positions.values(), *p.metric_positions)})
    weights = call.pattern(torch.tensor(named), dtype=torch.promote_types(call.q.dtype, torch.float32)).cpu()
    row = {place: index for index, place in enumerate(named)}
    heads = call.q.shape[1]
    pairs = [(a, b) for a in names for b in names if a != b]
    keys = [*(f"attention:{a}>{b}" for a, b in pairs), *ANSWERS]
    found = {key: torch.full((len(prompts), heads), torch.nan) for key in keys}
    for index, (prompt, tokens) in enumerate(zip(prompts, ids.tolist(), strict=True)):
        own, at = weights[index], prompt.positions
        for a, b in pairs:
            if a in at and b in at and at[b] < at[a]:
                found[f"attention:{a}>{b}"][index] = own[:, row[at[a]], at[b]]
        for key, masses in _at_answers(own, row, prompt, tokens):
            found[key][index] = masses
    return found


def _at_answers(
    own: Float[Tensor, "H rows T"], row: Mapping[int, int], prompt: Prompt, tokens: Sequence[int]
) -> Iterator[tuple[str, Float[Tensor, "H"]]]:
    """Masses on tokens that could be the answer; a name is left out where the prompt has no such token to look at."""
    right = []
    for at, answers in right_tokens(prompt):
        places = [place for place in range(at + 1) if tokens[place] in answers]
        if places:
            right.append(own[:, row[at], places].sum(-1))
    if right:
        yield "answer_attention", torch.stack(right).mean(0)
    last = prompt.metric_positions[-1]
    wrong = [place for place in range(last + 1) if tokens[place] in prompt.wrong_ids]
    again = [place for place in wrong if tokens[place] in tokens[:place]]
    for name, places in (("wrong_attention", wrong), ("repeated_wrong_attention", again)):
        if places:
            yield name, own[:, row[last], places].sum(-1)


class _Patterns:
    """One back, at earlier copies, at what followed them: streamed over all rows."""

    def __init__(self, ids: Int[Tensor, "n T"], names: Sequence[str]) -> None:
        self._names = names
        before = torch.cat([torch.full_like(ids[:, :1], -1), ids[:, :-1]], 1)
        once = _copies(ids) == 1
        # Labels below 0 match nothing: only rows whose token came exactly once before look for it.
        query = torch.where(once, ids, -1)
        self._labels = {"duplicate_token": (query, ids, 1), "induction": (query, before, 0)}
        later = torch.ones_like(once)
        later[:, 0] = False
        self._counts = {"previous_token": later, "duplicate_token": once, "induction": once}

    def of(self, call: AttentionCall, prompts: Sequence[Prompt], rows: slice) -> dict[str, Float[Tensor, "b H"]]:
        """Means over the rows that count, of each prompt and head."""
        device = call.q.device
        lookups = {
            name: Lookup(query[rows].to(device), key[rows].to(device), gap=gap)
            for name, (query, key, gap) in self._labels.items()
        }
        asked = Request(lookups=lookups, bands=0, parts=False, distances=False)
        statistics = observed(call, asked)[1]
        mass = {"previous_token": statistics.previous, **statistics.lookup}
        found: dict[str, Tensor] = {}
        for pattern in PATTERNS:
            own, counts = mass[pattern].cpu(), self._counts[pattern][rows]
            found[pattern] = _mean(own, counts)
            # One row's token before is often the first of the prompt, where heads rest: that says nothing.
            for name in (*self._names, JUDGED) if pattern != "previous_token" else ():
                found[f"{pattern}@{name}"] = _mean(own, counts & _rows_of(prompts, name, counts))
        return found


def _rows_of(prompts: Sequence[Prompt], name: str, like: Bool[Tensor, "b T"]) -> Bool[Tensor, "b T"]:
    marks = torch.zeros_like(like)
    for index, prompt in enumerate(prompts):
        named = [prompt.positions[name]] if name in prompt.positions else []
        marks[index, list(prompt.metric_positions) if name == JUDGED else named] = True
    return marks


def _mean(mass: Float[Tensor, "b H T"], counts: Bool[Tensor, "b T"]) -> Float[Tensor, "b H"]:
    """Mean over the rows that count; NaN where none does."""
    kept = torch.where(counts[:, None], mass.double(), 0.0).sum(-1)
    return kept / counts.sum(-1, keepdim=True)


def _copies(ids: Int[Tensor, "n T"]) -> Int[Tensor, "n T"]:
    """How often each row's token stands before it."""
    found = torch.zeros_like(ids)
    for index, tokens in enumerate(ids.tolist()):
        seen: dict[int, int] = {}
        for place, token in enumerate(tokens):
            found[index, place] = seen.get(token, 0)
            seen[token] = seen.get(token, 0) + 1
    return found
