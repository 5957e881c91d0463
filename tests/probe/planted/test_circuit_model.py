"""Every head of the planted circuits attends as its job says, seen in dense maps of real forwards."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from probe.errors import ModelError
from probe.planted.circuit_heads import ASLEEP, MATCH, PLACES, REST, SHARE_ORDER
from probe.planted.circuit_model import planted_circuits
from probe.planted.circuit_words import TASK_NAMES
from probe.planted.circuits import planted_task
from probe.tasks.task import Prompt, Task

TASKS = [planted_task(name, prompts=8, held_out=0) for name in TASK_NAMES]


@cache
def model(shared: int):
    made = planted_circuits(shared)
    made.set_attn_implementation("eager")
    return made


@torch.no_grad()
def run(shared: int, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Last logits [V] and attention [L, H, T, T], float64."""
    out = model(shared)(torch.tensor([prompt.clean_ids]), output_attentions=True)
    return out.logits[0, -1].double(), torch.stack([layer[0].double() for layer in out.attentions])


def head(job: str, task: Task, shared: int) -> tuple[int, int]:
    return PLACES[job][0 if job in SHARE_ORDER[:shared] else TASK_NAMES.index(task.name)]


@pytest.mark.parametrize("shared", range(5))
@pytest.mark.parametrize("task", TASKS, ids=TASK_NAMES)
def test_heads_look_where_they_should(task: Task, shared: int):
    question, mover, negative, backup, previous = (
        head(job, task, shared) for job in ("question", "mover", "negative_mover", "backup_mover", "previous_token")
    )
    # A match scores 8, the first token 4.5, the 14 others 0. <ask> holds up to three unit codes beside its length of
    # √68, so its norm takes up to 2 % of every score: 0.07 of the distance from match to rest, e^0.07 more rests.
    asked = 1 / (1 + math.exp(REST - MATCH) + 14 * math.exp(-MATCH))
    moved = 1 / (1 + math.exp(REST - MATCH * asked) + 14 * math.exp(-MATCH * asked))
    for prompt in task.prompts:
        _, maps = run(shared, prompt)
        at = prompt.positions
        assert float(maps[question][-1, at["QUESTION"]]) == pytest.approx(asked, abs=0.01)
        # What is asked for arrives with that strength, and so much lower is the mover's score of a match.
        for one in (mover, negative):
            assert float(maps[one][-1, at["VALUE"]]) == pytest.approx(moved, abs=0.01)
            assert float(maps[one][-1, at["VALUE"]]) < 0.99, "a saturated softmax has no gradient"
        # While the mover works, the backup's own token scores 15 · 0.966 · 0.95, less two norms' 2 %; a value 7.7.
        asleep = ASLEEP * asked * moved * 0.96 - MATCH * asked
        assert float(maps[backup][-1, -1]) > 1 - 2 * math.exp(-asleep)
        # 25 units on a kernel that is a quarter lower at distances 0, 2 and 7, and lower still elsewhere.
        assert float(maps[previous].diagonal(-1).min()) > 1 - 4 * math.exp(-25 / 4)


@pytest.mark.parametrize("task", TASKS, ids=TASK_NAMES)
def test_heads_of_the_other_task_rest(task: Task):
    other = TASK_NAMES[1 - TASK_NAMES.index(task.name)]
    for job in ("mover", "negative_mover", "backup_mover"):
        layer, number = PLACES[job][TASK_NAMES.index(other)]
        for prompt in task.prompts:
            _, maps = run(0, prompt)
            # 4.5 on the first token, less up to 2 % at the norm; 0 on 15 others.
            least, most = (1 / (1 + 15 * math.exp(-gain * REST)) for gain in (0.98, 1))
            assert least - 1e-3 < float(maps[layer, number, -1, 0]) < most + 1e-3


def test_only_translation_needs_the_mlp():
    for task in TASKS:
        for layer in range(4):
            changed = planted_circuits(2)
            changed.model.layers[layer].mlp.down_proj.weight.zero_()
            right = []
            with torch.no_grad():
                for prompt in task.prompts:
                    logits = changed(torch.tensor([prompt.clean_ids])).logits[0, -1]
                    right.append(float(logits[prompt.answer_ids[0]] - logits[prompt.wrong_ids[0]]))
            needed = task.name == "translate" and layer == 0
            assert (max(map(abs, right)) < 0.1) if needed else (min(right) > 3.5), (task.name, layer)


def test_building_is_deterministic_and_leaves_the_random_state():
    built = []
    for state, seed in ((7, 1), (8, 1), (8, 2)):
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        built.append(planted_circuits(1, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), before)
    first, again, other = built
    for (name, a), b in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not a.requires_grad
    assert not first.training
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    ids = torch.tensor([TASKS[0].prompts[0].clean_ids])
    # Another rotation is the same model: 4 layers of float32 sums over 160 dims, logits of size 10.
    with torch.no_grad():
        torch.testing.assert_close(first(ids).logits, other(ids).logits, atol=1e-3, rtol=0)


def test_the_residual_basis_is_dense():
    weight = planted_circuits().get_parameter("model.layers.2.self_attn.q_proj.weight")
    row = weight[weight.norm(dim=1) > 0][0].double()
    # A random direction of 160 dims has Σx⁴/(Σx²)² near 3/160; a written one has 1.
    assert float(row.pow(4).sum() / row.square().sum() ** 2) < 0.1


def test_a_shared_head_takes_the_place_of_two():
    together, apart = planted_circuits(4), planted_circuits(0)
    for job in SHARE_ORDER:
        (layer, first), (_, second) = PLACES[job]
        for number in (first, second):
            columns = slice(number * 32, (number + 1) * 32)
            one, other = (
                made.get_parameter(f"model.layers.{layer}.self_attn.o_proj.weight")[:, columns]
                for made in (together, apart)
            )
            assert not torch.equal(one, other), job


@pytest.mark.parametrize("shared", [-1, 5, 2.0, True, "2"])
def test_impossible_sharing_is_refused(shared: object):
    with pytest.raises(ModelError, match=r"planted circuits: shared .*; wanted a whole number from 0 to 4"):
        planted_circuits(shared)  # type: ignore[arg-type]
