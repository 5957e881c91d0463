"""The sweep with its compiled stage as a backend of its own: the extra `headprobe[fast]`, and which calls it serves.

numba is imported with the first such call, never before: that takes a second or two, compiling once a machine
some ten more.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Request
from probe.kernels.statistics import Statistics
from probe.kernels.validate import KernelError


@cache
def numba_version() -> str | None:
    """The installed numba's; None where there is none."""
    try:
        return version("numba")
    except PackageNotFoundError:
        return None


def refusal(call: Attention) -> str | None:
    """Why the compiled stage cannot compute a call; None where it can. Everything else, it does by every rule."""
    if call.q.device.type != "cpu":
        return f"it computes on a CPU, and q is on {call.q.device}"
    if call.q.dtype == torch.float64:
        return "it computes in float32, and q is float64"
    if call.score.sigmoid:
        return "sigmoid gates are not among its rules"
    return None


def compiled(call: Attention, request: Request) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """`blockwise` with the compiled stage: the same strips, items and order of sums; other last digits of exponentials.

    Raises KernelError for a call that `refusal` refuses, and where numba is not installed or cannot be imported.
    """
    reason = refusal(call)
    if reason is not None:
        raise KernelError(f"backend 'numba' cannot compute this call: {reason}; take 'blockwise'")
    if numba_version() is None:
        raise KernelError("backend 'numba' needs numba: pip install 'headprobe[fast]', or take 'blockwise'")
    try:
        from probe.kernels.numba_stage import NumbaStage
    except ImportError as error:
        raise KernelError(f"numba cannot be imported ({error}); mend it, or take backend 'blockwise'") from error
    return blockwise(call, request, NumbaStage())
