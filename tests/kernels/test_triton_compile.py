"""Every kernel that a GPU call can choose, compiled for sm_80 and sm_90 without a GPU: tensor cores, spills, memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.compiled import ARCHITECTURES, Case, Code, cases, compiled, complaints, opcodes, table

CASES = {arch: {case.label: case for case in cases(arch)} for arch in ARCHITECTURES}

QUICK = [f"{kernel} D128 bfloat16" for kernel in ("rows", "columns", "distances", "decode")]
"""The commonest width and dtype, on sm_90: about 10 s each on a free core."""


def check(case: Case, arch: int) -> None:
    found = complaints(compiled(case, arch))
    assert not found, f"{case.label}, sm_{arch}: {'; '.join(found)}"


@pytest.mark.parametrize("label", QUICK)
def test_the_commonest_kernels(label: str) -> None:
    check(CASES[90][label], 90)


def test_the_commonest_row_pass_on_sm_80() -> None:
    check(CASES[80]["rows D128 bfloat16"], 80)


@pytest.mark.full
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("label", CASES[90])
def test_every_kernel(label: str, arch: int) -> None:
    check(CASES[arch][label], arch)


def test_every_kernel_has_a_name_of_its_own() -> None:
    found = cases(80)
    assert [case.label for case in found] == list(CASES[80]) == list(CASES[90])
    assert {case.kernel for case in found} == {"rows", "columns", "distances", "decode"}
    assert {case.width for case in found} >= {16, 32, 64, 80, 96, 128, 192, 256}


@pytest.fixture
def code() -> Code:
    names = {"label": "x", "kernel": "rows", "dtype": "bfloat16", "tile": "128 x 64, 8 warps, 3 stages"}
    numbers = {"width": 128, "arch": 90, "registers": 250, "stack": 0, "shared": 65_536, "spills": 0, "hgmma": 4}
    return Code(**names, **numbers, hmma=0, exponentials=9, instructions=1000)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"hgmma": 0}, "no HGMMA"),
        ({"arch": 80}, "no HMMA"),
        ({"arch": 80, "hmma": 4}, None),
        ({"tile": "16 x 64, 4 warps, 2 stages"}, "no HMMA"),
        ({"dtype": "float32", "hgmma": 0}, None),
        ({"spills": 3}, "3 spill instructions"),
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


def test_opcodes_of_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = """
.text.kernel:
.L_x_0:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 STL.64 [R1+0x8], R4 ;
        MUFU.EX2 R3, R4 ;
        @!UP0 UIADD3 UR4, UR5 ;
        HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8] ;
.L_x_1:
        EXIT ;
"""
    monkeypatch.setattr("tests.benchmarks.compiled._tool", lambda *_: listing)
    assert opcodes(b"") == ["LDC", "STL", "MUFU", "UIADD3", "HGMMA", "EXIT"]
