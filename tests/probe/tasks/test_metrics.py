"""Every metric against its definition written out in float64, its gradient, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from probe.errors import TokensError
from probe.tasks.metrics import accuracy, measure
from probe.tasks.task import METRICS, Prompt

N, K, V = 3, 4, 11


def prompt(answers: tuple[int, ...] = (1,), wrongs: tuple[int, ...] = (2,), targets: tuple[int, ...] | None = None):
    return Prompt((0,) * 6, answers, wrongs, (1, 2, 3, 5), "text", target_ids=targets)


PROMPTS = [
    prompt((1,), (2, 3), (4, 5, 6, 1)),
    prompt((7, 8, 9), (0,), (0, 1, 2, 7)),
    prompt((4, 10), (5, 6, 0), (9, 9, 9, 10)),
]


def drawn(seed: int = 0) -> Tensor:
    return 3 * torch.randn(N, K, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(logits: Tensor, metric: str, clean: Tensor) -> list[float]:
    """The definitions, one number at a time."""
    found = []
    for n, asked in enumerate(PROMPTS):
        rows = logits[n].tolist()
        p = [[math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in rows]
        last, right, wrong = rows[-1], asked.answer_ids, asked.wrong_ids
        if metric == "logit_diff":
            value = sum(last[a] for a in right) / len(right) - sum(last[w] for w in wrong) / len(wrong)
        elif metric == "prob_diff":
            value = sum(p[-1][a] for a in right) - sum(p[-1][w] for w in wrong)
        elif metric == "neg_loss":
            value = sum(math.log(p[k][target]) for k, target in enumerate(asked.target_ids)) / K
        elif metric == "accuracy":
            value = sum(row.index(max(row)) == t for row, t in zip(rows, asked.target_ids, strict=True)) / K
        else:
            value = 0.0
            for k, row in enumerate(clean[n].tolist()):
                total = sum(math.exp(y) for y in row)
                value -= sum(math.exp(x) / total * (math.log(math.exp(x) / total) - math.log(p[k][i]))
                             for i, x in enumerate(row)) / K  # fmt: skip
        found.append(value)
    return found


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_their_definitions(metric: str):
    logits, clean = drawn(), drawn(1)
    found = measure(logits, PROMPTS, metric, clean=clean)
    assert found.shape == (N,)
    assert found.dtype == torch.float64
    # A few dozen float64 roundings of numbers of order 10.
    np.testing.assert_allclose(found.numpy(), by_hand(logits, metric, clean), atol=1e-13)


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "accuracy"])
def test_gradients_are_right(metric: str):
    logits = drawn().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: measure(x, PROMPTS, metric, clean=drawn(1)), (logits,))


def test_the_clean_side_of_kl_gets_no_gradient_and_the_same_run_is_at_zero():
    clean = drawn(1).requires_grad_()
    logits = drawn().requires_grad_()
    measure(logits, PROMPTS, "neg_kl", clean=clean).sum().backward()
    assert clean.grad is None
    assert logits.grad is not None
    assert measure(logits, PROMPTS, "neg_kl", clean=logits).tolist() == [0.0] * N
    assert (measure(logits, PROMPTS, "neg_kl", clean=clean) < 0).all()


def test_softmax_statistics_are_float32_or_wider():
    coarse = drawn().bfloat16()
    for metric in METRICS:
        found = measure(coarse, PROMPTS, metric, clean=coarse)
        assert found.dtype == torch.float32
        assert torch.equal(found, measure(coarse.float(), PROMPTS, metric, clean=coarse.float()))


def test_accuracy_without_targets_asks_answers_against_wrongs():
    logits = torch.zeros(1, 4, V)
    logits[0, -1, 9] = 5.0  # neither right nor wrong
    logits[0, -1, 1] = 1.0
    assert accuracy(logits, [prompt((1, 4), (2, 3))]).tolist() == [1.0]
    assert accuracy(logits, [prompt((2, 4), (1, 3))]).tolist() == [0.0]
    assert accuracy(logits, [prompt((1, 4), ())]).tolist() == [0.0], "without wrongs, over the vocabulary"
    assert accuracy(logits, [prompt((9,), ())]).tolist() == [1.0]


def test_ties_go_to_the_lowest_id():
    logits = torch.zeros(1, 4, V)
    assert accuracy(logits, [prompt((1,), (2,))]).tolist() == [1.0]
    assert accuracy(logits, [prompt((2,), (1,))]).tolist() == [0.0]
    assert accuracy(logits, [prompt((1,), (), (0, 0, 3, 0))]).tolist() == [0.75]


@pytest.mark.parametrize(
    ("metric", "prompts", "shape", "said"),
    [
        ("f1", PROMPTS, (N, K, V), "metric 'f1'; wanted one of logit_diff"),
        ("logit_diff", PROMPTS, (N, K - 1, V), r"logits of shape \(3, 3, 11\); wanted \[3 prompts, 4 positions"),
        ("logit_diff", PROMPTS[:2], (N, K, V), "wanted .2 prompts"),
        ("logit_diff", [], (0, K, V), "at least one of each"),
        ("neg_kl", PROMPTS, (N, K, V), "pass its logits as `clean`"),
        ("prob_diff", [prompt((1,), ())], (1, K, V), "prompt 0: wanted right and wrong"),
        ("neg_loss", [prompt()], (1, K, V), "prompt 0: found no target"),
        ("neg_loss", [PROMPTS[0], prompt()], (2, K, V), "prompt 1: targets in some prompts and none in others"),
        ("accuracy", [prompt((), ())], (1, K, V), "neither targets nor answers"),
        ("logit_diff", [prompt((V,), (0,))], (1, K, V), "id 11; wanted one of the vocabulary, 0 to 10"),
    ],
)
def test_what_does_not_fit_is_refused(metric: str, prompts: list[Prompt], shape: tuple[int, ...], said: str):
    with pytest.raises(TokensError, match=said):
        measure(torch.zeros(shape), prompts, metric)


def test_clean_logits_of_another_shape_are_refused():
    with pytest.raises(TokensError, match=r"neg_kl: clean logits of shape \(1, 4, 11\) beside \(3, 4, 11\)"):
        measure(drawn(), PROMPTS, "neg_kl", clean=drawn()[:1])
