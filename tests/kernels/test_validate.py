"""Every malformed call is refused in one line that names the argument, what it is and what it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score
from probe.kernels.validate import KernelError, validate
from probe.kernels.window import pattern_window, strongest_pairs

Call = Callable[..., Attention]


def tensors(made: Attention, **changed: torch.Tensor) -> Attention:
    return replace(made, **changed)


MALFORMED: dict[str, tuple[Callable[[Attention], Attention], str]] = {
    "three axes": (lambda c: tensors(c, q=c.q[0]), r"q has shape \[4, 8, 16\]; wanted four axes"),
    "integers": (lambda c: tensors(c, k=c.k.long()), r"k is torch.int64; wanted one of float64"),
    "two dtypes": (lambda c: tensors(c, v=c.v.double()), r"v is torch.float64 .* but q is torch.float32"),
    "empty": (lambda c: tensors(c, q=c.q[:, :, :0]), r"q is empty: shape \[2, 4, 0, 16\]"),
    "other batch": (lambda c: tensors(c, k=c.k[:1], v=c.v[:1]), "do not fit"),
    "other width": (lambda c: tensors(c, k=c.k[..., :8]), "do not fit"),
    "other length": (lambda c: tensors(c, v=c.v[:, :, :7]), "do not fit"),
    "odd groups": (lambda c: tensors(c, q=c.q[:, :3]), "3 query heads over 2 key heads; wanted a whole multiple"),
    "window": (lambda c: replace(c, mask=Mask(window=0)), "window is 0; wanted at least 1"),
    "offset": (lambda c: replace(c, mask=Mask(query_offset=-1)), "query_offset is -1; wanted the position"),
    "past the end": (lambda c: replace(c, mask=Mask(query_offset=1)), "position 8, past the last of 8 keys"),
    "lengths": (lambda c: replace(c, mask=Mask(lengths=torch.zeros(3, 2))), r"lengths has shape \[3, 2\]"),
    "backwards": (
        lambda c: replace(c, mask=Mask(lengths=torch.tensor([[0, 8], [5, 3]]))),
        r"lengths are \[\[0, 8\], \[5, 3\]\]; wanted 0 <= first <= end <= 8",
    ),
    "beyond": (lambda c: replace(c, mask=Mask(lengths=torch.tensor([[0, 9], [0, 8]]))), "first <= end <= 8"),
    "soft cap": (lambda c: replace(c, score=Score(1.0, softcap=0.0)), "softcap is 0.0; wanted a positive number"),
    "sinks": (lambda c: replace(c, score=Score(1.0, sinks=torch.zeros(3))), r"sinks has shape \[3\]; wanted \[4\]"),
    "slopes": (lambda c: replace(c, score=Score(1.0, slopes=torch.zeros(3))), r"slopes has shape \[3\]; wanted \[4\]"),
    "temperature": (
        lambda c: replace(c, score=Score(1.0, temperature=torch.ones(2, 7))),
        r"temperature has shape \[2, 7\]; wanted \[2, 8\]",
    ),
    "cold": (lambda c: replace(c, score=Score(1.0, temperature=torch.zeros(2, 8))), "temperature is not positive"),
    "documents": (
        lambda c: replace(c, mask=Mask(documents=torch.zeros(2, 8))),
        r"documents is torch.float32 of shape \[2, 8\]; wanted integers \[2, 8\]",
    ),
    "falling documents": (
        lambda c: replace(c, mask=Mask(documents=torch.arange(16).view(2, 8).flip(1))),
        "documents fall somewhere",
    ),
    "documents past the end": (
        lambda c: replace(c, mask=Mask(causal=False, query_offset=1, documents=torch.zeros(2, 8, dtype=torch.long))),
        "documents name 8 positions but the last query stands at 8",
    ),
    "sigmoid sinks": (
        lambda c: replace(c, score=Score(1.0, sinks=torch.zeros(4), sigmoid=True)),
        "learned sink beside sigmoid attention is not defined",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_call_is_refused_everywhere(name: str, call: Call) -> None:
    spoil, message = MALFORMED[name]
    spoilt = spoil(call(8))
    with pytest.raises(KernelError, match=message) as refused:
        validate(spoilt, Request())
    assert "\n" not in str(refused.value)
    with pytest.raises(KernelError, match=message):
        attention_statistics(spoilt)
    with pytest.raises(KernelError, match=message):
        pattern_window(spoilt, range(1), range(1))
    with pytest.raises(KernelError, match=message):
        strongest_pairs(spoilt, 0, 1)


@pytest.mark.parametrize("wrong", [{"sinks": -1}, {"window": 0}, {"bands": -1}])
def test_a_malformed_request_is_refused(wrong: dict[str, Any], call: Call) -> None:
    with pytest.raises(KernelError, match="wanted >= 0, >= 1, >= 0"):
        validate(call(8), Request(**wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"thresholds": (-0.1,)}, "thresholds are"),
        ({"direction": torch.zeros(2, 4, 8, 15)}, r"direction is torch.float32 of shape \[2, 4, 8, 15\] on cpu"),
        ({"direction": torch.zeros(2, 4, 8, 16, dtype=torch.long)}, "direction is torch.int64"),
        (
            {"direction": torch.zeros(2, 4, 8, 16), "mean": torch.zeros(4, 16)},
            r"mean is torch.float32 of shape \[4, 16\]",
        ),
        ({"mean": torch.zeros(1, 4, 1, 16)}, "mean is given without a direction"),
    ],
)
def test_what_a_request_adds_must_fit(wrong: dict[str, Any], message: str, call: Call) -> None:
    with pytest.raises(KernelError, match=message):
        validate(call(8), Request(**wrong))
    validate(call(8), Request(direction=torch.zeros(2, 4, 8, 16), mean=torch.zeros(1, 4, 1, 16)))


def test_labels_that_do_not_fit_are_refused_by_name(call: Call) -> None:
    labels = torch.zeros(2, 8, dtype=torch.long)
    with pytest.raises(KernelError, match=r"labels of lookup 'copies' .* wanted \(2, 8\) and \(2, 8\)"):
        validate(call(8), Request(lookups={"copies": Lookup(labels, labels[:, 1:])}))


def test_a_well_formed_call_passes(call: Call, rules: list[str]) -> None:
    for rule in rules:
        validate(call(8, rule=rule), Request())
