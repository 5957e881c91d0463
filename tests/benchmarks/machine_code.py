"""What is read from the listing of a compiled kernel: its instructions, and its innermost loops."""

from __future__ import annotations

import re
from dataclasses import dataclass

PRODUCTS = ("HGMMA", "HMMA")
"""Tensor-core instructions of sm_90 and of sm_80."""

SPILLS = ("STL", "LDL")
"""Stores to and loads from local memory."""

_LABEL = re.compile(r"\s*(\.L\w+):")
_INSTRUCTION = re.compile(r"^\s+(?:/\*\w+\*/\s+)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]+)(?=[\s.;])(.*)")
_TARGET = re.compile(r"`\((\.L\w+)\)")


@dataclass(frozen=True)
class Listing:
    """opcodes: in order, without modifiers. loops: innermost ones, first and last place in `opcodes`."""

    opcodes: list[str]
    loops: list[tuple[int, int]]

    def bodies(self) -> list[list[str]]:
        """Innermost loops that hold a matrix product; of those with the most, the shortest (no mask) comes first."""
        found = [self.opcodes[first : last + 1] for first, last in self.loops]
        held = [(sum(code in PRODUCTS for code in body), body) for body in found]
        return [body for count, body in sorted(held, key=lambda one: (-one[0], len(one[1]))) if count]


def listed(text: str) -> Listing:
    """A disassembler's listing; a loop is a branch back to a label, an innermost one holds no other."""
    labels: dict[str, int] = {}
    opcodes: list[str] = []
    branches: list[tuple[int, str]] = []
    for line in text.splitlines():
        label = _LABEL.match(line)
        if label:
            labels[label[1]] = len(opcodes)
            continue
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        target = _TARGET.search(instruction[2])
        if instruction[1] == "BRA" and target:
            branches.append((len(opcodes), target[1]))
        opcodes.append(instruction[1])
    spans = [(labels[target], place) for place, target in branches if labels.get(target, place + 1) <= place]
    inner = [
        (first, last)
        for first, last in spans
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans)
    ]
    return Listing(opcodes, sorted(inner))
