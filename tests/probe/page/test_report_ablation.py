"""The page of a study that was run, on the planted model: it names the heads that were planted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from probe.analyses.ablation import Ablation, ablate
from probe.page.findings_ablation import ablation_findings
from probe.page.report import write_report


@pytest.fixture(scope="module")
def found() -> Ablation:
    return ablate("planted", "names", prompts=16, method=("exact", "gradient"), curve=None)


def test_the_findings_name_the_heads_that_carry_the_task(found: Ablation) -> None:
    needed = next(finding for finding in ablation_findings(found.study) if "needs" in finding.title)
    # PLANTED: the duplicate-token head, the S-inhibition head that reads it, and the name mover that reads that.
    assert {head.split()[0] for head in needed.heads[:3]} == {"L0H3", "L1H2", "L2H2"}
    assert not any(" q = " in head for head in needed.heads[:3])


def test_the_page_stands_beside_the_tables(found: Ablation, tmp_path: Path) -> None:
    found.table.save(tmp_path)
    text = write_report(found.table, tmp_path, studies=[found.study]).read_text()
    assert {"heads.parquet", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)))
    assert "Attention heads of planted" in said
    assert "Right: 1.00 [1.00, 1.00] of the time" in said
    assert "What removing the head costs on names (mean ablation, exact)" in said
