"""The choices of the GPU passes that matter, so that each can be compiled without a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from probe.kernels.triton_config import KERNELS, ROW_FIELDS, Configuration, Facts, configure


def configurations(capability: int = 90) -> list[Configuration]:
    """Every width and dtype with the full set of cheap statistics, and every feature at the commonest width.

    The launcher takes features in any combination; each one's code is in at least one of these.
    """
    base = Facts(capability=capability)
    widths = (16, 32, 64, 80, 96, 128, 192, 256)
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    named: list[tuple[str, str, Facts]] = []
    for dtype in dtypes:
        for width in widths:
            sized = replace(base, D=width, DV=width, dtype=dtype)
            named += [(kernel, f"{kernel} D{width} {dtype}".replace("torch.", ""), sized) for kernel in KERNELS]
    for width in (64, 128):
        sized = replace(base, D=width, DV=width)
        for name, changes in ROW_FEATURES.items():
            named.append(("rows", f"rows D{width} {name}", replace(sized, **changes)))
        for name, changes in COLUMN_FEATURES.items():
            named.append(("columns", f"columns D{width} {name}", replace(sized, **changes)))
    return [replace(configure(kernel, facts), label=label) for kernel, label, facts in named]


_RULES: dict[str, dict[str, Any]] = {
    "bidirectional": {"causal": False, "classes": False, "fields": ("lse", "entropy", "max_weight", "first")},
    "window": {"windowed": True},
    "documents": {"packed": True},
    "padding": {"padded": True},
    "soft cap": {"capped": True},
    "slopes": {"sloped": True},
    "temperature": {"tempered": True},
    "sigmoid": {"sigmoid": True, "fields": ("first", "previous", "current", "local", "row_mass")},
}

_EVERY_RULE = {
    "windowed": True, "packed": True, "padded": True, "capped": True, "sloped": True, "tempered": True,
}  # fmt: skip

SCAN: dict[str, Any] = {"fields": ROW_FIELDS, "lookups": 2}
"""What a scan asks of pass 1."""

ROW_FEATURES: dict[str, dict[str, Any]] = {
    **_RULES,
    "output and lse": {"classes": False, "partials": False, "fields": ("lse",)},
    "no head shared": {"group": 1},
    "groups of three": {"group": 3},
    "learned sink": {"learned": True},
    "every field": {"fields": ROW_FIELDS},
    "argmax": {"argmax": True},
    "two lookups": {"lookups": 2},
    "parts": {"parts": True},
    "effects": {"effects": True, "mean": True},
    "scan": SCAN,
    "every rule": {**_EVERY_RULE, "learned": True},
    "scan, every rule": {**SCAN, **_EVERY_RULE, "learned": True},
    "everything": {
        "fields": ROW_FIELDS, "argmax": True, "lookups": 4, "parts": True, "effects": True, "mean": True,
    },
}  # fmt: skip

COLUMN_FEATURES: dict[str, dict[str, Any]] = {
    **_RULES,
    "maximum": {"peak": True},
    "values": {"value": True},
    "counts": {"counts": 2},
    "thumbnail": {"bands": 64},
    "every rule": {**_EVERY_RULE, "bands": 64},
    "everything": {"peak": True, "value": True, "counts": 3, "bands": 64},
}
