"""One entrance for decoding: a few queries, many keys; which backend computes it is chosen by device or by name."""

from __future__ import annotations

from probe.kernels.decode_blocks import decode_blocks
from probe.kernels.decode_reference import decode_reference
from probe.kernels.decoded import Decoded, DecodeRequest, validate_decode
from probe.kernels.inputs import Attention
from probe.kernels.validate import KernelError


def _split(call: Attention, request: DecodeRequest) -> Decoded:
    # Imported where it is used: Triton is not there on every system, and takes its time.
    try:
        from probe.kernels.triton_decode_launch import refusal, triton_decode
    except ImportError as error:
        raise KernelError(f"Triton cannot be imported ({error}); install it, or use backend='blockwise'") from error
    reason = refusal(call, request)
    if reason is not None:
        raise KernelError(f"backend 'triton' cannot compute this call: {reason}; take 'blockwise'")
    return triton_decode(call, request)


BACKENDS = {"triton": _split, "blockwise": decode_blocks, "reference": decode_reference}


def decode_statistics(call: Attention, request: DecodeRequest | None = None, *, backend: str = "auto") -> Decoded:
    """Output and statistics of a few queries against all their keys, without gradients.

    backend: "triton" (split over the keys), "blockwise" (torch, any device), "reference" (dense float64), or "auto":
    what `chosen` says. Raises KernelError for a call that does not fit together, a backend that does not exist, or
    one that cannot compute this call: it is never handed to another backend unasked.
    """
    request = DecodeRequest() if request is None else request
    validate_decode(call, request)
    name = chosen(call) if backend == "auto" else backend
    if name not in BACKENDS:
        raise KernelError(f"backend {backend!r} does not exist; wanted one of auto, {', '.join(BACKENDS)}")
    return BACKENDS[name](call, request)


def chosen(call: Attention) -> str:
    """What "auto" means for this call: "triton" on a CUDA device, "blockwise" everywhere else."""
    return "triton" if call.q.device.type == "cuda" else "blockwise"
