"""Which backend computes a call: chosen by device or by name, never a silent fallback."""

from __future__ import annotations

import os

from jaxtyping import Float
from torch import Tensor

from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Request
from probe.kernels.numba_backend import compiled, numba_version, refusal
from probe.kernels.reference import statistics as reference
from probe.kernels.statistics import Statistics
from probe.kernels.validate import KernelError, validate


def _fused(call: Attention, request: Request) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    # Imported where it is used: Triton is not there on every system, and takes its time.
    try:
        from probe.kernels.triton_backend import fused
    except ImportError as error:
        raise KernelError(f"Triton cannot be imported ({error}); install it, or use backend='blockwise'") from error
    return fused(call, request)


BACKENDS = {"blockwise": blockwise, "numba": compiled, "triton": _fused, "reference": reference}

NAMED = "HEADPROBE_BACKEND"
"""Environment variable: the backend that "auto" means, whatever the call."""


def chosen(call: Attention, backend: str = "auto") -> str:
    """The name of the backend that computes a call: what "auto" means for it, or the one that was named.

    "auto" is what HEADPROBE_BACKEND names; else triton on CUDA, numba on a CPU where `headprobe[fast]` is installed
    and serves the call (see `numba_backend.refusal`), blockwise otherwise. Whoever keeps results records it.
    """
    if backend != "auto":
        return backend
    if os.environ.get(NAMED):
        return os.environ[NAMED]
    if call.q.device.type == "cuda":
        return "triton"
    return "numba" if numba_version() is not None and refusal(call) is None else "blockwise"


def automatic() -> str:
    """What "auto" means on a CPU for most calls, with numba's version: for records of how numbers were made."""
    number = numba_version()
    return os.environ.get(NAMED) or ("blockwise" if number is None else f"numba {number}")


def attention_statistics(
    call: Attention, request: Request | None = None, *, backend: str = "auto"
) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output z and all statistics of one attention call.

    backend: "auto" (see `chosen`), "blockwise" (plain torch, any device), "numba" (the same sweep with a compiled
    stage, CPU), "triton" (CUDA, or its interpreter on a CPU: see `triton_jit.interpreted`), or "reference" (dense
    float64: short inputs only).
    Neither z nor the statistics carry gradients.
    Raises KernelError for a call that does not fit together, a backend that does not exist or cannot run here, and a
    rule that the GPU kernels (a mask or bias that is a Python function, float64) or the compiled stage (float64,
    sigmoid gates) cannot be told: such a call is never handed to another backend unasked; the error says to name
    "blockwise".
    """
    name = chosen(call, backend)
    if name not in BACKENDS:
        raise KernelError(f"backend {name!r} does not exist; wanted one of auto, {', '.join(BACKENDS)}")
    request = Request() if request is None else request
    validate(call, request)
    return BACKENDS[name](call, request)
