"""Instructions and loops of a listing."""

from __future__ import annotations

from tests.benchmarks.machine_code import listed

LISTING = """
.text.kernel:
.L_x_0:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 STL.64 [R1+0x8], R4 ;
.L_x_1:
        MUFU.EX2 R3, R4 ;
.L_x_2:
        @!UP0 UIADD3 UR4, UR5 ;
        HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8] ;
        @P1 BRA `(.L_x_2) ;
        LDL R4, [R1] ;
        @P0 BRA `(.L_x_1) ;
.L_x_3:
        IADD3 R1, R2, R3 ;
        BRA `(.L_x_3) ;
        @P0 BRA `(.L_x_4) ;
.L_x_4:
        EXIT ;
"""


def test_opcodes_are_in_order_and_bare() -> None:
    wanted = ["LDC", "STL", "MUFU", "UIADD3", "HGMMA", "BRA", "LDL", "BRA", "IADD3", "BRA", "BRA", "EXIT"]
    assert listed(LISTING).opcodes == wanted


def test_innermost_loops_alone_and_those_of_products() -> None:
    """The loop around another is none, nor is a branch ahead."""
    found = listed(LISTING)
    assert found.loops == [(3, 5), (8, 9)]
    assert found.bodies() == [["UIADD3", "HGMMA", "BRA"]]
