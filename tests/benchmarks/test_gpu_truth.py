"""The definition in blocks is the definition in one piece; its bounds hold for a right backend, not for wrong ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from probe.kernels import reference
from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score
from tests.benchmarks.gpu_truth import HeadTruth, shares


@pytest.fixture(scope="module")
def call() -> Attention:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 150, 16, generator=generator) for heads in (4, 2, 2))
    return Attention(2 * q, k, v, Mask(), Score(0.25))


@pytest.fixture(scope="module")
def request_(call: Attention) -> Request:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 9, (2, 150), generator=generator)
    direction, mean = (torch.randn(2, 4, 150, 16, generator=generator) for _ in range(2))
    return Request(
        sinks=3,
        window=20,
        bands=8,
        lookups={"duplicate_token": Lookup(ids, ids, gap=1)},
        argmax=True,
        received_max=True,
        received_value=True,
        thresholds=(0.1, 0.01),
        direction=direction,
        mean=mean,
    )


def test_blocks_of_the_definition_are_the_definition(call: Attention, request_: Request) -> None:
    z, whole = reference.statistics(call, request_)
    truth = HeadTruth(call, request_, 1, 2, rows=47)
    truth.allowed = {name: 1e-12 * (1 + value.abs()) for name, value in truth.values.items()}  # float64 on both sides
    truth.allowed["received_counts"] = torch.full((), 0.5)  # a weight within its error of a threshold
    worst = shares(truth, z, whole)
    assert max(worst.values()) <= 1, worst
    wanted = {"z", "sink_part", "local_part", "lse", "entropy", "thumbnail", "received", "by_distance", "argmax"}
    assert wanted | {"zero", "mean", "sink_removed", "streaming", "lookup.duplicate_token"} <= set(worst)


@pytest.mark.parametrize("parts", [True, False])
def test_a_right_backend_is_within_its_bounds(parts: bool, call: Attention, request_: Request) -> None:
    request = replace(request_, parts=parts)
    z, found = attention_statistics(call, request, backend="blockwise")
    for b, h in ((0, 0), (1, 3)):
        worst = shares(HeadTruth(call, request, b, h), z, found)
        assert max(worst.values()) <= 1, worst
        assert ("norm" in worst) is not parts


@pytest.mark.parametrize(
    "name",
    ["lse", "entropy", "distance", "local_mass", "sink_part", "received", "by_distance", "thumbnail", "received_max"],
)
def test_a_wrong_statistic_is_not(name: str, call: Attention, request_: Request) -> None:
    z, found = attention_statistics(call, request_, backend="blockwise")
    truth = HeadTruth(call, request_, 0, 1)
    wrong = replace(found, **{name: getattr(found, name) * 1.001 + 1e-4})
    assert shares(truth, z, wrong)[name] > 1
    assert (
        shares(truth, z, replace(found, argmax=found.argmax * 0))["argmax"] > 1 if found.argmax is not None else False
    )
    assert shares(truth, z * 1.001, found)["z"] > 1
