"""The page of a comparison: two head tables side by side."""

from __future__ import annotations

from pathlib import Path

from probe.comparisons.comparison import Comparison
from probe.page.chapter import Chapter
from probe.page.findings_compare import compare_findings, compare_limits, compare_uncertainty
from probe.page.report import write_report
from probe.page.sections_compare import compare_figures, compare_sections


def write_compare_report(comparison: Comparison, folder: str | Path, *, command: str | None = None) -> Path:
    """Write `report.html` of a comparison into `folder`, whole or not at all, and return its path.

    Its maps and its table of all heads show differences, B − A, at A's heads. command: the command that makes it
    again. Raises ResultsError where the disk refuses.
    """
    title = f"{comparison.label_a} (A) and {comparison.label_b} (B), head by head"
    chapters = [compare_chapter(comparison)]
    return write_report(comparison.table(), folder, command=command, chapters=chapters, title=title)


def compare_chapter(comparison: Comparison) -> Chapter:
    """A comparison as a chapter of the page."""
    metrics, pairs = len(comparison.metrics), len(comparison.matching.rows)
    how = "name" if comparison.matching.how == "name" else "what they do"
    return Chapter(
        summary=f"{pairs} pairs of heads, matched by {how}, compared in {metrics} "
        f"{'metric' if metrics == 1 else 'metrics'}. Every change is B − A.",
        findings=compare_findings(comparison),
        uncertainty=compare_uncertainty(comparison),
        sections=compare_sections(comparison),
        figures=compare_figures(comparison),
        limits=compare_limits(comparison),
    )
