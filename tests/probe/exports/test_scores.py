"""Head scores and head lists in the forms of retrieval-head code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from probe.analyses.retrieval_result import RetrievalResult
from probe.errors import ResultsError
from probe.exports.request import Asked
from probe.exports.scores import head_scores, read_head_list, read_scores
from probe.table import HeadTable


def written(table: HeadTable, run: RetrievalResult | None, column: str, folder: Path) -> Path:
    path = folder / "head_score.json"
    path.write_bytes(head_scores(table, run, Asked((column,))).files["head_score.json"])
    return path


def test_every_trial_that_counts_has_a_score(small: HeadTable, run: RetrievalResult, tmp_path: Path):
    scores = read_scores(written(small, run, "retrieval", tmp_path))
    assert list(scores)[:5] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    assert len(scores) == 12
    assert scores[0, 1] == pytest.approx([0.01, 0.21])
    forced = small.with_columns(
        small.frame[["layer", "head", "retrieval"]].rename(columns={"retrieval": "retrieval_forced"})
    )
    assert len(read_scores(written(forced, run, "retrieval_forced", tmp_path))[0, 1]) == 3


def test_without_trials_a_head_has_its_value(small: HeadTable, run: RetrievalResult, tmp_path: Path):
    assert read_scores(written(small, None, "retrieval", tmp_path))[2, 3] == [0.55]
    assert read_scores(written(small, run, "entropy", tmp_path))[0, 0] == [small.frame["entropy"][0]]
    assert read_scores(written(small, run, "sink_learned", tmp_path))[0, 0] == []


def test_the_file_is_one_line_as_theirs(small: HeadTable, run: RetrievalResult, tmp_path: Path):
    text = written(small, run, "retrieval", tmp_path).read_text()
    assert "\n" not in text
    assert re.match(r'\{"0-0": \[0\.0, 0\.2\], "0-1": ', text)


def test_other_stacks_have_no_name(encoder: HeadTable):
    with pytest.raises(ResultsError, match="this table has encoder self"):
        head_scores(encoder, None, Asked(("retrieval",)))


def test_their_zero_is_a_whole_number(tmp_path: Path):
    path = tmp_path / "scores.json"
    path.write_text('{"13-18": [0, 1.5], "0-3": []}')
    assert read_scores(path) == {(13, 18): [0.0, 1.5], (0, 3): []}


@pytest.mark.parametrize(
    "found",
    ["[]", "{}", "x", '{"13": [1]}', '{"a-b": [1]}', '{"1-2": 3}', '{"1-2": ["3"]}', '{"1-2": [true]}',
     '{"1-2": [NaN]}', '{"1-2-3": [1]}', '{"-1-2": [1]}'],
)  # fmt: skip
def test_other_documents_are_refused(tmp_path: Path, found: str):
    path = tmp_path / "scores.json"
    path.write_text(found)
    with pytest.raises(ResultsError, match=r"scores\.json: "):
        read_scores(path)


def test_published_head_lists_go_round(published: Path):
    paths = sorted((published / "qrhead").glob("*.yaml"))
    assert len(paths) >= 8
    for path in paths:
        heads = read_head_list(path)
        assert len(heads) in (16, 32)
        assert f'"{",".join(f"{layer}-{head}" for layer, head in heads)}"' in path.read_text()
    best = read_head_list(published / "qrhead" / "Llama-3.1-8B-Instruct_qr_head_LME.yaml")
    assert best[:3] == ((13, 18), (13, 21), (8, 11))


@pytest.mark.parametrize("text", ["a: 1", 'attn_head_set: "1-2,1-2"', 'attn_head_set: "1,2"', 'attn_head_set: ""'])
def test_other_head_lists_are_refused(tmp_path: Path, text: str):
    path = tmp_path / "heads.yaml"
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"heads\.yaml: "):
        read_head_list(path)
    with pytest.raises(ResultsError, match="cannot be read"):
        read_head_list(tmp_path / "absent.yaml")


def test_scores_of_a_real_form_survive_a_json_reader(small: HeadTable):
    data = json.loads(head_scores(small, None, Asked(("retrieval",))).files["head_score.json"])
    ranked = sorted(data, key=lambda name: -sum(data[name]) / len(data[name]))
    assert ranked[:2] == ["2-3", "2-2"]
