"""Every kernel that a GPU call can choose: which function, with which constants, how many warps and stages.

The launcher asks `configure` what to run. Tile sizes follow what was compiled for sm_80 and sm_90 (registers, spills,
instructions a score: `tests/benchmarks/compiled.py`); none was timed on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from probe.kernels.triton_columns import columns_kernel
from probe.kernels.triton_distances import distances_kernel
from probe.kernels.triton_rows import rows_kernel

KERNELS: dict[str, Any] = {"rows": rows_kernel, "columns": columns_kernel, "distances": distances_kernel}

ROW_FIELDS = (
    "lse",
    "entropy",
    "max_weight",
    "distance",
    "first",
    "previous",
    "current",
    "local",
    "row_mass",
    "sink_mass",
    "local_mass",
)
"""Row statistics of pass 1, in the order of their slots."""

CHEAP = ("lse", "entropy", "max_weight", "distance", "first", "local", "sink_mass", "local_mass")
"""What comes with the attention at little cost: no argmax, no labels, no partial outputs."""

MAX_SINKS = 128
"""Kept sinks are one tile of keys."""

MAX_WIDTH = 256
"""Widest head: beyond it a tile of queries and its accumulator do not fit a multiprocessor."""


@dataclass(frozen=True)
class Tiles:
    """Rows and keys of a tile, warps of a program, and tiles in flight (stages of the load pipeline)."""

    rows: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Facts:
    """What of a call decides the code that runs; everything else is an argument.

    fields: row statistics to write. classes: sink and local keys are summed apart; wide: the previous key is local, so
    that the rest need not look for it. lookups: number of label lookups.
    gaps: a lookup's gap reaches beyond the local keys, so that tiles without a mask must look at it too.
    partials: head-level sums by block. effects, mean: along a direction, against a mean.
    peak, value, counts, bands: columns' maximum, value-weighted mass, thresholds, side of the thumbnail.
    capability: of the device, 80 for sm_80.
    """

    dtype: torch.dtype = torch.bfloat16
    D: int = 128
    DV: int = 128
    group: int = 4
    causal: bool = True
    windowed: bool = False
    packed: bool = False
    padded: bool = False
    capped: bool = False
    sloped: bool = False
    tempered: bool = False
    learned: bool = False
    sigmoid: bool = False
    fields: tuple[str, ...] = CHEAP
    classes: bool = True
    sinks: int = 4
    wide: bool = True
    argmax: bool = False
    parts: bool = False
    partials: bool = True
    effects: bool = False
    mean: bool = False
    lookups: int = 0
    gaps: bool = False
    received: bool = True
    peak: bool = False
    value: bool = False
    counts: int = 0
    bands: int = 0
    capability: int = 90
    interpreted: bool = False


@dataclass(frozen=True)
class Configuration:
    """One compiled kernel: its function's name, the value of every constant, the pointers that are None."""

    kernel: str
    facts: Facts
    constants: dict[str, Any]
    absent: frozenset[str]
    tiles: Tiles
    label: str = field(default="", compare=False)

    @property
    def function(self) -> Any:
        """The Triton function."""
        return KERNELS[self.kernel]

    @property
    def options(self) -> dict[str, Any]:
        """Launch options. Fused multiply-add is pinned: its default differs between versions of Triton.

        So is the most registers of a thread: left alone, the assembler takes half of them where it has to spill at all.
        """
        options = {"num_warps": self.tiles.warps, "num_stages": self.tiles.stages, "enable_fp_fusion": True}
        return {**options, "maxnreg": 255}

    def signature(self) -> dict[str, str]:
        """Type of every argument that is neither a constant nor None, in the order of the function's parameters."""
        names = [name for name in self.function.arg_names if name not in self.constants and name not in self.absent]
        return {name: self._type(name) for name in names}

    def _type(self, name: str) -> str:
        own = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}[self.facts.dtype]
        if name in ("q_ptr", "k_ptr", "v_ptr", "z_ptr", "direction_ptr"):
            return own
        integers = ("argmax", "query_label", "key_label", "gap", "lengths", "starts", "stops", "count")
        if name.endswith("_ptr"):
            return "*i32" if name.removesuffix("_ptr") in integers else "*fp32"
        return "fp32" if name in ("factor", "cap") else "i32"


def configure(kernel: str, facts: Facts) -> Configuration:
    """The kernel that serves a call of these facts."""
    tiles = tiles_for(kernel, facts)
    shared = {
        "GROUP": facts.group,
        "D": facts.D,
        "D_BLOCK": _power(facts.D),
        "WINDOWED": facts.windowed,
        "CAPPED": facts.capped,
        "PRECISION": "ieee",
        "UPCAST": facts.interpreted and facts.dtype == torch.bfloat16,
    }
    rules = {"lengths": facts.padded, "starts": facts.packed, "stops": facts.packed, "slopes": facts.sloped}
    rules["temperature"] = facts.tempered
    make = {"rows": _rows, "columns": _columns, "distances": _distances}[kernel]
    own, pointers = make(facts, tiles)
    absent = frozenset(f"{name}_ptr" for name, there in {**rules, **pointers}.items() if not there)
    return Configuration(kernel, facts, {**shared, **own}, absent, tiles)


def _rows(facts: Facts, tiles: Tiles) -> tuple[dict[str, Any], dict[str, bool]]:
    wanted = [name for name in ROW_FIELDS if name in facts.fields]
    slots = {name.upper(): wanted.index(name) if name in wanted else -1 for name in ROW_FIELDS}
    constants = {
        "DV": facts.DV,
        "DV_BLOCK": _power(facts.DV),
        "HEADS_BLOCK": _power(facts.group, 1),
        "BLOCK_M": tiles.rows,
        "BLOCK_N": tiles.keys,
        # Beside the sums of the rest, those of the local keys: smaller tiles leave registers for both.
        "LOCAL_BLOCK": max(16, tiles.keys // 2),
        "STAGES": tiles.stages,
        "LOCAL_STAGES": 2,
        "SINK_BLOCK": _power(facts.sinks),
        "WIDE": facts.classes and facts.wide,
        "CAUSAL": facts.causal,
        "SIGMOID": facts.sigmoid,
        "CLASSES": facts.classes,
        "LOOKUPS": facts.lookups,
        "GAPS": facts.gaps,
        **slots,
    }
    pointers = {
        "rows": bool(wanted),
        "argmax": facts.argmax,
        "parts": facts.parts,
        "partial": facts.partials,
        "lookup": facts.lookups > 0,
        "query_label": facts.lookups > 0,
        "key_label": facts.lookups > 0,
        "gap": facts.lookups > 0,
        "sinks": facts.learned,
        "direction": facts.effects,
        "mean": facts.mean,
    }
    return constants, pointers


def _columns(facts: Facts, tiles: Tiles) -> tuple[dict[str, Any], dict[str, bool]]:
    constants = {
        "DV": facts.DV,
        "DV_BLOCK": _power(facts.DV),
        "BLOCK_M": tiles.rows,
        "BLOCK_N": tiles.keys,
        "CAUSAL": facts.causal,
        "SIGMOID": facts.sigmoid,
        "COUNTS": facts.counts,
        "BANDS": facts.bands,
    }
    pointers = {
        "shift": not facts.sigmoid,
        "received": facts.received,
        "peak": facts.peak,
        "value": facts.value,
        "count": facts.counts > 0,
        "threshold": facts.counts > 0,
        "cells": facts.bands > 0,
    }
    return constants, pointers


def _distances(facts: Facts, tiles: Tiles) -> tuple[dict[str, Any], dict[str, bool]]:
    return {"BLOCK": tiles.rows}, {}


def tiles_for(kernel: str, facts: Facts) -> Tiles:
    """Tile sizes by width, dtype and device; tiny ones in the interpreter, so that small shapes have several.

    Those of the fewest instructions a score among the tiles that spill no register, as compiled for sm_80 and sm_90
    (Hopper, which alone takes its operands from shared memory). Other devices have the tiles of sm_80.
    """
    width = max(_power(facts.D), _power(facts.DV))
    if facts.interpreted:
        return Tiles(32, 32, 4, 2)
    if facts.dtype == torch.float32:
        # No tensor cores at full precision: whole operands in registers.
        return Tiles(16 if kernel == "rows" and width > 64 else 32, 32, 8, 2)
    hopper = facts.capability // 10 == 9
    if kernel == "rows":
        return _row_tiles(facts, width, hopper)
    if kernel == "distances":
        return Tiles(64, 64, 8, 2) if width > 64 else Tiles(64, 64, 4, 2)
    if width > 128:
        return Tiles(64, 64, 4, 2)
    more = facts.counts or facts.sloped or facts.peak or facts.capped or facts.sigmoid
    return Tiles(64 if more else 128, 128, 8, 2)


def _row_tiles(facts: Facts, width: int, hopper: bool) -> Tiles:
    if width > 128:
        return Tiles(64, 32, 8, 2)
    if facts.effects and width > 64:
        # A tile of directions beside those of z: half the rows for as many registers.
        return Tiles(64, 32, 8, 2) if hopper else Tiles(32, 64, 8, 2)
    if facts.lookups and (facts.effects or _ruled(facts)):
        return Tiles(128, 32, 8, 2)
    if hopper or width <= 64:
        return Tiles(128, 64, 8, 3 if width <= 64 or not facts.lookups else 2)
    return Tiles(128, 32, 8, 2 if facts.lookups else 3)


def _ruled(facts: Facts) -> bool:
    """Whether anything but causality shapes the rows."""
    rules = (facts.windowed, facts.packed, facts.padded, facts.capped, facts.sloped, facts.tempered, facts.learned)
    return any(rules)


def _power(n: int, least: int = 16) -> int:
    """The next power of two, and at least what a matrix product wants."""
    return max(least, 1 << max(n - 1, 0).bit_length())
