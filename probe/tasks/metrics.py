"""How well a run answers: one number a prompt, higher is better, differentiable but for accuracy.

Softmax statistics are taken in float32, or in float64 where the logits are, whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import TokensError
from probe.tasks.task import METRICS, Prompt


def measure(
    logits: Float[Tensor, "N K V"],
    prompts: Sequence[Prompt],
    metric: str,
    *,
    clean: Float[Tensor, "N K V"] | None = None,
) -> Float[Tensor, "N"]:
    """The metric of each prompt from the logits at its K metric positions; float32 or wider, on their device.

    logit_diff: mean logit of `answer_ids` − mean logit of `wrong_ids`, and prob_diff: Σ p(answers) − Σ p(wrongs),
    both at the last metric position. neg_loss: mean log-probability of `target_ids` over the positions, in nats.
    neg_kl: −KL(clean ‖ run) in nats, mean over the positions; `clean` are the logits of the clean run there.
    accuracy: of targets, the share that is the arg-max over the vocabulary; without targets, 1 where the arg-max
    over answers and wrongs (over the vocabulary where there are no wrongs) is an answer, else 0. Ties go to the
    lowest id, as METRICS says.

    Raises TokensError for an unknown metric, for logits that do not fit the prompts, for ids beyond the
    vocabulary, and where the metric lacks what it compares.
    """
    if metric not in METRICS:
        raise TokensError(f"metric {metric!r}; wanted one of {', '.join(METRICS)}")
    _check(logits, prompts, metric, clean)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if metric == "neg_kl" and clean is not None:
        reference = clean.detach().to(wide.dtype).log_softmax(-1)
        return -(reference.exp() * (reference - wide.log_softmax(-1))).sum(-1).mean(-1)
    if metric == "neg_loss":
        return _at_targets(wide, prompts).mean(-1)
    if metric == "accuracy":
        return accuracy(wide, prompts)
    compared = wide[:, -1] if metric == "logit_diff" else wide[:, -1].softmax(-1)
    pool: Callable[[Tensor], Tensor] = torch.mean if metric == "logit_diff" else torch.sum
    rows = [
        pool(row[list(prompt.answer_ids)]) - pool(row[list(prompt.wrong_ids)])
        for row, prompt in zip(compared, prompts, strict=True)
    ]
    return torch.stack(rows)


def accuracy(logits: Float[Tensor, "N K V"], prompts: Sequence[Prompt]) -> Float[Tensor, "N"]:
    """The share of right answers of each prompt, as `measure` defines it; no gradient passes."""
    if prompts[0].target_ids is not None:
        return (logits.argmax(-1) == _targets(prompts, logits.device)).to(logits.dtype).mean(-1)
    right = []
    for row, prompt in zip(logits[:, -1], prompts, strict=True):
        offered = sorted({*prompt.answer_ids, *prompt.wrong_ids}) if prompt.wrong_ids else None
        best = int(row.argmax()) if offered is None else offered[int(row[offered].argmax())]
        right.append(best in prompt.answer_ids)
    return torch.tensor(right, dtype=logits.dtype, device=logits.device)


def _targets(prompts: Sequence[Prompt], device: torch.device) -> Int[Tensor, "N K"]:
    return torch.tensor([prompt.target_ids for prompt in prompts], device=device)


def _at_targets(logits: Float[Tensor, "N K V"], prompts: Sequence[Prompt]) -> Float[Tensor, "N K"]:
    targets = _targets(prompts, logits.device)
    return logits.log_softmax(-1).gather(-1, targets[:, :, None])[:, :, 0]


def _check(
    logits: Float[Tensor, "N K V"],
    prompts: Sequence[Prompt],
    metric: str,
    clean: Float[Tensor, "N K V"] | None,
) -> None:
    wanted = (len(prompts), len(prompts[0].metric_positions) if prompts else 0)
    if logits.ndim != 3 or logits.shape[:2] != wanted or 0 in wanted:
        raise TokensError(
            f"{metric}: logits of shape {tuple(logits.shape)}; wanted [{wanted[0]} prompts, {wanted[1]} positions, "
            "vocabulary], at least one of each"
        )
    if metric == "neg_kl":
        if clean is None:
            raise TokensError("neg_kl compares with the clean run; pass its logits as `clean`")
        if clean.shape != logits.shape:
            shapes = f"{tuple(clean.shape)} beside {tuple(logits.shape)}"
            raise TokensError(f"neg_kl: clean logits of shape {shapes}; wanted one shape")
        return
    for index, prompt in enumerate(prompts):
        if metric in ("logit_diff", "prob_diff") and not (prompt.answer_ids and prompt.wrong_ids):
            raise TokensError(f"{metric}, prompt {index}: wanted right and wrong next tokens; found one kind at most")
        if metric in ("neg_loss", "accuracy") and (prompt.target_ids is None) != (prompts[0].target_ids is None):
            raise TokensError(f"{metric}, prompt {index}: targets in some prompts and none in others; wanted one kind")
        if metric == "neg_loss" and prompt.target_ids is None:
            raise TokensError(f"neg_loss, prompt {index}: found no target; wanted one at every metric position")
        if metric == "accuracy" and prompt.target_ids is None and not prompt.answer_ids:
            raise TokensError(f"accuracy, prompt {index}: found neither targets nor answers; wanted one of them")
        named = (*prompt.answer_ids, *prompt.wrong_ids, *(prompt.target_ids or ()))
        outside = [token for token in named if not 0 <= token < logits.shape[2]]
        if outside:
            last = logits.shape[2] - 1
            raise TokensError(f"{metric}, prompt {index}: id {outside[0]}; wanted one of the vocabulary, 0 to {last}")
