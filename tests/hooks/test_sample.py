"""Random inputs are accepted by every family, the same for the same seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from probe.hooks.errors import HookError
from probe.hooks.sample import random_inputs


def test_every_family_reads_them(case: Any) -> None:
    inputs = random_inputs(case.model)
    with torch.no_grad():
        case.model(**inputs)
    assert set(case.inputs) - {"attention_mask"} == set(inputs)
    again, other = random_inputs(case.model), random_inputs(case.model, seed=1)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    assert any(not torch.equal(inputs[name], other[name]) for name in inputs)


def test_other_inputs_are_asked_for(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(llama.model), "main_input_name", "input_values")
    with pytest.raises(HookError, match="reads input_values; pass inputs="):
        random_inputs(llama.model)
