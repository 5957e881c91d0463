from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser

import pytest

from probe.page.markup import Html, el, escape, join, json_script, script

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--",
    "-->",
    "&#60;",
    "javascript:alert(1)",
    "\u2028",
    "\"'",
    "]]>",
]


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text_in_content_and_attributes(text: str) -> None:
    parser = Elements()
    parser.feed(el("p", text, title=text))
    parser.close()
    assert parser.tags == ["p"]
    assert parser.text == text


@pytest.mark.parametrize("text", HOSTILE)
def test_json_cannot_leave_its_script(text: str) -> None:
    block = json_script("data", {"token": text, "nan": float("nan")})
    inside = block.removeprefix('<script type="application/json" id="data">').removesuffix("</script>")
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside) == {"token": text, "nan": None}


def test_elements_nest_and_attributes_are_named() -> None:
    made = el("p", "a & b", el("br"), None, class_="x", data_token="1", hidden=True, title=None, id=False)
    assert made == '<p class="x" data-token="1" hidden>a &amp; b<br></p>'
    assert join("<", Html("<b>")) == "&lt;<b>"
    assert escape("\x00") == "\ufffd"


def test_a_script_is_allowed_by_the_hash_of_exactly_its_text() -> None:
    element, allowed = script("const a = '</script>';")
    text = element.removeprefix("<script>").removesuffix("</script>")
    assert "</script" not in text
    assert allowed == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
