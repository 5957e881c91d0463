"""The copying score on scripted attention, and the measurement against a dense computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from probe.analyses.copying import EXTRA_STEPS, TopKeys, copied, measure
from probe.analyses.needles import Trial
from probe.errors import ModelError
from probe.hooks.attention import instrument, sites

PROMPT = [9, 9, 1, 2, 3, 4, 5, 9, 9]
SPAN = (2, 7)
ANSWER = PROMPT[slice(*SPAN)]


def top(*keys):
    """One head that looks at these keys, step by step."""
    return np.array(keys)[:, None]


def test_four_of_five_copied_is_four_fifths():
    # The head looks at each token as it is emitted, except the last, when it looks elsewhere.
    as_set, paper = copied(top(2, 3, 4, 5, 0), ANSWER, PROMPT, SPAN, ANSWER)
    assert as_set.tolist() == [0.8]
    assert paper.tolist() == [0.8]


def test_repeated_sentence_counts_once_in_the_set_and_twice_as_published():
    as_set, paper = copied(top(*[2, 3, 4, 5, 6] * 2), ANSWER * 2, PROMPT, SPAN, ANSWER)
    assert as_set.tolist() == [1.0]
    assert paper.tolist() == [2.0]


@pytest.mark.parametrize(
    ("keys", "emitted"),
    [
        ((1, 2, 3, 4, 5), ANSWER),  # the token before the one emitted
        ((2, 3, 4, 5, 6), [9, 9, 9, 9, 9]),  # in the span, but other tokens come out
        ((0, 1, 7, 8, 0), [9, 9, 9, 9, 9]),  # copies, but from outside the span
        ((9, 10, 11, 12, 13), ANSWER),  # generated tokens, beyond the prompt
    ],
)
def test_what_is_no_copy(keys, emitted):
    as_set, paper = copied(top(*keys), emitted, PROMPT, SPAN, ANSWER)
    assert as_set.tolist() == [0.0]
    assert paper.tolist() == [0.0]


def test_repeated_answer_token_is_one_of_the_set():
    prompt, span = [7, 7, 8, 0], (0, 3)
    as_set, paper = copied(top(0, 0, 1), [7, 7, 8], prompt, span, prompt[:3])
    # 7 is copied (twice), 8 is not: 1 of 2 distinct tokens, 2 of 3 steps.
    assert as_set.tolist() == [0.5]
    assert paper.tolist() == pytest.approx([2 / 3])


def test_control_asks_only_for_the_stretch():
    stretch = (7, 9)
    as_set, _ = copied(top(7, 8, 0, 0, 0), ANSWER, PROMPT, stretch, ANSWER, same_token=False)
    assert as_set.tolist() == [0.4]


def test_heads_are_scored_apart():
    keys = np.array([[2, 0], [3, 3], [4, 0], [5, 5], [6, 0]])
    assert copied(keys, ANSWER, PROMPT, SPAN, ANSWER)[0].tolist() == [1.0, 0.4]


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def trial_of(prompt, answer):
    return Trial(0, len(prompt), 50, prompt, answer, answer, (0, answer[1] - answer[0]), 0, 0)


def test_measure_equals_a_dense_computation(tiny):
    prompt = torch.randint(0, 40, (20,), generator=torch.Generator().manual_seed(1)).tolist()
    trial = trial_of(prompt, (6, 9))
    found = measure(tiny, trial, sites(tiny), ends=())
    ids = list(prompt)
    for _ in range(3 + EXTRA_STEPS):
        ids.append(int(tiny(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert found.generated_ids == ids[20:]

    def dense(rows):
        tiny.set_attn_implementation("eager")
        maps = tiny(torch.tensor([rows]), output_attentions=True, use_cache=False).attentions
        tiny.set_attn_implementation("sdpa")
        # Row i predicts token i + 1: the rows from the prompt's last token on, heads of both layers in order.
        return torch.cat([layer[0, :, 19:-1].argmax(-1) for layer in maps]).T.numpy()

    free = copied(dense(ids), ids[20:], prompt, trial.answer, trial.answer_ids)
    assert found.scores["set"].tolist() == free[0].tolist()
    assert found.scores["paper"].tolist() == free[1].tolist()
    fed = dense([*prompt, *trial.answer_ids])
    forced, _ = copied(fed, trial.answer_ids, prompt, trial.answer, trial.answer_ids)
    control, _ = copied(fed, trial.answer_ids, prompt, trial.control, trial.answer_ids, same_token=False)
    assert found.scores["forced"].tolist() == forced.tolist()
    assert found.scores["control"].tolist() == control.tolist()
    assert forced.any() or control.any()


def test_recall_and_usable_follow_the_greedy_answer(tiny):
    prompt = torch.randint(0, 40, (20,), generator=torch.Generator().manual_seed(1)).tolist()
    greedy = measure(tiny, trial_of(prompt, (6, 9)), sites(tiny), ends=()).generated_ids
    # Put the model's own answer where the answer is to be; the model may then say something else.
    asked = trial_of([*prompt[:6], *greedy[:3], *prompt[9:]], (6, 9))
    found = measure(tiny, asked, sites(tiny), ends=())
    assert found.recall == (found.generated_ids[:3] == asked.answer_ids)
    shared = set(found.generated_ids) & set(asked.answer_ids)
    assert found.usable == (2 * len(shared) >= len(set(asked.answer_ids)))


def test_stops_at_the_end_of_text(tiny):
    prompt = list(range(20))
    first = measure(tiny, trial_of(prompt, (6, 9)), sites(tiny), ends=()).generated_ids[0]
    assert measure(tiny, trial_of(prompt, (6, 9)), sites(tiny), ends={first}).generated_ids == [first]


def test_ties_go_to_the_lowest_key(tiny):
    before = {name: weight.clone() for name, weight in tiny.state_dict().items()}
    for layer in tiny.model.layers:
        layer.self_attn.q_proj.weight.zero_()
    keys = TopKeys(sites(tiny))
    try:
        with instrument(tiny, keys):
            tiny(torch.arange(12)[None])
    finally:
        tiny.load_state_dict(before)
    # Every score is 0, so every visible key is as good as key 0.
    assert keys.take().tolist() == [[0] * 8] * 12


def test_nothing_stays_behind(tiny):
    measure(tiny, trial_of(list(range(20)), (6, 9)), sites(tiny), ends=())
    assert tiny.config._attn_implementation == "sdpa"


def test_logits_that_are_not_finite_are_refused(tiny):
    weight = tiny.lm_head.weight
    kept = weight.clone()
    weight[3] = float("nan")
    try:
        with pytest.raises(ModelError, match="not finite"):
            measure(tiny, trial_of(list(range(20)), (6, 9)), sites(tiny), ends=())
    finally:
        weight.copy_(kept)
