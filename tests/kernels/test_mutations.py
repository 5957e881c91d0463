"""Are the checks sharp? Each small mistake in the kernels' source must be caught by a few fast calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from probe.kernels import reference
from probe.kernels.inputs import Attention, Lookup, Mask, Request
from probe.kernels.testing import MismatchError

CHAIN = ("sequences", "scores", "strips", "lookup", "raw", "sums", "stages", "torch_stage", "sweep", "blockwise")
"""The modules of the sweep, each importing only those before it."""


@dataclass(frozen=True)
class Mutant:
    module: str
    right: str
    wrong: str


MUTANTS = {
    "a query does not see itself": Mutant("strips", "square.triu(1)", "square.triu(0)"),
    "a query sees the next key": Mutant("strips", "square.triu(1)", "square.triu(2)"),
    "the window's edge is one short": Mutant("strips", "square.tril(-1)", "square.tril(0)"),
    "the window is one too wide": Mutant(
        "sequences", "max(low, position - self.window + 1)", "max(low, position - self.window)"
    ),
    "a bidirectional window is one too wide": Mutant(
        "strips", "columns >= positions + sequence.window", "columns > positions + sequence.window"
    ),
    "only the last tile is summed": Mutant("strips", "mass += p_tile", "mass = p_tile"),
    "the values of the first tile serve all": Mutant("strips", "v[low + tile : low + tile +", "v[low : low +"),
    "no learned sink": Mutant("strips", "total = mass + torch.exp2(learned - m)[:, 0]", "total = mass"),
    "natural logarithms for base 2": Mutant("scores", "or sequence.score.sigmoid else LOG2E", "or True else LOG2E"),
    "the same after a soft cap": Mutant("scores", "out *= LOG2E", "out *= 1.0"),
    "the maximum is not subtracted": Mutant("strips", "s_tile -= m", "s_tile -= 0 * m"),
    "a blind query weighs every key": Mutant("strips", "if empty is not None:", "if False:"),
    "the first key head serves all": Mutant("scores", "sequence.k[group]", "sequence.k[0]"),
    "the first value head serves all": Mutant("scores", "sequence.v[group]", "sequence.v[0]"),
    "queries of the wrong group": Mutant(
        "scores", "sequence.q[group * r : (group + 1) * r].to", "sequence.q[:r].to"
    ),
    "the bias does not know of padding": Mutant(
        "scores",
        "torch.arange(rows.start, rows.stop, device=s.device) + sequence.first_row\n",
        "torch.arange(rows.start, rows.stop, device=s.device)\n",
    ),
    "the mask does not know the offset": Mutant("strips", " + sequence.padded_offset", ""),
    "masks and biases of the first heads": Mutant(
        "scores", "block[group * r : (group + 1) * r] if", "block[:r] if"
    ),
    "distances are off by one": Mutant("strips", "- (distances - 1)", "- distances"),
    "the gap of a lookup is off by one": Mutant("lookup", "offset - lookup.gap", "offset - lookup.gap - 1"),
    "labels below 0 match": Mutant("lookup", "(self.query >= 0) & (self.last >= 0)", "self.last >= 0"),
    "a window shifts the pairs": Mutant("lookup", "within] - strip.low", "within]"),
    "the first sequence's labels": Mutant("lookup", "lookup.key_label[b, ", "lookup.key_label[0, "),
    "many pairs are turned round": Mutant("lookup", "weights * self._match", "weights * ~self._match"),
    "the last partial strip is forgotten": Mutant(
        "sweep",
        "way * step, item.sequence.n_rows, ",
        "way * step, item.sequence.n_rows - item.sequence.n_rows % step, ",
    ),
    "query 0 is in the distances": Mutant("torch_stage", "inverse[:, 0] = 0", "inverse[:, 0] *= 1"),
    "the kept window is one short": Mutant(
        "torch_stage", "- sums.item.request.window + 1", "- sums.item.request.window + 2"
    ),
    "the local mass is one too wide": Mutant(
        "torch_stage", "n - sums.item.request.window)", "n - 1 - sums.item.request.window)"
    ),
    "the previous token is the token itself": Mutant("torch_stage", "diagonals[..., n - 2]", "diagonals[..., n - 1]"),
    "distances are joined one off": Mutant("sums", "by_distance.flip(-1)", "by_distance.flip(-1).roll(1, -1)"),
    "only the last item is joined": Mutant("sums", "keys] += self.received", "keys] = self.received"),
    "the shift stays in base 2": Mutant("raw", 'raw["shift"] * LN2', 'raw["shift"]'),
    "the entropy stays in base 2": Mutant("raw", 'raw["surprise"] * LN2', 'raw["surprise"]'),
    "sinks in the window count twice": Mutant("raw", " - self._sinks_in_window(", " - 0 * self._sinks_in_window("),
    "a sink at the window's edge": Mutant("raw", "(i - j < self.request.window)", "(i - j <= self.request.window)"),
    "distance from the strip's start": Mutant("raw", "% rows_per_strip(sequence)", "% 10**9"),
    "the mean over all rows of a band": Mutant("raw", "self.thumbnail[b] / rows", "self.thumbnail[b] / max(n, 1)"),
    "entropy of a row that sums to 1": Mutant("raw", "(mass * log_total", "(raw['total'] * log_total"),
}  # fmt: skip


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mutant | None], Callable[..., object]]:
    """The sweep from a copy of its source, one fragment of it replaced; nothing outside the copy changes."""

    def make(mutant: Mutant | None) -> Callable[..., object]:
        for name in CHAIN:
            found = find_spec(f"probe.kernels.{name}")
            assert found is not None
            assert found.origin is not None
            source = Path(found.origin).read_text(encoding="utf-8")
            if mutant is not None and mutant.module == name:
                assert mutant.right in source, f"{mutant.right!r} is no longer in {name}: state the mutant anew"
                source = source.replace(mutant.right, mutant.wrong)
            for other in CHAIN:
                source = source.replace(f"from probe.kernels.{other} import", f"from mutated.{other} import")
            module = ModuleType(f"mutated.{name}")
            monkeypatch.setitem(sys.modules, module.__name__, module)
            exec(compile(source, found.origin, "exec"), module.__dict__)
        made: Callable[..., object] = sys.modules["mutated.blockwise"].__dict__["blockwise"]
        return made

    return make


@pytest.fixture(scope="module")
def cases(call: Callable[..., Attention], request_for: Callable[..., Request]) -> list[tuple[Attention, Request]]:
    """Small calls that between them use every rule."""
    everything = call(70, rule="everything", ratio=3)
    padded = replace(everything.mask, lengths=torch.tensor([[0, 70], [23, 70]]))
    calls = [
        call(150, rule="window 17", ratio=3),
        call(150, rule="learned sinks"),
        replace(everything, mask=padded),
        replace(call(70, rule="bias"), mask=Mask(lengths=torch.tensor([[0, 70], [23, 60]]))),
        call(40, rule="bidirectional window"),
        call(40, rule="decoding in a window"),
        call(40, rule="nothing seen"),
        call(40, rule="sigmoid"),
        call(40, gain=300.0),
    ]
    packed, decoding = call(40, rule="packed"), call(40, rule="decoding")
    calls.append(replace(decoding, mask=replace(packed.mask, query_offset=9)))
    calls.append(call(1100, B=1, groups=1, ratio=1))  # longer than a tile
    pairs = [(made, request_for(made)) for made in calls]
    pairs.append((calls[0], request_for(calls[0], alphabet=60)))  # few pairs: gathered, not masked
    alike = torch.zeros(1, 300, dtype=torch.long)
    return [*pairs, (call(300, B=1, groups=1), Request(lookups={"same": Lookup(alike, alike, gap=1)}))]


def test_the_copy_itself_passes(
    copied: Callable[[Mutant | None], Callable[..., object]],
    cases: list[tuple[Attention, Request]],
    check: Callable[..., dict[str, float]],
) -> None:
    backend = copied(None)
    for made, request in cases:
        check(made, fresh(request), backend)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_caught(
    name: str,
    copied: Callable[[Mutant | None], Callable[..., object]],
    cases: list[tuple[Attention, Request]],
    check: Callable[..., dict[str, float]],
) -> None:
    backend = copied(MUTANTS[name])
    with pytest.raises(MismatchError):  # noqa: PT012 -- which of the calls notices does not matter
        for made, request in cases:
            check(made, fresh(request), backend)


def fresh(request: Request) -> Request:
    """The request without what other sweeps have found for it."""
    return replace(request, lookups={name: replace(lookup, found={}) for name, lookup in request.lookups.items()})


def test_the_truth_is_not_part_of_the_copy() -> None:
    assert not any(name in Path(reference.__file__).read_text(encoding="utf-8") for name in ("strips", "sweep"))
