"""The tensors of the plan: the same on every run, of the plan's shapes, and a request that leaves nothing out."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from probe.kernels.inputs import Request
from probe.kernels.validate import validate
from tests.benchmarks.gpu_plan import Plan, full_request, make_call

PLAN = Plan(heads=4, kv_heads=2, width=16, dtype=torch.float32)
CPU = torch.device("cpu")


def test_calls_are_the_same_every_time_and_differ_by_length() -> None:
    one, two, other = (make_call(PLAN, length, CPU) for length in (40, 40, 41))
    assert torch.equal(one.q, two.q)
    assert not torch.equal(one.q, other.q[:, :, :40])
    s = one.q @ one.k.repeat_interleave(2, 1).mT * one.score.scale
    assert 1.8 < float(s.std()) < 2.2
    late = make_call(PLAN, 40, CPU, queries=3)
    assert late.q.shape == (1, 4, 3, 16)
    assert late.mask.query_offset == 37


def test_the_request_is_valid_and_asks_for_everything() -> None:
    call = make_call(PLAN, 40, CPU)
    request = full_request(call, bands=4, parts=True)
    validate(call, request)
    plain = Request()
    left = {field.name for field in fields(Request) if getattr(request, field.name) is getattr(plain, field.name)}
    assert left <= {"sinks", "window", "parts", "distances"}
    assert replace(request, parts=False) != request
