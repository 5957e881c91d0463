from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from probe.analyses.effect_columns import with_effects
from probe.errors import ResultsError
from probe.page.report import page, write_report
from probe.table import HeadTable


class Outline(HTMLParser):
    """Elements by name, ids, targets of inner links, exact tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tokens: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if values.get("id") else []
        self.links += [values["href"]] if tag == "a" and values.get("href") else []
        self.tokens += [json.loads(values["data-token"])] if values.get("data-token") else []
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset") and value]


@pytest.fixture(scope="module")
def whole(head_table: HeadTable, retrieval_result: Any, token_text: list[list[str]]) -> str:
    return page(head_table.with_columns(retrieval_result.heads), retrieval_result, token_text)


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    return parser


def words(text: str) -> str:
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_page_is_one_file_under_eight_megabytes(
    head_table: HeadTable, retrieval_result: Any, token_text: list[list[str]], tmp_path: Path
) -> None:
    path = write_report(head_table, tmp_path, retrieval=retrieval_result, tokens_text=token_text)
    assert path == tmp_path / "report.html"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert 4_000_000 < path.stat().st_size < 8_000_000
    assert "retrieval" not in head_table.frame


def test_nothing_points_outside(whole: str) -> None:
    found = outline(whole)
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert set(found.links) <= {f"#{identifier}" for identifier in found.ids}
    assert len(set(found.ids)) == len(found.ids)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', whole)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline' script" not in policy[1]
    assert "http" not in policy[1]
    assert found.tags.count("script") == 4


def test_hostile_tokens_stay_text(whole: str, token_text: list[list[str]]) -> None:
    found = outline(whole)
    assert token_text[0][57] in found.tokens
    assert "onerror" not in re.sub(r"&lt;.*?&gt;", "", words(whole))
    assert "b" not in found.tags


def test_the_sections_are_all_there(whole: str) -> None:
    text = words(whole)
    for heading in (
        "Findings", "Maps", "Roles", "Sink tokens", "Where telling heads look", "Retrieval", "All heads",
        "How it was made", "Definitions", "Limits",
    ):  # fmt: skip
        assert f" {heading} " in text
    assert "34 of 40 trials were usable" in text
    assert "270 heads in 30 layers, read on 8 sequences of 4,096 tokens." in text


def test_the_data_is_the_table(whole: str, head_table: HeadTable) -> None:
    block = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', whole, flags=re.S)
    assert block is not None
    data = json.loads(block[1], parse_constant=pytest.fail)
    assert data["columns"]["sink_learned"] == [None] * 270
    # Six significant figures.
    np.testing.assert_allclose(data["columns"]["distance"], head_table.frame["distance"], rtol=5e-6)
    assert data["roles"][:50] != []
    assert set(data["figures"]) >= {"map", "received", "offset_mass", "ablation", "by_length", "by_place"}


def test_what_is_missing_is_said(head_table: HeadTable) -> None:
    text = words(page(HeadTable(head_table.frame, {}, {"model": "m"}), None, None))
    for sentence in (
        "this report was made without a retrieval run",
        "Token strings were not given", "Thumbnails were not kept",
        "No received profile was kept", "No offset_mass profile was kept", "The command was not recorded",
        "Where later sinks stand was not kept",
    ):  # fmt: skip
        assert sentence in text


def test_command_is_printed_to_be_used_again(head_table: HeadTable) -> None:
    text = page(HeadTable(head_table.frame, {}, {}), None, None, "probe report m --text 'a b.txt'")
    assert "<pre><code>probe report m --text &#x27;a b.txt&#x27;</code></pre>" in text


def test_too_few_trials_give_no_ranking(head_table: HeadTable, retrieval_result: Any) -> None:
    for count, sentence in ((0, "NO TRIAL WAS USABLE"), (5, "Not enough usable trials for a ranking: 5")):
        trials = [{**trial, "usable": index < count} for index, trial in enumerate(retrieval_result.trials)]
        run = SimpleNamespace(
            trials=trials, heads=retrieval_result.heads, ablation=retrieval_result.ablation, metadata={}
        )
        text = page(head_table.with_columns(run.heads), run, None)
        assert sentence in text
        assert "Heads by retrieval score" not in text


def test_equal_input_gives_an_equal_page(head_table: HeadTable) -> None:
    assert page(head_table, None, None) == page(head_table, None, None)


def test_token_strings_of_other_sequences_are_refused(head_table: HeadTable, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="2 sequences for a scan of 8"):
        write_report(head_table, tmp_path, tokens_text=[["a"], ["b"]])
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_gets_a_page_of_what_it_has() -> None:
    metadata = {"model": "m", "n_sequences": 2, "length": 64}
    table = HeadTable.build({"entropy": np.ones((2, 2, 3))}, {}, metadata, kv_heads=1, stack="encoder")
    table.profiles["received.encoder.self"] = np.ones((2, 3, 64)) / 64
    text = words(page(table, None, None))
    assert "No offset_mass profile was kept" in text
    assert "No received profile" in text
    assert "Not measured: sink_first is empty in this table." in text


def test_without_a_removal_test_the_reason_and_the_recall_stand(head_table: HeadTable, retrieval_result: Any) -> None:
    trials = [{**trial, "recall": True} for trial in retrieval_result.trials]
    about = {"ablation": {"done": False, "reason": "too few heads scored", "sets": [{"heads": [[0, 1]] * 99}] * 99}}
    run = SimpleNamespace(
        trials=trials,
        heads=retrieval_result.heads,
        ablation=retrieval_result.ablation.iloc[:0],
        metadata=about,
    )
    table = head_table.with_columns(run.heads)
    about["lengths"] = list(range(99))
    table.metadata = {**table.metadata, "retrieval": about, "length": [64, 4096]}
    text = page(table, run, None)
    assert "No removal test: too few heads scored." in text
    assert 'data-figure="by_place"' in text
    assert "64 to 4,096 tokens" in text
    assert "(99 in all, in the files)" in text


def test_a_study_alone_gives_a_page_of_it(effect_table: HeadTable, ablation_study: Any, tmp_path: Path) -> None:
    path = write_report(effect_table, tmp_path, studies=[ablation_study], command="probe ablate invented --task ioi")
    text = path.read_text()
    found, said = outline(text), words(text)
    assert "270 heads in 30 layers. Removed one at a time on ioi (64 prompts)." in said
    for heading in ("Findings", "Without a head: ioi", "Maps", "All heads", "How it was made", "Limits"):
        assert f" {heading} " in said
    for missing in ("Roles", "Sink tokens", "Where telling heads look", "Retrieval", "Not measured", "Streaming keeps"):
        assert missing not in said
    assert "#ablation-0" in found.links
    assert set(found.links) <= {f"#{identifier}" for identifier in found.ids}
    assert len(set(found.ids)) == len(found.ids)
    data = data_of(text)
    assert data["key"] == ["ablation_ioi", "attribution_ioi"]
    assert data["metrics"]["ablation_ioi"]["unit"] == "logits"
    assert data["columns"]["ablation_ioi_q"][18 * 9 + 6] == pytest.approx(
        effect_table.frame["ablation_ioi_q"][18 * 9 + 6], rel=5e-6
    )
    places = set(re.findall(r'data-figure="([^"]*)"', text))
    assert places == set(data["figures"])
    assert "img" not in found.tags


def data_of(text: str) -> dict[str, Any]:
    block = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, flags=re.S)
    assert block is not None
    found: dict[str, Any] = json.loads(block[1], parse_constant=pytest.fail)
    return found


def test_a_scan_and_two_studies_share_a_page(head_table: HeadTable, ablation_study: Any) -> None:
    table = with_effects(head_table, ablation_study.effects, {"ioi": ablation_study.task})
    text = page(table, None, None, None, [ablation_study, ablation_study])
    found, said = outline(text), words(text)
    assert {"#ablation-0", "#ablation-1", "#sinks", "#roles"} <= set(found.links)
    assert set(found.links) <= {f"#{identifier}" for identifier in found.ids}
    assert len(set(found.ids)) == len(found.ids)
    assert "Sink tokens" in said
    assert "effects of several heads do not add up" in said
    assert set(re.findall(r'data-figure="([^"]*)"', text)) == set(data_of(text)["figures"])
    assert data_of(text)["key"][:3] == ["ablation_ioi", "attribution_ioi", "sink_first"]


def test_equal_studies_give_equal_pages(effect_table: HeadTable, make_study: Any, make_curve: Any) -> None:
    first, second = (page(effect_table, None, None, None, [make_study(curve=make_curve())]) for _ in range(2))
    assert first == second
