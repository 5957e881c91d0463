"""The attention view in a headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe.attention_view import AttentionView
from tests.conftest import HOSTILE

pytestmark = pytest.mark.browser
TOKENS = ("The", "␣cat", HOSTILE, "\\u202egnp", "␣sat", "↵", "␣on", "␣the", "␣mat", ".")


def view(heads: int = 3) -> AttentionView:
    scores = np.random.default_rng(0).random((heads, 10, 10)) ** 6 * np.tri(10)
    weights = (scores / scores.sum(-1, keepdims=True)).astype(np.float32)
    span = range(4000, 4010)
    return AttentionView(weights, 2, tuple(range(heads)), span, span, TOKENS, TOKENS, 4096, "invented")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return view().save(tmp_path_factory.mktemp("view") / "view.html")


@pytest.fixture
def page(browser: Any, saved: Path) -> Any:
    browser.size(1280, 800)
    browser.open(saved)
    return browser


def red(page: Any, side: str) -> list[int]:
    """How red each token's ground is: 255 where nothing is shaded."""
    found = page.run(
        f"[...document.querySelectorAll('[data-side={side}]')].map((e) => "
        "Number((e.style.backgroundColor.match(/\\d+/) || ['255'])[0]))"
    )
    return [int(value) for value in found]


def test_it_opens_quietly_and_tokens_do_nothing(page: Any) -> None:
    assert page.complaints() == []
    assert len([address for address in page.requests() if not address.startswith("data:")]) == 1
    assert page.run("document.title") == "Attention of layer 2 in invented"
    assert page.run("document.images.length") == 0
    texts = page.run("[...document.querySelectorAll('[data-side=query]')].map((e) => e.textContent)")
    assert texts == [text.removeprefix("␣") for text in TOKENS]


def test_a_query_shades_where_it_looks_and_a_key_who_looks_at_it(page: Any) -> None:
    weights = view().weights
    head = page.run("Number(document.querySelector('[aria-checked=true]').dataset.index)")
    page.move("[data-side=query][data-index='7']")
    assert np.argmin(red(page, "key")) == weights[head, 7].argmax()
    said = page.run("document.querySelector('.hx-said').textContent")
    assert "(4,007) looks at" in said
    assert f"{weights[head, 7].max():.2f}" in said
    assert "These keys get 1.00 of its attention." in said
    page.move("[data-side=key][data-index='1']")
    assert np.argmin(red(page, "query")) == weights[head, :, 1].argmax()
    assert "is looked at by" in page.run("document.querySelector('.hx-said').textContent")


def test_the_keyboard_chooses_heads_and_tokens(page: Any) -> None:
    page.press("Tab")
    assert page.run("document.activeElement.getAttribute('role')") == "radio"
    before = page.run("Number(document.activeElement.dataset.index)")
    page.press("ArrowRight")
    assert page.run("Number(document.activeElement.dataset.index)") == (before + 1) % 3
    assert page.run("document.activeElement.getAttribute('aria-checked')") == "true"
    page.press("Tab")
    assert page.run("document.activeElement.dataset.side") == "query"
    at = page.run("Number(document.activeElement.dataset.index)")
    page.press("ArrowLeft" if at else "ArrowRight")
    assert page.run("Number(document.activeElement.dataset.index)") == (at - 1 if at else 1)
    assert page.run("document.activeElement.getAttribute('aria-selected')") == "true"


def test_one_head_needs_no_chooser(browser: Any, tmp_path: Path) -> None:
    browser.open(view(1).save(tmp_path / "one.html"))
    assert browser.run("document.querySelector('.hx-chooser')") is None
    assert browser.run("document.title") == "Attention of L2H0 in invented"


@pytest.mark.parametrize(("width", "height", "mobile"), [(1280, 800, False), (390, 844, True), (320, 600, True)])
def test_it_never_scrolls_sideways(browser: Any, saved: Path, width: int, height: int, mobile: bool) -> None:
    browser.size(width, height, mobile)
    browser.open(saved)
    assert browser.run("document.documentElement.scrollWidth") <= width
