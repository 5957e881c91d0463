"""Which backend computes a call: chosen by device or by name, never a silent fallback."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Request
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


BACKENDS = {"blockwise": blockwise, "triton": _fused, "reference": reference}


def chosen(device: torch.device, backend: str = "auto") -> str:
    """The name of the backend that serves tensors of a device: what "auto" means there, or the one that was named."""
    return ("triton" if device.type == "cuda" else "blockwise") if backend == "auto" else backend


def attention_statistics(
    call: Attention, request: Request | None = None, *, backend: str = "auto"
) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output z and all statistics of one attention call.

    backend: "auto" (triton on CUDA, blockwise on every other device), "blockwise" (any device), "triton" (CUDA, or its
    interpreter on a CPU: see `triton_jit.interpreted`), or "reference" (dense float64: short inputs only).
    Neither z nor the statistics carry gradients.
    Raises KernelError for a call that does not fit together, a backend that does not exist or cannot run here, and a
    rule that the GPU kernels cannot be told (a mask or bias that is a Python function, float64): such a call is never
    handed to another backend unasked; the error says to name "blockwise".
    """
    name = chosen(call.q.device, backend)
    if name not in BACKENDS:
        raise KernelError(f"backend {backend!r} does not exist; wanted one of auto, {', '.join(BACKENDS)}")
    request = Request() if request is None else request
    validate(call, request)
    return BACKENDS[name](call, request)
