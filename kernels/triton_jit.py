"""Triton functions: one typed decorator, and a way to run them on a CPU through Triton's interpreter.

Triton decides at import whether functions are compiled or interpreted (TRITON_INTERPRET=1). `interpreted()` makes that
choice for a block of code instead, so that one process can compile for a GPU and check results on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from inspect import signature
from types import FunctionType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from probe.kernels.validate import KernelError

_inside = 0


PLAIN = (
    "B", "G", "H", "T", "S", "blocks", "last", "final", "offset", "window", "kept_sinks", "kept_window", "steps",
    "n_rows", "key_from", "key_to", "chunk", "splits", "mask_window", "sinks",
)  # fmt: skip
"""Arguments whose value must not choose the code: each new length of a text would compile the kernels anew."""


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit` with a type: launched as `kernel[grid](...)`, or called from another such function."""
    names = signature(function).parameters
    return triton.jit(do_not_specialize=[name for name in PLAIN if name in names])(function)


OLDEST = 80
"""Capability 8.0, A100: earlier GPUs have neither bfloat16 nor asynchronous copies."""


def capability(device: torch.device) -> int:
    """80 for sm_80; 90 where the device is no GPU, for what is only compiled or interpreted."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def unfit(device: torch.device) -> str | None:
    """Why kernels cannot run on tensors of a device here; None where they can."""
    if device.type != "cuda" and not is_interpreted():
        return f"the triton backend runs on CUDA but q is on {device}"
    if device.type == "cuda" and is_interpreted():
        return f"Triton's interpreter (TRITON_INTERPRET) runs on the CPU but q is on {device}"
    if capability(device) < OLDEST:
        return f"{device} has capability {capability(device) / 10}, the triton backend wants {OLDEST / 10} or more"
    return None


def start(function: Any, grid: tuple[int, ...], device: torch.device, **arguments: Any) -> None:
    """Launch on the device of the tensors, whichever is current. Raises KernelError where a tile does not fit it."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        try:
            function[grid](**arguments)
        except OutOfResources as error:
            raise KernelError(
                f"{function.__name__} does not fit {device}: {error}; use backend='blockwise'"
            ) from error


def is_interpreted() -> bool:
    """Whether kernels launched now run in the interpreter, on CPU tensors."""
    return bool(_inside) or os.environ.get("TRITON_INTERPRET") == "1"


@contextmanager
def interpreted() -> Iterator[None]:
    """Run every kernel launched inside through Triton's interpreter (numpy, one program after the other).

    Orders of magnitude slower than a compiled kernel: for checks of small shapes. Nothing stays changed afterwards.
    Reaches into Triton's interpreter (3.6 to 3.9), because its own switch acts only before triton is imported.
    """
    global _inside
    if is_interpreted():
        yield
        return
    from triton.runtime import interpreter

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return made(self).run(*args, **kwargs)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return made(self).rewrite()(*args, **kwargs)

    functions: dict[Any, Any] = {}

    def made(function: Any) -> Any:
        if function.fn not in functions:
            functions[function.fn] = interpreter.InterpretedFunction(function.fn)
        return functions[function.fn]

    # Kernels patch `tl` for the time of a launch; the library's own functions also need `tl.core` patched.
    options = interpreter.interpreter_builder.options
    scope = interpreter._patch_lang(FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core}))
    # Its check of every integer for overflow is half of the time; offsets are 64 bits wide where they can be large.
    interpreter.interpreter_builder.options = replace(options, sanitize_overflow=False)
    _inside += 1
    try:
        # As on a GPU, infinity and NaN arise in rows that are never written, without a word.
        with (
            patch.object(JITFunction, "__call__", call),
            patch.object(JITFunction, "run", run),
            np.errstate(all="ignore"),
        ):
            yield
    finally:
        _inside -= 1
        interpreter.interpreter_builder.options = options
        scope.restore()
