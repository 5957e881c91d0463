"""Effects and the other statistics on request, of the sweep on a CPU, against their dense definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Mask, Request, Score
from probe.kernels.reference import statistics

Check = Callable[..., dict[str, float]]


@pytest.mark.parametrize("T", [7, 150])
@pytest.mark.parametrize("parts", [True, False])
def test_every_rule_agrees_with_the_definitions(
    T: int,
    parts: bool,
    rules: list[str],
    call: Callable[..., Attention],
    more_for: Callable[..., Request],
    check: Check,
) -> None:
    for rule in rules:
        made = call(T, rule=rule, ratio=3)
        check(made, more_for(made, parts=parts, distances=parts))


def test_a_head_that_looks_only_at_a_sink_has_the_effect_of_its_value() -> None:
    """Key 0 holds almost all of the mass: removing it leaves the mean of the others, whatever 1 − mass rounds to."""
    T, width = 20, 4
    q = torch.ones(1, 1, T, width)
    k = torch.zeros(1, 1, T, width)
    k[..., 0, :] = 8.0  # s = 32 beside 0: the mass of the others is 19 · e^−32 at most, 0 beside 1 in float32
    v = torch.randn(1, 1, T, width, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(1, 1, T, width, generator=torch.Generator().manual_seed(1))
    call = Attention(q, k, v, Mask(), Score(1.0))
    request = Request(sinks=1, window=3, direction=direction)
    means = v[0, 0, 1:].cumsum(0) / torch.arange(1, T)[:, None]
    wanted = ((v[0, 0, 0] - means) * direction[0, 0, 1:]).sum()  # row 0 sees nothing else and keeps its z
    for backend in (blockwise, statistics):
        effects = backend(call, request)[1].effects
        assert effects is not None
        assert float(effects["sink_removed"]) == pytest.approx(float(wanted), rel=1e-5)


def test_an_effect_is_the_derivative_it_estimates(
    call: Callable[..., Attention], more_for: Callable[..., Request]
) -> None:
    """The metric Σ ⟨z, g⟩ is linear in z, so the effect of removing z is the metric itself."""
    made = call(30, dtype=torch.float64)
    request = more_for(made)
    z, found = blockwise(made, request)
    assert request.direction is not None
    assert found.effects is not None
    assert torch.allclose(found.effects["zero"], (z * request.direction).sum((-1, -2)), rtol=1e-9)
    doubled = blockwise(made, replace(request, direction=2 * request.direction))[1].effects
    assert doubled is not None
    assert all(torch.allclose(doubled[name], 2 * found.effects[name], rtol=1e-9) for name in doubled)
