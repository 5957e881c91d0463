"""The descriptions of a call: what they hold, and that a description cannot be changed under a backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch

from probe.kernels.inputs import Attention, Lookup, Mask, Request


def test_a_description_holds_the_models_own_tensors_and_stays_as_it_is(call: Callable[..., Attention]) -> None:
    made = call(8)
    again = Attention(made.q, made.k, made.v, made.mask, made.score)
    assert again.q.data_ptr() == made.q.data_ptr()
    with pytest.raises(FrozenInstanceError):
        made.mask.__setattr__("window", 3)


def test_defaults_are_those_of_a_causal_decoder() -> None:
    assert Mask() == Mask(causal=True, window=None, query_offset=0, lengths=None, allowed=None)
    assert (Request().sinks, Request().window, Request().bands, Request().lookups) == (4, 64, 64, {})


def test_what_a_lookup_found_is_its_own(call: Callable[..., Attention]) -> None:
    labels = torch.zeros(1, 3, dtype=torch.long)
    first, second = Lookup(labels, labels), Lookup(labels, labels)
    first.found[(0,)] = "kept"
    assert second.found == {}
