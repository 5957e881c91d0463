"""What a head is for, by what it does on a task's own prompts: where it looks, what it copies, what it writes.

The roles are those of Wang et al. (arXiv 2211.00593), said of any task: a mover looks at the answer and writes it, a
negative mover writes against it, an S-inhibition head looks at the second copy of the wrong answer and writes nothing
about it itself. A head that looks at the wrong answer and does write against it has a name of its own, after the copy
suppression of McDougall et al. (arXiv 2310.04625). A head has one role or none; the numbers behind it are its
evidence. Thresholds are ours, but for METRICS' of the patterns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.analyses.copy_score import copy_scores
from probe.analyses.direct_logit import direct_logit
from probe.analyses.job_attention import JUDGED, PATTERNS, looks, right_tokens
from probe.circuits.graph import head_node
from probe.errors import TokensError
from probe.hooks.anatomy import anatomy
from probe.hooks.heads import Head
from probe.models import Loaded
from probe.running import Running
from probe.tasks.task import Prompt, Task

ROLES = (
    "name_mover", "negative_mover", "copy_suppression", "s_inhibition", "induction", "duplicate_token",
    "previous_token",
)  # fmt: skip
"""Of tasks without names too: a name mover moves the answer, whatever it is."""

THRESHOLDS: dict[str, float] = {"pattern": 0.4, "attention": 0.2, "copy": 0.5, "direct": 0.02}
"""pattern: mean mass on the pattern's keys (METRICS' threshold of the `_random` scores, here on the task's prompts).
attention: mass that the judged rows put on answers (movers), on wrong answers (copy suppression) or on repeated ones
(S-inhibition). copy: share of places copied through OV, or −OV. direct: share of the logit difference that the head
itself writes."""


@dataclass(frozen=True)
class Job:
    """A head's role ("" where none fits) and the numbers behind it.

    evidence: means over prompts, names as in `Looks`, and `copy`, `copy_negative` (see `copy_score`), `direct` (logits
    written into the logit difference) and `direct_share` (of the mean logit difference). A name that the task's
    prompts do not define is not there.
    """

    role: str
    evidence: Mapping[str, float]


def head_jobs(loaded: Loaded, task: Task, heads: Sequence[Head]) -> dict[Head, Job]:
    """The job of each head on the measured prompts. Three forwards, and for each head an unembedding of its places.

    Movers need prompts with answers and wrongs, S-inhibition a wrong answer that comes twice in the prompt;
    `missing_jobs` says what a task cannot show. Raises TokensError for a head that the model does not have and for a
    task that names no position and has no answers; HookError or ModelError, by name, for models whose writes cannot
    be followed (`direct_logit`).
    """
    running = Running(loaded.model)
    layers = {site.layer for site in running.sites}
    for layer, number in heads:
        if layer not in layers or not 0 <= number < running.n_heads:
            raise TokensError(f"no head L{layer}H{number} in {loaded.name}")
    prompts = task.prompts
    if not any(prompt.positions or right_tokens(prompt) for prompt in prompts):
        raise TokensError(f"task {task.name}: names no position and has no answers, so that heads show no job in it")
    seen = looks(running, prompts)
    evidence = {head: seen.of(head) for head in heads}
    if all(prompt.answer_ids and prompt.wrong_ids for prompt in prompts):
        written = direct_logit(loaded, task)
        whole = float(written.logit_diff.mean())
        for head in heads:
            direct = float(written.of(head_node(*head)).mean())
            evidence[head] |= {"direct": direct, "direct_share": direct / whole if whole else float("nan")}
    places = [_copy_places(prompt) for prompt in prompts]
    if any(places) and heads:
        for head, (copy, negative) in copy_scores(loaded, anatomy(loaded.model), prompts, places, heads).items():
            evidence[head] |= {"copy": copy, "copy_negative": negative}
    return {head: Job(role_of(evidence[head]), evidence[head]) for head in heads}


def role_of(evidence: Mapping[str, float], thresholds: Mapping[str, float] = THRESHOLDS) -> str:
    """The role that the evidence makes, in this order; a number that is missing or NaN passes no threshold.

    induction: at the judged rows, where these hold a token that came once before. name_mover, negative_mover,
    copy_suppression: by what the head looks at, copies and writes. s_inhibition: looks from the judged row at the
    repeated wrong answer, and writes next to nothing. Then the pattern with most mass: previous_token over all rows,
    the others over all rows or at a named place.
    """

    def above(name: str, limit: str, sign: int = 1) -> bool:
        return sign * evidence.get(name, float("nan")) >= thresholds[limit]

    if above(f"induction@{JUDGED}", "pattern"):
        return "induction"
    helps, hurts = above("direct_share", "direct"), above("direct_share", "direct", -1)
    if above("answer_attention", "attention"):
        if helps and above("copy", "copy"):
            return "name_mover"
        if hurts and above("copy_negative", "copy"):
            return "negative_mover"
    if above("wrong_attention", "attention") and helps and above("copy_negative", "copy"):
        return "copy_suppression"
    if above("repeated_wrong_attention", "attention") and not (helps or hurts):
        return "s_inhibition"
    strongest = {pattern: _strongest(evidence, pattern) for pattern in ROLES if pattern in PATTERNS}
    best = max(strongest, key=strongest.__getitem__)
    return best if strongest[best] >= thresholds["pattern"] else ""


def missing_jobs(task: Task) -> tuple[str, ...]:
    """What heads cannot show on this task, in words; nothing is run."""
    notes = []
    if not all(prompt.positions for prompt in task.prompts):
        notes.append("some prompts name no position: attention between places is not there")
    if not all(prompt.answer_ids and prompt.wrong_ids for prompt in task.prompts):
        notes.append("prompts without answers or wrongs: movers and copy suppression cannot be told")
    if not any(_repeated_wrong(prompt) for prompt in task.prompts):
        notes.append("no wrong answer comes twice in a prompt: S-inhibition cannot be told")
    if not any(_copy_places(prompt) for prompt in task.prompts):
        notes.append("no named place holds a possible answer: copying is not measured, and movers cannot be told")
    return tuple(notes)


def _strongest(evidence: Mapping[str, float], pattern: str) -> float:
    own = [value for name, value in evidence.items() if name.partition("@")[0] == pattern and not np.isnan(value)]
    return max(own, default=0.0)


def _copy_places(prompt: Prompt) -> list[int]:
    """Named places that hold a token that could be the answer; of a prompt without names, each such token's first."""
    possible = {*prompt.answer_ids, *prompt.wrong_ids, *(prompt.target_ids or ())}
    ids = prompt.clean_ids
    if prompt.positions:
        return sorted({place for place in prompt.positions.values() if ids[place] in possible})
    return sorted({ids.index(token) for token in possible if token in ids[: prompt.metric_positions[-1] + 1]})


def _repeated_wrong(prompt: Prompt) -> bool:
    before = prompt.clean_ids[: prompt.metric_positions[-1] + 1]
    return any(before.count(token) > 1 for token in prompt.wrong_ids)
