"""Which key each head looks at most while the model copies an answer out of its context.

Wu et al., Retrieval Head Mechanistically Explains Long-Context Factuality (arXiv 2404.15574), section 2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.needles import Trial
from probe.errors import ModelError
from probe.hooks.attention import AttentionCall, Site, instrument

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXTRA_STEPS = 16
"""Greedy steps allowed beyond the answer's length."""


class TopKeys:
    """A handler that notes, per query row and head, the key of largest weight; the output is the model's own.

    Weights are the softmax in float32 or wider over all visible keys; ties go to the lowest key.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self._rows: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def __call__(self, call: AttentionCall) -> Float[Tensor, "B H T Dv"]:
        weights = call.pattern(dtype=torch.promote_types(call.q.dtype, torch.float32))
        keys = torch.arange(weights.shape[-1], device=weights.device)
        # argmax itself does not promise the lowest of equals on every device.
        largest = weights == weights.amax(-1, keepdim=True)
        top = torch.where(largest, keys, weights.shape[-1]).amin(-1)
        self._rows[call.site.name].append(top[0].T.cpu())
        return call.attend()

    def take(self) -> Int[np.ndarray, "steps heads"]:
        """The keys noted since the last call: one row a query, heads of all sites in order."""
        joined = torch.cat([torch.cat(rows) for rows in self._rows.values()], dim=1)
        for rows in self._rows.values():
            rows.clear()
        return joined.numpy()


@dataclass(frozen=True)
class Measured:
    """One trial's outcome.

    generated_ids: the greedy answer. recall: every answer token is the arg-max with the answer fed in.
    usable: the greedy answer holds at least half of the distinct answer tokens.
    scores: `set`, `paper`, `forced`, `control` → [heads] float64, each as METRICS defines it; `set` and
    `paper` are measured here whether or not the trial is usable.
    """

    generated_ids: list[int]
    recall: bool
    usable: bool
    scores: dict[str, Float[np.ndarray, "heads"]]


def copied(
    top: Int[np.ndarray, "steps heads"],
    emitted: Sequence[int],
    prompt: Sequence[int],
    span: tuple[int, int],
    answer_ids: Sequence[int],
    *,
    same_token: bool = True,
) -> tuple[Float[np.ndarray, "heads"], Float[np.ndarray, "heads"]]:
    """Share of the answer that each head copies from `span`: the set form and the published form.

    top: the key each head looked at most when `emitted[step]` was predicted. A step counts when that key lies
    in the span, the emitted token is one of the answer's, and (same_token) the key holds that very token.
    Set form: distinct tokens copied / distinct answer tokens, in [0, 1]. Published form: steps that count /
    answer length; repeats count, so it may exceed 1.
    """
    words = np.asarray(emitted, dtype=np.int64)[: len(top), None]
    first, last = span
    hit = (top >= first) & (top < last) & np.isin(words, list(answer_ids))
    if same_token:
        held = np.asarray(prompt, dtype=np.int64)[np.minimum(top, len(prompt) - 1)]
        hit &= held == words
    wanted = sorted(set(answer_ids))
    found = [(hit & (words == word)).any(axis=0) for word in wanted]
    return np.mean(found, axis=0), hit.sum(axis=0) / len(answer_ids)


def measure(model: PreTrainedModel, trial: Trial, sites: Sequence[Site], ends: Collection[int]) -> Measured:
    """Run one trial: prefill all but the last prompt token at sdpa's speed, then watch the answer's queries.

    First with the answer fed in, in one forward; then greedily, one token at a time, until a token of `ends`.
    Raises ModelError for logits that are not finite.
    """
    from transformers import DynamicCache

    answer = trial.answer_ids
    prompt = torch.tensor([trial.prompt_ids], device=model.device)
    cache = DynamicCache()
    top = TopKeys(sites)
    names = {site.name for site in sites}
    with torch.no_grad():
        model(prompt[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        with instrument(model, top, sites=lambda site: site.name in names):
            fed = torch.tensor([[trial.prompt_ids[-1], *answer[:-1]]], device=model.device)
            recall = _predicted(model, fed, cache) == answer
            forced = top.take()
            cache.crop(-len(answer))
            generated = _greedy(model, trial.prompt_ids[-1], cache, len(answer) + EXTRA_STEPS, ends)
            free = top.take()
    as_set, paper = copied(free, generated, trial.prompt_ids, trial.answer, answer)
    fed_set, _ = copied(forced, answer, trial.prompt_ids, trial.answer, answer)
    control, _ = copied(forced, answer, trial.prompt_ids, trial.control, answer, same_token=False)
    usable = 2 * len(set(generated) & set(answer)) >= len(set(answer))
    return Measured(generated, recall, usable, {"set": as_set, "paper": paper, "forced": fed_set, "control": control})


def _predicted(model: PreTrainedModel, ids: Int[Tensor, "B T"], cache: object) -> list[int]:
    """The arg-max next token at each of the given positions of one sequence."""
    logits = model(ids, past_key_values=cache, use_cache=True).logits[0]
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("logits that are not finite; look for NaN or overflow in the weights and dtype")
    return [int(token) for token in logits.argmax(-1)]


def _greedy(model: PreTrainedModel, last: int, cache: object, steps: int, ends: Collection[int]) -> list[int]:
    generated: list[int] = []
    while len(generated) < steps:
        fed = torch.tensor([[generated[-1] if generated else last]], device=model.device)
        generated += _predicted(model, fed, cache)
        if generated[-1] in ends:
            break
    return generated
