"""Are the checks of the GPU kernels sharp? Each small mistake in their source must be caught by one fast call."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probe.kernels.inputs import Attention, Lookup, Request
from probe.kernels.statistics import Statistics
from probe.kernels.testing import MismatchError
from probe.kernels.triton_jit import interpreted

CHAIN = (
    "tiles", "sweep", "row_ends", "rows", "columns", "distances", "config", "passes", "arguments", "launch", "backend",
)  # fmt: skip
"""The modules of the backend, each importing only those before it."""


@dataclass(frozen=True)
class Mutant:
    module: str
    right: str
    wrong: str
    rule: str = "causal"


MUTANTS = {
    "the output is not rescaled": Mutant("sweep", "acc = acc * alpha[:, None]", "acc = acc * 1.0"),
    "the sum is not rescaled": Mutant("sweep", "norm = norm * alpha + added", "norm = norm + added"),
    "the entropy is not rebased": Mutant("sweep", "(surprise + norm * (m - new)) * alpha", "surprise * alpha"),
    "the joined sums are not rescaled": Mutant("sweep", "l1 * a + l2 * b", "l1 + l2"),
    "< for <=": Mutant("tiles", "tl.minimum(high, position + 1)", "tl.minimum(high, position)"),
    "a query sees the next key": Mutant("tiles", "tl.minimum(high, position + 1)", "tl.minimum(high, position + 2)"),
    "a key is not seen by its own query": Mutant("tiles", "tl.maximum(low, column)", "tl.maximum(low, column + 1)"),
    "the window is one too wide": Mutant("tiles", "position - window + 1", "position - window", "window 17"),
    "documents have no end": Mutant(
        "tiles",
        "high = tl.minimum(high, tl.load(stops_ptr + column",
        "(tl.load(stops_ptr + column",
        "documents",
    ),
    "tiles at the edge have no mask": Mutant(
        "tiles", "tl.maximum(outer - whole, 0) // BLOCK", "(tl.maximum(outer - whole, 0) + BLOCK - 1) // BLOCK"
    ),
    "the last partial block of rows is forgotten": Mutant(
        "launch",
        "blocks = _ceiling(T * facts.group, made.tiles.rows)",
        "blocks = T * facts.group // made.tiles.rows",
    ),
    "the last partial tile of keys is forgotten": Mutant(
        "rows",
        "tl.static_range(3)",
        "tl.static_range(2)",
        "bidirectional",
    ),
    "base 2 for natural logarithms": Mutant("arguments", "LOG2E = 1.4426950408889634", "LOG2E = 1.0"),
    "the log-sum-exp stays in base 2": Mutant("rows", "(top + log_total) * LN2", "(top + log_total)"),
    "query head for key head": Mutant(
        "rows",
        "k_ptr += long_b * stride_kb + g.to(tl.int64) * stride_kg",
        "k_ptr += long_b * stride_kb + (g * GROUP % G).to(tl.int64) * stride_kg",
        "groups",
    ),
    "values of the first key head": Mutant(
        "rows",
        "v_ptr += long_b * stride_vb + g.to(tl.int64) * stride_vg",
        "v_ptr += long_b * stride_vb",
        "groups",
    ),
    "the columns' key head is the query head": Mutant(
        "columns",
        "g = h // GROUP",
        "g = tl.minimum(h, H // GROUP - 1)",
        "groups",
    ),
    "no learned sink": Mutant(
        "row_ends", "spent = tl.exp2(logit - top)", "spent = tl.exp2(logit - top) * 0", "learned sinks"
    ),
    "the kept sinks are skipped": Mutant(
        "rows",
        "keep = tl.dot((p_sink * a_sink[:, None]).to(v.dtype), v, keep, input_precision=PRECISION)",
        "keep = keep * 1.0",
    ),
    "sinks in the window count as local too": Mutant(
        "rows",
        "share_local + near_sink * a_sink * scale_keep",
        "share_local + share_sink",
    ),
    "another head's effects": Mutant(
        "rows",
        "(head - g * GROUP)[:, None] == lane[None, :]",
        "(head - g * GROUP + 1)[:, None] % GROUP == lane[None, :]",
    ),
    "a removed sink is not made up for": Mutant("rows", "along_sink - moved)", "along_sink)"),
    "streaming keeps what it drops": Mutant("rows", "along_rest - instead)", "along_rest)"),
    "another lookup's labels": Mutant("sweep", "labels[n][:, None] ==", "labels[LOOKUPS - 1 - n][:, None] =="),
    "the gap is off by one": Mutant("sweep", "distance >= tl.load(gap_ptr + n)", "distance > tl.load(gap_ptr + n)"),
    "labels below 0 match": Mutant("arguments", "torch.where(key < 0, -2, key)", "torch.where(key < 0, -1, key)"),
    "the temperature multiplies": Mutant(
        "rows",
        "factor = factor / tl.load",
        "factor = factor * tl.load",
        "temperature",
    ),
    "the slope rises": Mutant("tiles", "s -= slope", "s += slope", "slopes"),
    "tanh is cut short": Mutant(
        "tiles",
        "tl.where(tl.abs(x) < 0.7, near, far)",
        "tl.where(tl.abs(x) < 0.7, x, far)",
        "soft cap",
    ),
    "the smallest share for the largest": Mutant(
        "columns",
        "tl.maximum(peak, tl.max(p, 1))",
        "tl.maximum(peak, tl.min(p, 1))",
    ),
    "counts of one tile": Mutant("columns", "(counts[number] + tl.sum(above, 1),)", "(tl.sum(above, 1),)"),
    "bands start anew in each tile": Mutant(
        "columns",
        "tl.where(held == band, state[1], 0.0)",
        "tl.where(held == -2, state[1], 0.0)",
        "bands",
    ),
    "query 0 is in the distances": Mutant(
        "distances", "tl.maximum(first + 1 - offset, 0)", "tl.maximum(first - offset, 0)"
    ),
    "distances are off by one": Mutant("distances", "(x[None, :] - x[:, None]) &", "(x[None, :] - x[:, None] + 1) &"),
    "diagonals cut the rows at places of their own": Mutant(
        "distances",
        "base + tl.maximum(first + apart - offset - base, 0) // BLOCK * BLOCK",
        "base + tl.maximum(first + apart - BLOCK + 1 - offset - base, 0)",
        "decoding",
    ),
    "a diagonal keeps what is its neighbour's": Mutant("distances", "tl.where(own, 0.0, turned)", "turned * 0.0"),
    "a band begins at the block": Mutant(
        "columns",
        "tl.maximum(start, first + (band * n + BANDS - 1) // BANDS)",
        "start",
        "bands",
    ),
    "rows past the band are met": Mutant(
        "columns", "mask=real, other=float(\"inf\")", "mask=real, other=0.0", "bands"
    ),
    "halves change places": Mutant("row_ends", "total = tl.sum(left * y", "total = tl.sum(right * y"),
    "a mean's other columns": Mutant("row_ends", "e = begin + tl.arange(0, 16)", "e = tl.arange(0, 16)", "wide"),
}  # fmt: skip


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Mutant | None], Callable[..., object]]:
    """The backend from a copy of its source, one fragment of it replaced; nothing outside the copy changes.

    The copies are files: Triton reads a function's source where it was written.
    """

    def make(mutant: Mutant | None) -> Callable[..., object]:
        for name in CHAIN:
            found = importlib.util.find_spec(f"probe.kernels.triton_{name}")
            assert found is not None
            assert found.origin is not None
            source = Path(found.origin).read_text(encoding="utf-8")
            if mutant is not None and mutant.module == name:
                assert mutant.right in source, f"{mutant.right!r} is no longer in {name}: state the mutant anew"
                source = source.replace(mutant.right, mutant.wrong)
            for other in CHAIN:
                source = source.replace(f"from probe.kernels.triton_{other} import", f"from mutated_{other} import")
            file = tmp_path / f"mutated_{name}.py"
            file.write_text(source, encoding="utf-8")
            spec = importlib.util.spec_from_file_location(f"mutated_{name}", file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, f"mutated_{name}", module)
            spec.loader.exec_module(module)
        fused = sys.modules["mutated_backend"].__dict__["fused"]

        def run(call: Attention, request: Request) -> tuple[Tensor, Statistics]:
            with interpreted():
                made: tuple[Tensor, Statistics] = fused(call, request)
            return made

        return run

    return make


Case = tuple[Attention, Request]


@pytest.fixture(scope="module")
def case_of(call: Callable[..., Attention], more_for: Callable[..., Request]) -> Callable[[str], Case]:
    """A small call that uses a rule: more rows and keys than a tile, and no whole number of them."""

    def make(rule: str) -> Case:
        settings: dict[str, Any] = {"groups": 2, "ratio": 2, "B": 1} if rule == "groups" else {"groups": 1, "ratio": 2}
        padded = rule in ("documents", "temperature")
        named = "causal" if rule in ("groups", "bands", "wide") else rule
        settings |= {"D": 32} if rule == "wide" else {}
        made = call(40, **{"B": 2 if padded else 1, **settings}, rule=named)
        parts = rule != "causal"
        distances = rule in ("causal", "decoding")
        request = more_for(made, bands=3 if rule == "bands" else 0, parts=parts, distances=distances)
        # One label that nothing matches on either side, and a gap wider than the window.
        place = torch.arange(made.k.shape[2])[None].expand(made.q.shape[0], -1)
        near, far = place % 4 - 1, place % 5 - 1
        lookups = {"near": Lookup(near[:, -40:], near, gap=1), "far": Lookup(far[:, -40:], far, gap=15)}
        return made, replace(request, lookups=lookups)

    return make


@pytest.mark.parametrize("rule", sorted({mutant.rule for mutant in MUTANTS.values()}))
def test_the_copy_itself_passes(
    rule: str,
    copied: Callable[[Mutant | None], Callable[..., object]],
    case_of: Callable[[str], Case],
    check: Callable[..., dict[str, float]],
) -> None:
    check(*case_of(rule), copied(None))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_caught(
    name: str,
    copied: Callable[[Mutant | None], Callable[..., object]],
    case_of: Callable[[str], Case],
    check: Callable[..., dict[str, float]],
) -> None:
    made, request = case_of(MUTANTS[name].rule)
    with pytest.raises(MismatchError):
        check(made, request, copied(MUTANTS[name]))
