"""Are the checks of the decoding kernels sharp? Each small mistake in their source must be caught by fast calls."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from probe.kernels.decode_testing import assert_decoded_close
from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.testing import MismatchError
from probe.kernels.triton_decode import Tile
from probe.kernels.triton_jit import interpreted
from tests.kernels.decoding import decoding, first, tied, tied_keys

CHAIN = ("top", "decode", "decode_merge", "decode_launch")
"""The modules of decoding, each importing only those before it."""

Decode = Callable[[Attention, DecodeRequest], Decoded]

MUTANTS = {
    "the rescale is dropped": ("decode", "output * alpha[:, None]", "output"),
    "the sum is not rescaled": ("decode", "total = total * alpha", "total = total"),
    "the entropy is not rebased": ("decode", "(surprise + (m - new) * total) * alpha", "surprise * alpha"),
    "the window is one short": ("decode", "column[None, :] >= low[:, None]", "column[None, :] > low[:, None]"),
    "a query sees the next key": ("decode", "column[None, :] < high[:, None]", "column[None, :] <= high[:, None]"),
    "tiles are left out too soon": ("decode", "tl.max(tl.where(high > low, high, 0), 0)", "tl.min(high, 0)"),
    "the query head serves as key head": ("decode", "k += b * sk_b + g * sk_g", "k += b * sk_b"),
    "heads and queries in the wrong order": (
        "decode", "row // T), row % T", "row % (n_rows // T)), row // (n_rows // T)",
    ),
    "the sinks are one more": ("decode", "column - first < sinks", "column - first <= sinks"),
    "sinks in the window count twice": ("decode", "& (column - first >= sinks)[None, :]", ""),
    "the kept window is one wider": ("decode", "(gap < window)", "(gap <= window)"),
    "padding is not known to the sinks": ("decode", "is_sink = (column - first", "is_sink = (column"),
    "a later tile wins a tie": ("decode", "largest > m,", "largest >= m,"),
    "the argmax is of the tile": ("decode", "lowest, best)", "lowest - start, best)"),
    "the temperature is forgotten": ("decode", "row_factor /= ", "row_factor * "),
    "the slope of another head": ("decode", "tl.load(slopes + head", "tl.load(slopes + head * 0"),
    "documents of another query": ("decode", "starts += b * T - offset", "starts += b * T - offset - t"),
    "keys of equal score are turned round": ("top", "(column ^ LOW)", "column"),
    "negative scores rank in reverse": ("top", "bits = bits ^ ((bits >> 31) & LOW)\n    packed", "packed"),
    "a hidden key is kept": ("top", "tl.where(seen, packed, NONE)", "packed"),
    "runs do not turn": ("top", "turned = turned ^ (number >> STAGE)", "turned = turned"),
    "the last exchange is left out": ("top", "tl.static_range(STAGE)", "tl.static_range(STAGE - 1)"),
    "base e for base 2 in the merge": ("decode_merge", "alpha = tl.exp2(m - largest)", "alpha = tl.exp(m - largest)"),
    "merged sums are not rescaled": ("decode_merge", "mass = tl.sum(own * alpha, 0)", "mass = tl.sum(own, 0)"),
    "merged outputs are not rescaled": ("decode_merge", "values * shrunk[:, None]", "values"),
    "the merged entropy is not moved": ("decode_merge", " + own * (m - largest)", ""),
    "the last split is not merged": ("decode_merge", "there = part < splits", "there = part < splits - 1"),
    "the last output is not merged": ("decode_merge", "mask=(some < splits)", "mask=(some < splits - 1)"),
    "outputs of the first step only": ("decode_merge", "range(0, splits, STEP)", "range(0, STEP, STEP)"),
    "lists of the first step only": ("decode_merge", "range(0, splits, LISTS)", "range(0, LISTS, LISTS)"),
    "lists meet that rise too": ("decode_merge", "turn == 0, TOP - 1 - n[None, :]", "turn == 0, n[None, :]"),
    "the later of equal splits wins": (
        "decode_merge", "tl.min(tl.where((m == largest) & (key >= 0), key, 0x7FFFFFFF), 0)",
        "tl.max(tl.where((m == largest) & (key >= 0), key, -1), 0)",
    ),
    "the log-sum-exp stays in base 2": ("decode_merge", "(normal + tl.log2(total)) * LN2", "(normal + tl.log2(total))"),
    "the entropy stays in base 2": ("decode_merge", "surprise * inverse) * LN2", "surprise * inverse)"),
    "no learned sink": ("decode_merge", " + tl.exp2(logit - normal)", ""),
    "the learned sink in base e": ("decode_merge", "tl.load(learned + head) * LOG2E", "tl.load(learned + head)"),
    "the learned sink of another head": ("decode_merge", "tl.load(learned + head)", "tl.load(learned + t)"),
    "the entropy is not moved to the sink": (
        "decode_merge", "(surprise + mass * (largest - normal)) * tl.exp2", "surprise * tl.exp2",
    ),
    "another order of heads and queries": ("decode_merge", "line % T, line // T % H", "line // H % T, line % H"),
    "the last partial split is not begun": ("decode_launch", "_ceiling(high - low, chunk)", "(high - low) // chunk"),
}  # fmt: skip


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str, str], Decode]:
    """`triton_decode` from copies of its modules, a fragment of one replaced; nothing outside the copies changes.

    The copies are files: Triton reads a function's source where it was written.
    """

    def make(changed: str, right: str, wrong: str) -> Decode:
        for name in CHAIN:
            found = importlib.util.find_spec(f"probe.kernels.triton_{name}")
            assert found is not None
            assert found.origin is not None
            source = Path(found.origin).read_text(encoding="utf-8")
            if name == changed:
                assert right in source, f"{right!r} is no longer in {name}: state the mutant anew"
                source = source.replace(right, wrong)
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
        sys.modules["mutated_decode_merge"].__dict__.update(STEP=2, LISTS=2)
        launch = sys.modules["mutated_decode_launch"].__dict__
        launch.update(LEAST_KEYS=32, tile_of=lambda rows, call, top: Tile(16, 16, 4, 2))
        decode: Decode = launch["triton_decode"]
        return decode

    return make


REQUEST = DecodeRequest(sinks=3, window=20, top=2)


def every_rule() -> Attention:
    """Two sequences, two heads of a group, two queries on 70 keys; one query in padding, one alone in a document."""
    call = first(decoding("everything", T=2, S=70), groups=1)
    assert call.score.sinks is not None
    assert call.score.temperature is not None
    mask = replace(
        call.mask,
        lengths=torch.tensor([[0, 69], [55, 70]]),
        documents=(torch.arange(70) >= torch.tensor([[10], [69]])).long(),
        window=50,
    )
    score = replace(call.score, sinks=call.score.sinks + 2, temperature=call.score.temperature[:, :2])
    return replace(call, mask=mask, score=score)


def notices(decode: Decode) -> bool:
    """Whether one of a few small calls differs from the definition: splits of two tiles, the last one partial."""
    sinks = first(decoding("learned sinks", T=1, S=40), sequences=1)
    tie = first(tied(100), sequences=1, groups=1)
    with interpreted():
        try:
            for call in (every_rule(), sinks, tie):
                assert_decoded_close(decode(call, REQUEST), call, REQUEST)
        except MismatchError:
            return True
        found = decode(tie, DecodeRequest(top=16))
    keys = [found.top_key[0, head, 2].tolist() for head in (0, 1)]
    return keys != list(tied_keys(16, 100)) or found.argmax[0, :, 2].tolist() != [keys[0][0], keys[1][0]]


def test_the_copy_itself_passes(copied: Callable[[str, str, str], Decode]) -> None:
    assert not notices(copied("", "", ""))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_caught(name: str, copied: Callable[[str, str, str], Decode]) -> None:
    assert notices(copied(*MUTANTS[name]))
