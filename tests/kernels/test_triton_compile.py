"""Every kernel that a GPU call can choose, compiled for sm_80 and sm_90 without a GPU: tensor cores, spills, memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.compiled import ARCHITECTURES, Case, Code, cases, compiled, complaints, table

CASES = {arch: {case.label: case for case in cases(arch)} for arch in ARCHITECTURES}

QUICK = [f"{kernel} D128 bfloat16" for kernel in ("rows", "columns", "distances", "decode", "merge")]
"""The commonest width and dtype, on sm_90: about 10 s each on a free core."""


def check(case: Case, arch: int) -> None:
    found = complaints(compiled(case, arch))
    assert not found, f"{case.label}, sm_{arch}: {'; '.join(found)}"


@pytest.mark.parametrize("label", QUICK)
def test_the_commonest_kernels(label: str) -> None:
    check(CASES[90][label], 90)


def test_the_commonest_row_pass_on_sm_80() -> None:
    check(CASES[80]["rows D128 bfloat16"], 80)


KNOWN = {
    (80, "rows D128 scan"), (80, "rows D128 scan, every rule"), (80, "rows D128 everything"),
    (90, "rows D128 everything"), (80, "decode D64 float32"),
    (90, "decode D128 256 strongest keys"),
}  # fmt: skip
"""Kernels that spill some registers at the edges of their loops, and none inside them."""


@pytest.mark.full
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("label", CASES[90])
def test_every_kernel(label: str, arch: int) -> None:
    if (arch, label) not in KNOWN:
        check(CASES[arch][label], arch)
        return
    code = compiled(CASES[arch][label], arch)
    assert 0 < code.spills <= 100, f"{label}, sm_{arch}: {code.spills} spill instructions; mend KNOWN"
    assert complaints(replace(code, spills=0)) == []
    assert code.loop_spills == 0


def test_every_kernel_has_a_name_of_its_own() -> None:
    found = cases(80)
    assert [case.label for case in found] == list(CASES[80]) == list(CASES[90])
    assert {case.kernel for case in found} == {"rows", "columns", "distances", "decode", "merge"}
    assert {case.width for case in found} >= {16, 32, 64, 80, 96, 128, 192, 256}


@pytest.fixture
def code() -> Code:
    names = {"label": "x", "kernel": "rows", "dtype": "bfloat16", "tile": "128 x 64, 8 warps, 3 stages"}
    numbers = {"width": 128, "arch": 90, "registers": 250, "stack": 0, "shared": 65_536, "spills": 0, "hgmma": 4}
    return Code(**names, **numbers, hmma=0, exponentials=9, instructions=1000, loop_spills=0, loop=9.5)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"hgmma": 0}, "no HGMMA"),
        ({"arch": 80}, "no HMMA"),
        ({"arch": 80, "hmma": 4}, None),
        ({"tile": "16 x 64, 4 warps, 2 stages"}, "no HMMA"),
        ({"dtype": "float32", "hgmma": 0}, None),
        ({"spills": 3}, "3 spill instructions, 0 of them in loops"),
        ({"spills": 3, "width": 192}, None),
        ({"shared": 180_000}, None),
        ({"shared": 180_000, "arch": 80, "hmma": 4}, "180000 bytes of shared memory, 166912 are there"),
    ],
)
def test_what_is_complained_about(code: Code, changes: dict[str, object], complaint: str | None) -> None:
    assert complaints(replace(code, **changes)) == ([complaint] if complaint else [])


def test_the_table_has_a_row_a_kernel_and_counts_complaints(code: Code) -> None:
    text = table([code, replace(code, spills=2)], {"triton": "3.9.0"}, of=9)
    assert text.startswith("2 of 9 kernels, triton 3.9.0; 1 of them with a complaint")
    assert text.count("\n| x | 90 |") == 2
    assert "2 spill instructions" in text
