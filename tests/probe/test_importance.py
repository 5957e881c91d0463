"""The criteria in one place: names, units, batches, and what they say of a head that does nothing."""

from __future__ import annotations

import numpy as np
import pytest

from probe.analyses.importance import CRITERIA, importance
from probe.errors import TokensError
from probe.models import load
from probe.tasks.build import build


def test_every_criterion_gives_every_head_a_number(make_llama, make_task):
    found = importance(make_llama(), make_task(), batch=2)
    assert list(found) == list(CRITERIA)
    for name, criterion in found.items():
        units = {"michel_batch": 3, "fluctuation_flap": 1}.get(name, 5)
        assert criterion.values.shape == (units, 3, 4)
        assert criterion.values.dtype == np.float64
        assert np.isfinite(criterion.score).all()
        assert np.ptp(criterion.score) > 0
        assert criterion.unit == {5: "prompt", 3: "batch", 1: "task"}[units]


def test_batches_change_the_batch_version_alone(make_llama, make_task):
    model, task = make_llama(), make_task()
    one, many = importance(model, task, batch=1), importance(model, task, batch=5)
    for name in CRITERIA:
        # float32 statistics of the kernels; the rest is float64.
        same = np.allclose(one[name].score, many[name].score, rtol=1e-4, atol=1e-9)
        assert same == (name != "michel_batch"), name
    assert one["michel_batch"].score == pytest.approx(one["michel_example"].score)


def test_a_head_that_writes_nothing_is_last_by_what_looks_at_writes(make_llama, make_task):
    model = make_llama()
    model.model.layers[1].self_attn.o_proj.weight.data[:, 8:16] = 0
    names = ["michel_example", "michel_token", "michel_batch", "write_norm", "write_l1", "fluctuation"]
    for criterion in importance(model, make_task(), names).values():
        assert criterion.score[1, 1] == 0
        assert np.count_nonzero(criterion.score) == 11


def test_bad_requests_are_refused(make_llama, make_task):
    with pytest.raises(TokensError, match="criteria gate; wanted michel_example"):
        importance(make_llama(), make_task(), ["gate"])
    with pytest.raises(TokensError, match="batches of 0"):
        importance(make_llama(), make_task(), batch=0)
    with pytest.raises(TokensError, match="accuracy has no gradient"):
        importance(make_llama(), make_task(metric="accuracy"))
    found = importance(make_llama(), make_task(metric="accuracy"), ["write_l1"])
    assert found["write_l1"].score.shape == (3, 4)


@pytest.mark.real
def test_on_a_real_model_gates_know_the_name_movers_and_norms_do_not():
    """L23H3 and L29H1 are SmolLM2's strongest heads on IOI by exact removal; late layers write most of all."""
    loaded = load("smollm2-135m")
    task = build("ioi", loaded, prompts=8)
    found = importance(loaded.model, task, ["michel_example", "write_norm"], batch=8)
    gates = np.argsort(-found["michel_example"].score.reshape(-1))[:10].tolist()
    assert {23 * 9 + 3, 29 * 9 + 1} <= set(gates)
    norms = np.argsort(-found["write_norm"].score.reshape(-1))[:10] // 9
    assert norms.mean() > 20
