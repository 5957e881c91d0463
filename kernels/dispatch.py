"""Which backend computes a call: chosen by device or by name, never a silent fallback."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Request
from probe.kernels.reference import statistics as reference
from probe.kernels.statistics import Statistics
from probe.kernels.validate import KernelError, validate

BACKENDS = {"blockwise": blockwise, "reference": reference}


def attention_statistics(
    call: Attention, request: Request | None = None, *, backend: str = "auto"
) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output z and all statistics of one attention call.

    backend: "auto" (blockwise, on every device), "blockwise", or "reference" (dense float64: short inputs only).
    Raises KernelError for a call that does not fit together, or a backend that does not exist.
    """
    name = "blockwise" if backend == "auto" else backend
    if name not in BACKENDS:
        raise KernelError(f"backend {backend!r} does not exist; wanted one of auto, {', '.join(BACKENDS)}")
    request = Request() if request is None else request
    validate(call, request)
    return BACKENDS[name](call, request)
