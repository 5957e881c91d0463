"""The page of a comparison in a headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe.comparisons.comparison import Comparison
from probe.page.report_compare import write_compare_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, comparison: Comparison) -> Path:
    return write_compare_report(comparison, tmp_path_factory.mktemp("compare"))


@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (390, True)])
def test_it_is_drawn_whole_and_asks_for_nothing(browser: Any, report: Path, width: int, mobile: bool) -> None:
    browser.size(width, 844, mobile)
    browser.open(report)
    assert browser.complaints() == []
    asked = [address for address in browser.requests() if not address.startswith(("data:", "blob:"))]
    assert [address.rsplit("/", 1)[1] for address in asked] == ["report.html"]
    places = browser.run("document.querySelectorAll('[data-figure]').length")
    assert places == 6
    assert browser.run("document.querySelectorAll('[data-figure] svg.main-svg').length") >= places
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_hostile_names_do_nothing(browser: Any, report: Path) -> None:
    browser.size(1280, 844)
    browser.open(report)
    assert "<b>not a model</b> (A) and other </script><img src=x onerror=" in browser.run("document.title")
    assert browser.run("[...document.images].every((image) => image.src.startsWith('data:'))")
