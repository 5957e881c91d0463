"""What a device does at best, as measured: products, exponentials, bytes. The floors of `measuring` stand on it."""

from __future__ import annotations

import torch
import triton.language as tl

from probe.kernels.triton_jit import jit
from tests.benchmarks.measuring import Clock, Rates


@jit
def exponentials_kernel(out: tl.tensor, STEPS: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Nothing but exponentials: STEPS of them in a row for each of BLOCK numbers of a program."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = at.to(tl.float32) * 1e-9 - 1.0
    for _ in range(STEPS):
        x = tl.exp2(x) - 2.0  # stays between −2 and −1
    tl.store(out + at, x)


BLOCK, STEPS = 1024, 256


def exponentials(out: torch.Tensor) -> None:
    """`STEPS` exponentials for each number of `out`, float32, a multiple of `BLOCK` of them."""
    exponentials_kernel[(out.numel() // BLOCK,)](out, STEPS=STEPS, BLOCK=BLOCK, num_warps=4)


def rates(
    device: torch.device,
    clock: Clock,
    *,
    dtype: torch.dtype,
    size: int = 8192,
    copied: int = 2**30,
    programs: int = 8192,
) -> Rates:
    """A product of two [size, size] matrices, `programs` x 1,024 x 256 exponentials, a copy of `copied` bytes."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = clock.time(lambda: a @ b)
    out = torch.empty(BLOCK * programs, dtype=torch.float32, device=device)
    powers = clock.time(lambda: exponentials(out))
    source = torch.empty(copied, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    copy = clock.time(lambda: target.copy_(source))
    return Rates(2 * size**3 / product.median, out.numel() * STEPS / powers.median, 2 * copied / copy.median)
