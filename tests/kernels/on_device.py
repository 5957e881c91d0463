"""For tests on a GPU: when they run, calls and results moved there and back, what half precision may cost."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from probe.kernels.triton_jit import is_interpreted

NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.skipif(is_interpreted(), reason="TRITON_INTERPRET is set: nothing would run on the device"),
]

HALF = (torch.bfloat16, torch.float16)


def moved(value: Any, device: str = "cuda") -> Any:
    """A description or a result with every tensor in it on a device. Off a GPU only when its work is done: an illegal
    address shows here, not in the next test."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (tuple, list)):
        return type(value)(moved(one, device) for one in value)
    if isinstance(value, dict):
        return {name: moved(one, device) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: moved(getattr(value, field.name), device) for field in fields(value)})
    return value


def rounding(dtype: torch.dtype) -> float:
    """Half precision rounds the weights before they meet v: by how much of a weight at most."""
    return torch.finfo(dtype).eps / 2 if dtype in HALF else 0.0
