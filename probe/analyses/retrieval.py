"""Retrieval heads: over a grid of lengths and needle depths, which heads copy the answer out of the text.

Wu et al., Retrieval Head Mechanistically Explains Long-Context Factuality (arXiv 2404.15574); the set form
is the paper's definition, `paper` what its released code computes. A head's score is conditional on the model
finding the needle; the forced form is not. The control moves the needle's span to a random stretch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from probe.analyses.copying import EXTRA_STEPS, Measured, measure
from probe.analyses.needles import NEEDLES, Needle, Trial, make_trials
from probe.analyses.retrieval_ablation import STANDARD, AblationPlan, ablate, make_arms
from probe.analyses.retrieval_result import ENOUGH, FORMS, RetrievalResult, no_ablation
from probe.errors import ModelError, TokensError
from probe.hooks.attention import Site
from probe.hooks.attention import sites as find_sites
from probe.hooks.spec import head_count, main_sites, spec_of
from probe.models import Loaded, load
from probe.progress import Progress, silent
from probe.statistics import bootstrap
from probe.tokens import natural_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTHS = (256, 512, 1024, 2048)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
STEP_COST = 16
"""A single-token step takes about as long as this many tokens of a prefill, on a CPU that reads all weights
from memory for it; only the time left depends on it."""


def retrieval(
    model: str | nn.Module | Loaded,
    haystack: str | None = None,
    *,
    lengths: Sequence[int] = LENGTHS,
    depths: Sequence[float] = DEPTHS,
    trials: int = 3,
    seed: int = 0,
    bos: bool = False,
    needles: Sequence[Needle] = NEEDLES,
    ablation: AblationPlan | None = STANDARD,
    progress: Progress = silent,
) -> RetrievalResult:
    """Score every head on `trials` needles for each prompt length (tokens) and depth (per cent).

    model: a name, or what `probe.load` gives (`probe.load(model, tokenizer=…)` for a model in memory).
    haystack: text, at least as long as the longest prompt; None: `probe.natural_text()`.
    bos: begin every prompt with the tokenizer's first token (recorded). ablation: the causal test, or None;
    with the standard plan it takes several times as long as everything else on a small grid.
    Raises TokensError for a grid, haystack or needle that does not fit, ModelError and HookError for a model
    that cannot be measured.
    """
    loaded = model if isinstance(model, Loaded) else load(model)
    text = natural_text() if haystack is None else haystack
    if ablation is not None:
        ablation.check()
    made = prepare(loaded, text, lengths=lengths, depths=depths, trials=trials, seed=seed, bos=bos, needles=needles)
    sites = _decoder_sites(loaded.model)
    measured = _measure_all(loaded.model, made, sites, _ends(loaded), progress)
    keys = _keys(loaded.model, sites)
    asked = {"lengths": list(lengths), "depths": list(depths), "trials": trials}
    metadata = _metadata(loaded, text, asked, bos, made, measured)
    result = RetrievalResult(
        trials=_records(made, measured),
        heads=_summary(keys, made, measured, seed),
        per_trial=_per_trial(keys, made, measured),
        ablation=no_ablation(),
        metadata=metadata,
    )
    metadata["ablation"], result.ablation = _ablation(loaded.model, sites, result, made, ablation, seed, progress)
    return result


def prepare(
    loaded: Loaded,
    haystack: str,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    trials: int,
    seed: int = 0,
    bos: bool = False,
    needles: Sequence[Needle] = NEEDLES,
) -> list[Trial]:
    """The trials of `retrieval`, and all its refusals, before anything is run."""
    if loaded.tokenizer is None:
        raise ModelError(f"{loaded.name} has no tokenizer; needles are text: put one beside the weights")
    _decoder_sites(loaded.model)
    made = make_trials(
        loaded.tokenizer, haystack, needles, lengths=lengths, depths=depths, trials=trials, seed=seed, bos=bos
    )
    _check_context(loaded.model, made)
    return made


def cost(lengths: Sequence[int], depths: Sequence[float], trials: int, ablation: AblationPlan | None) -> int:
    """Roughly how many tokens of a plain forward the whole costs: what a time is foretold from."""
    answer = 4
    single = sum(length + STEP_COST * (answer + EXTRA_STEPS + 1) for length in lengths) * len(depths) * trials
    if ablation is None:
        return single
    return single + ablation.trials * min(lengths) * (1 + len(ablation.ks) * (1 + ablation.draws))


def _decoder_sites(model: PreTrainedModel) -> list[Site]:
    found = main_sites(find_sites(model))
    if model.config.is_encoder_decoder or found[0].stack != "decoder":
        raise ModelError(f"{type(model).__name__} is no decoder-only model, which retrieval wants")
    return found


def _check_context(model: PreTrainedModel, made: Sequence[Trial]) -> None:
    context = spec_of(model).n_ctx
    longest = max(len(trial.prompt_ids) + len(trial.answer_ids) + EXTRA_STEPS for trial in made)
    if context is not None and longest > context:
        raise TokensError(
            f"prompt and answer take {longest} tokens; the model reads {context}: ask for shorter lengths"
        )


def _ends(loaded: Loaded) -> frozenset[int]:
    """Every id that ends a text, by tokenizer, config and generation config."""
    found: list[int] = []
    generation = getattr(loaded.model, "generation_config", None)
    for owner in (loaded.tokenizer, loaded.model.config, generation):
        value = getattr(owner, "eos_token_id", None)
        found += value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return frozenset(found)


def _measure_all(
    model: PreTrainedModel,
    made: Sequence[Trial],
    sites: Sequence[Site],
    ends: frozenset[int],
    tell: Progress,
) -> list[Measured]:
    work = [trial.length + STEP_COST * (len(trial.answer_ids) + EXTRA_STEPS + 1) for trial in made]
    measured = []
    tell(0, sum(work), "retrieval")
    for trial in made:
        measured.append(measure(model, trial, sites, ends))
        tell(sum(work[: len(measured)]), sum(work), "retrieval")
    return measured


def _keys(model: PreTrainedModel, sites: Sequence[Site]) -> pd.DataFrame:
    groups = spec_of(model).n_kv_heads
    rows = []
    for site in sites:
        count = head_count(model, site)
        rows += [
            {"stack": site.stack, "kind": site.kind, "layer": site.layer, "head": head}
            | {"kv_head": head // max(count // groups, 1)}
            for head in range(count)
        ]
    return pd.DataFrame(rows)


def _per_trial(keys: pd.DataFrame, made: Sequence[Trial], measured: Sequence[Measured]) -> pd.DataFrame:
    frames = []
    for trial, outcome in zip(made, measured, strict=True):
        frame = keys[["layer", "head"]].copy()
        frame.insert(0, "trial", trial.index)
        for form in FORMS:
            frame[form] = _value(outcome, form)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _value(outcome: Measured, form: str) -> np.ndarray:
    """A form's score, NaN where it is conditional on success and the trial failed."""
    score = outcome.scores[form]
    return score if outcome.usable or form in ("forced", "control") else np.full_like(score, np.nan)


def _summary(keys: pd.DataFrame, made: Sequence[Trial], measured: Sequence[Measured], seed: int) -> pd.DataFrame:
    groups = [trial.group for trial in made]
    columns: dict[str, np.ndarray] = {}
    for form, name in FORMS.items():
        values = np.stack([_value(outcome, form) for outcome in measured])
        summary = bootstrap(values, groups=groups, seed=seed)
        columns |= {name: summary.mean, f"{name}_low": summary.low, f"{name}_high": summary.high}
        columns[f"n_{name}"] = summary.n
    return pd.concat([keys, pd.DataFrame(columns)], axis=1)


def _records(made: Sequence[Trial], measured: Sequence[Measured]) -> list[dict[str, Any]]:
    return [
        trial.record() | {"generated_ids": outcome.generated_ids, "usable": outcome.usable, "recall": outcome.recall}
        for trial, outcome in zip(made, measured, strict=True)
    ]


def _ablation(
    model: PreTrainedModel,
    sites: Sequence[Site],
    result: RetrievalResult,
    made: Sequence[Trial],
    plan: AblationPlan | None,
    seed: int,
    tell: Progress,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The causal test's metadata and table."""
    if plan is None:
        return {"done": False, "reason": "not asked for"}, no_ablation()
    ranked = result.ranked()
    heads = list(zip(result.heads["layer"].tolist(), result.heads["head"].tolist(), strict=True))
    arms = make_arms(ranked, heads, plan, seed)
    if not arms:
        few = f"{result.n_usable} usable trials, wanted at least {ENOUGH}"
        return {"done": False, "reason": "too few heads scored" if ranked else few}, no_ablation()
    chosen = _shortest([trial for trial in made if result.trials[trial.index]["usable"]], plan.trials)
    table = ablate(model, sites, chosen, arms, mode=plan.mode, progress=tell)
    sets = [
        {"k": arm.k, "arm": arm.name, "draw": arm.draw, "heads": [list(head) for head in arm.heads]} for arm in arms
    ]
    about = {"done": True, "mode": plan.mode, "sets": sets, "trials": [trial.index for trial in chosen]}
    return about, table


def _shortest(usable: Sequence[Trial], count: int) -> list[Trial]:
    """`count` of the shortest trials, spread evenly over the depths of those lengths that are needed."""
    pool: list[Trial] = []
    for length in sorted({trial.length for trial in usable}):
        if len(pool) >= count:
            break
        pool += [trial for trial in usable if trial.length == length]
    picks = np.linspace(0, len(pool) - 1, min(count, len(pool))).round().astype(int)
    return [pool[pick] for pick in picks]


def _metadata(
    loaded: Loaded,
    haystack: str,
    asked: dict[str, Any],
    bos: bool,
    made: Sequence[Trial],
    measured: Sequence[Measured],
) -> dict[str, Any]:
    import transformers

    parameter = next(loaded.model.parameters())
    return {
        "model": loaded.name,
        "weight_hash": loaded.weight_hash,
        "haystack_hash": hashlib.sha256(haystack.encode("utf-8", "surrogatepass")).hexdigest(),
        "bos": "added" if bos else "none added",
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "seed": made[0].seed,
        "n_trials": len(made),
        "n_usable": sum(outcome.usable for outcome in measured),
        "n_needles": len({trial.group for trial in made}),
        "parameters": asked,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
