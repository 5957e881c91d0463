"""A stand-in forward runs, fires hooks, nests, and is gone afterwards, also after an error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from probe.hooks.forward_as import forward_as


def test_the_stand_in_runs_and_hooks_fire():
    module, seen = nn.Linear(2, 2), []
    module.register_forward_hook(lambda *_: seen.append(1))
    with forward_as(module, lambda x: x + 1):
        assert torch.equal(module(torch.zeros(2)), torch.ones(2))
        with forward_as(module, lambda x: x + 2):
            assert torch.equal(module(torch.zeros(2)), torch.full((2,), 2.0))
        assert torch.equal(module(torch.zeros(2)), torch.ones(2))
    assert seen == [1, 1, 1]
    assert "forward" not in module.__dict__


def test_an_error_leaves_the_module_as_it_was():
    module = nn.Linear(2, 2)
    expected = module(torch.ones(2))
    with pytest.raises(RuntimeError, match="inside"), forward_as(module, lambda x: x):
        raise RuntimeError("inside")
    assert torch.equal(module(torch.ones(2)), expected)
