"""Are the checks of the compiled stage sharp? Its source runs as plain Python, each small mistake must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Mask, Request
from probe.kernels.testing import MismatchError

pytest.importorskip("numba")
from probe.kernels import numba_stage

DECORATOR = "from probe.kernels.numba_compile import compiled"

MUTANTS = {
    "a query does not see itself": ("min(stop, position + 1)", "min(stop, position)"),
    "a query sees the next key": ("min(stop, position + 1)", "min(stop, position + 2)"),
    "the window is one too wide": ("position - place.all.window + 1", "position - place.all.window"),
    "a bidirectional window is one too wide": (
        "min(stop, position + place.all.window)", "min(stop, position + place.all.window + 1)"
    ),
    "keys behind the window keep their scores": ("work.w[line, place.all.pad : at + first] = ZERO", "pass"),
    "keys after the query keep their scores": ("work.w[line, at + stop : at + place.high] = ZERO", "pass"),
    "the smallest score for the largest": ("best = max(best", "best = min(best"),
    "negative scores order backwards": ("& MAGNITUDE", "& np.int32(0)"),
    "the maximum is not subtracted": ("below = w[x] - shift", "below = w[x] - ZERO * shift"),
    "a wrong coefficient": ("f * (C4 + f * C5)", "f * (C4 + f * C4)"),
    "no learned sink": ("total = mass + learned", "total = mass"),
    "one learned sink for all heads": ("given.learned[h]", "given.learned[0]"),
    "a blind query weighs every key": ("if shift == HIDDEN:", "if False:"),
    "distances from the next row": ("- place.start + first", "- place.start + first + 1"),
    "one of four rows twice": ("two * b[x]", "two * a[x]"),
    "the last of four rows is forgotten": ("+ four * d[x]", "+ ZERO * d[x]"),
    "four rows by distance in one column": ("at + low, at + high, 1)", "at + low, at + high, 0)"),
    "the last row of four at every distance": ("share[x], w[line + x, at + begin", "share[0], w[line + x, at + begin"),
    "query 0 is in the distances": ("share[0] = ZERO", "share[0] *= ONE"),
    "the previous token is the token itself": ("row[at + position - 1]", "row[at + position]"),
    "the local mass is one too wide": ("position - place.all.near + 1", "position - place.all.near"),
    "sinks are in the window's output": ("near = max(near, place.all.sinks)", "near = max(near, 0)"),
    "the last sink has no output": ("min(place.all.sinks, stop)", "min(place.all.sinks - 1, stop)"),
    "values of the first keys": ("given.v[near:stop]", "given.v[: stop - near]"),
    "an eighth key is left out": ("+ h * v[j + 7, x]", "+ h * v[j + 6, x]"),
    "labels of the first strip": ("given.stop[n, place.start + k]", "given.stop[n, k]"),
    "one lookup for all": ("given.order[n, x]]", "given.order[0, x]]"),
    "thumbnail bands round down": ("-(-cell * place.all.n_keys // place.all.bands)",
                                   "cell * place.all.n_keys // place.all.bands"),
    "rows of the next band are added once more": ("column[key] = ZERO", "column[key] *= ONE"),
    "distances of the next head begin with these": ("work.profile[x] = ZERO", "work.profile[x] *= ONE"),
    "the output is not normalised": ("line[x] * inverse[h, k]", "line[x]"),
    "the first head's output for all": ("output[h * rows + k]", "output[k]"),
}  # fmt: skip

Cases = list[tuple[Attention, Request]]


@pytest.fixture
def as_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Put the stage's own source, one fragment of it replaced, where the stage calls the compiled functions."""
    found = find_spec("probe.kernels.numba_strip")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).read_text(encoding="utf-8")

    def put(right: str, wrong: str) -> None:
        assert right in source, f"{right!r} is no longer in numba_strip: state the mutant anew"
        plain = source.replace(right, wrong).replace(DECORATOR, "compiled = lambda *flags: lambda function: function")
        module = ModuleType("mutated")
        exec(compile(plain, str(found.origin), "exec"), module.__dict__)
        for name in ("run_strip", "write_output"):
            monkeypatch.setattr(numba_stage, name, module.__dict__[name])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what numpy warns of is set by thread
    with np.errstate(all="ignore"):
        yield put
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cases(call: Callable[..., Attention], request_for: Callable[..., Request]) -> Cases:
    """Small calls that between them use every rule; few, as plain Python takes 20 µs an entry."""
    calls = [
        call(21, B=1, groups=1),
        call(23, rule="window 17", B=1, groups=1),
        call(13, rule="learned sinks", B=1, groups=1),
        call(19, rule="bidirectional window", B=1, groups=1),
        call(9, rule="nothing seen", B=1, groups=1),
        call(20, B=1, groups=1, ratio=32, D=4),  # two strips
    ]
    decoding = call(6, rule="decoding in a window", B=1, groups=1)
    padded = replace(call(14, groups=1), mask=Mask(lengths=torch.tensor([[0, 14], [5, 12]])))
    calls += [decoding, padded]
    return [(made, request_for(made, bands=5)) for made in calls]


@pytest.fixture(scope="module")
def stage() -> numba_stage.NumbaStage:
    return numba_stage.NumbaStage()


def test_the_source_itself_passes(
    as_python: Callable[[str, str], None], cases: Cases, check: Callable[..., dict[str, float]],
    stage: numba_stage.NumbaStage,
) -> None:  # fmt: skip
    as_python(DECORATOR, DECORATOR)
    for made, request in cases:
        check(made, request, lambda call, asked: blockwise(call, asked, stage))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_caught(
    name: str, as_python: Callable[[str, str], None], cases: Cases, check: Callable[..., dict[str, float]],
    stage: numba_stage.NumbaStage,
) -> None:  # fmt: skip
    as_python(*MUTANTS[name])
    with pytest.raises(MismatchError):  # noqa: PT012 -- which of the calls notices does not matter
        for made, request in cases:
            check(made, request, lambda call, asked: blockwise(call, asked, stage))
