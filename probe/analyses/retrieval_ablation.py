"""The causal test of retrieval heads: recall without them, and without other heads of the same layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from probe.analyses.needles import Trial
from probe.errors import TokensError
from probe.hooks.attention import AttentionCall, Site, instrument
from probe.hooks.heads import Head as Head
from probe.progress import Progress, silent

BATCH_TOKENS = 2_048
"""Arms of a trial run together up to this many tokens: more is no faster on a CPU and takes more memory."""


@dataclass(frozen=True)
class AblationPlan:
    """What to try.

    ks: how many of the top heads to remove. draws: random sets for each k. trials: how many prompts.
    mode: `mean_all` puts the mean of z over the other prompts' positions ≥ 1 in place of a head's z
    (leave-one-out, METRICS Studies; prompts of unequal content have no mean per position), `zero` puts 0.
    """

    ks: tuple[int, ...] = (1, 5, 10, 20)
    draws: int = 5
    trials: int = 6
    mode: str = "mean_all"

    def check(self) -> None:
        """Raises TokensError for a plan that cannot be run."""
        if self.mode not in ("mean_all", "zero"):
            raise TokensError(f"ablation mode {self.mode!r}; wanted mean_all or zero")
        if self.draws < 1 or any(k < 1 for k in self.ks):
            raise TokensError(f"ablation of {self.ks} heads, {self.draws} draws; wanted at least 1 of each")
        if self.mode == "mean_all" and self.trials < 2:
            raise TokensError(f"{self.trials} ablation trials; the mean over the others wants at least 2")


STANDARD = AblationPlan()


@dataclass(frozen=True)
class Arm:
    """One set of heads to remove; draw counts the random sets of a k."""

    k: int
    name: str
    draw: int
    heads: tuple[Head, ...]


def matched_draw(top: Sequence[Head], heads: Sequence[Head], rng: np.random.Generator) -> tuple[Head, ...]:
    """As many random heads per layer as `top` has there, outside it; the nearest layer where one runs out.

    Of two layers equally near the lower gives. Raises TokensError where fewer heads are left than wanted.
    """
    if 2 * len(top) > len(heads):
        raise TokensError(f"{len(top)} of {len(heads)} heads leave too few to draw as many others from")
    taken = set(top)
    pool: dict[int, list[Head]] = {layer: [] for layer, _ in heads}
    for head in heads:
        if head not in taken:
            pool[head[0]].append(head)
    drawn: list[Head] = []
    missing: list[int] = []
    for layer, wanted in sorted(Counter(layer for layer, _ in top).items()):
        here = min(wanted, len(pool[layer]))
        drawn += [pool[layer].pop(int(rng.integers(len(pool[layer])))) for _ in range(here)]
        missing += [layer] * (wanted - here)
    for layer in missing:
        near = min((other for other in pool if pool[other]), key=lambda other: (abs(other - layer), other))
        drawn.append(pool[near].pop(int(rng.integers(len(pool[near])))))
    return tuple(sorted(drawn))


def make_arms(ranked: Sequence[Head], heads: Sequence[Head], plan: AblationPlan, seed: int) -> list[Arm]:
    """The top k and `plan.draws` matched random sets for every k of the plan.

    A k above the number of ranked heads, or above half the heads, becomes that number.
    """
    arms = []
    most = min(len(ranked), len(heads) // 2)
    for k in sorted({min(k, most) for k in plan.ks} - {0}):
        top = tuple(ranked[:k])
        arms.append(Arm(k, "top", 0, top))
        for draw in range(plan.draws):
            rng = np.random.default_rng([seed, k, draw])
            arms.append(Arm(k, "random", draw, matched_draw(top, heads, rng)))
    return arms


def ablate(
    model: PreTrainedModel,
    sites: Sequence[Site],
    trials: Sequence[Trial],
    arms: Sequence[Arm],
    *,
    mode: str = "mean_all",
    progress: Progress = silent,
) -> pd.DataFrame:
    """Recall of every trial under every arm: columns `k`, `arm`, `draw`, `trial`, `recall` (1 or 0).

    Recall is 1 when every answer token is the arg-max in one teacher-forced forward with the arm's heads
    replaced at every position. The clean arm (k = 0, nothing replaced) comes first.
    """
    work = sum(len(trial.prompt_ids) * (len(arms) + 1) for trial in trials)
    done = 0
    rows: list[dict[str, object]] = []
    sums: list[dict[int, Float[Tensor, "H Dv"]]] = []
    for trial in trials:
        recall, seen = _clean(model, sites, trial)
        rows.append({"k": 0, "arm": "clean", "draw": 0, "trial": trial.index, "recall": int(recall)})
        sums.append(seen)
        done += len(trial.prompt_ids)
        progress(done, work, "ablation")
    counts = [len(_fed(trial)) - 1 for trial in trials]
    for number, trial in enumerate(trials):
        values = _replacements(sums, counts, number, mode)
        size = max(1, BATCH_TOKENS // len(trial.prompt_ids))
        for start in range(0, len(arms), size):
            batch = arms[start : start + size]
            recalls = _ablated(model, sites, trial, batch, values)
            rows += [
                {"k": arm.k, "arm": arm.name, "draw": arm.draw, "trial": trial.index, "recall": int(recall)}
                for arm, recall in zip(batch, recalls, strict=True)
            ]
            done += len(trial.prompt_ids) * len(batch)
            progress(done, work, "ablation")
    return pd.DataFrame(rows, columns=["k", "arm", "draw", "trial", "recall"])


def _fed(trial: Trial) -> list[int]:
    return [*trial.prompt_ids, *trial.answer_ids[:-1]]


def _recalls(model: PreTrainedModel, trial: Trial, copies: int) -> list[bool]:
    """Whether each of `copies` equal rows predicts the whole answer."""
    ids = torch.tensor([_fed(trial)], device=model.device).expand(copies, -1)
    answer = torch.tensor(trial.answer_ids, device=model.device)
    with torch.no_grad():
        logits = model(ids, use_cache=False, logits_to_keep=len(answer)).logits
    return [bool(row) for row in (logits.argmax(-1) == answer).all(-1)]


def _clean(
    model: PreTrainedModel, sites: Sequence[Site], trial: Trial
) -> tuple[bool, dict[int, Float[Tensor, "H Dv"]]]:
    """Recall with nothing replaced, and per layer the sum of z over positions ≥ 1 (float64)."""
    seen: dict[int, Float[Tensor, "H Dv"]] = {}

    def note(call: AttentionCall) -> Tensor:
        z = call.attend()
        seen[call.site.layer] = z[0, :, 1:].double().sum(1)
        return z

    with instrument(model, note, sites=lambda site: site in sites):
        (recall,) = _recalls(model, trial, 1)
    return recall, seen


def _replacements(
    sums: Sequence[Mapping[int, Float[Tensor, "H Dv"]]], counts: Sequence[int], number: int, mode: str
) -> dict[int, Float[Tensor, "H Dv"]]:
    """What stands in for z per layer in trial `number`: 0, or the mean over the other trials."""
    if mode == "zero":
        return {layer: torch.zeros_like(total) for layer, total in sums[number].items()}
    others = [index for index in range(len(sums)) if index != number]
    count = sum(counts[index] for index in others)
    return {layer: torch.stack([sums[index][layer] for index in others]).sum(0) / count for layer in sums[number]}


def _ablated(
    model: PreTrainedModel,
    sites: Sequence[Site],
    trial: Trial,
    arms: Sequence[Arm],
    values: Mapping[int, Float[Tensor, "H Dv"]],
) -> list[bool]:
    """Recall under each arm, all in one batch."""
    chosen = {layer: _chosen(layer, len(value), arms) for layer, value in values.items()}
    touched = {layer for layer, mask in chosen.items() if bool(mask.any())}

    def replace(call: AttentionCall) -> Tensor:
        z = call.attend()
        mask = chosen[call.site.layer].to(z.device)[:, :, None, None]
        return torch.where(mask, values[call.site.layer].to(z.dtype)[None, :, None, :], z)

    with instrument(model, replace, sites=lambda site: site in sites and site.layer in touched):
        return _recalls(model, trial, len(arms))


def _chosen(layer: int, heads: int, arms: Sequence[Arm]) -> Bool[Tensor, "arms H"]:
    mask = torch.zeros(len(arms), heads, dtype=torch.bool)
    for row, arm in enumerate(arms):
        for number, head in arm.heads:
            mask[row, head] |= number == layer
    return mask
