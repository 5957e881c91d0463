"""A dataset card: front matter that the hub's own reader takes, tables that load, nothing of a table's obeyed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt

from probe.columns import SCAN_COLUMNS
from probe.errors import ResultsError
from probe.exports.card import FILES, card_text, dataset_card
from probe.exports.request import Asked
from probe.results import Results, read_results
from probe.table import HeadTable

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(small: HeadTable, tmp_path: Path) -> Path:
    small.save(tmp_path)
    return tmp_path


def card(folder: Path, **asked: Any) -> str:
    return dataset_card(read_results(folder), Asked(**asked)).files["README.md"].decode()


def front(text: str) -> Any:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_matter_names_every_table(folder: Path):
    found = front(card(folder))
    assert found["pretty_name"] == "Attention heads of small"
    assert found["license"] == "unknown"
    assert found["configs"] == [{"config_name": "heads", "data_files": "heads.parquet", "default": True}]
    assert found["size_categories"] == ["n<1K"]
    assert "attention-heads" in found["tags"]


def test_the_hubs_own_reader_takes_it(folder: Path):
    found = huggingface_hub.DatasetCard(card(folder, licence="cc-by-4.0"))
    assert found.data.license == "cc-by-4.0"
    assert found.data.pretty_name == "Attention heads of small"


def test_every_file_and_column_is_told(folder: Path):
    text = card(folder)
    for name in ("heads.parquet", "heads.csv", "heads.json", "profiles.safetensors"):
        assert f"| `{name}` | {FILES[name]} |" in text
    for name in (*SCAN_COLUMNS, "retrieval"):
        assert f"| `{name}` | " in text
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    assert "| `notes.txt` | not of headprobe |" in card(folder)
    assert ".hidden" not in card(folder)


def test_the_same_folder_gives_the_same_card(folder: Path):
    first = card(folder)
    (folder / "README.md").write_text(first)
    (folder / "export").mkdir()
    assert card(folder) == first


def test_a_command_stands_in_a_fence_that_holds(small: HeadTable):
    made = Results(Path("x"), "scan", small, run={"command": "probe scan m --out '```' \x1b[2J"})
    text = card_text(made, ["heads.parquet"])
    fences = [token.content for token in MarkdownIt().parse(text) if token.type == "fence"]
    assert "probe scan m --out '```' \\u001b[2J\n" in fences


def test_nothing_of_a_hostile_table_is_obeyed(nasty: HeadTable):
    text = card_text(Results(Path("x"), "scan", nasty), ["heads.parquet", "a|b\n---\n.parquet", "x: y.parquet"])
    found = front(text)
    assert found["pretty_name"].startswith('Attention heads of =HYPERLINK("http://x.y")|\\input')
    assert [one["config_name"] for one in found["configs"]] == ["heads"]
    body = text.split("---\n", 2)[2]
    kinds = {part.type for token in MarkdownIt("commonmark").enable("table").parse(body)
             for part in [token, *(token.children or [])]}  # fmt: skip
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "hr", "code_block"}
    assert "\x1b" not in text


def test_a_licence_must_be_an_identifier(folder: Path):
    assert front(card(folder, licence="apache-2.0"))["license"] == "apache-2.0"
    # YAML would read these as nothing, a truth value and a number.
    assert [front(card(folder, licence=name))["license"] for name in ("null", "no", "1.0")] == ["null", "no", "1.0"]
    for wrong in ("Apache 2.0", "", "mit\ntags: [x]", "-x"):
        with pytest.raises(ResultsError, match="wanted an identifier as the hub spells it"):
            card(folder, licence=wrong)


def test_several_models_have_a_card_too(small: HeadTable):
    other = HeadTable(small.frame, {}, {**small.metadata, "model": "other"})
    parts = tuple(Results(Path(name), "study", table) for name, table in (("a", small), ("b", other)))
    text = card_text(Results(Path("x"), "studies", parts=parts), ["a/", "b/", "c/", "study.toml"])
    assert "# Attention heads of several models" in text
    assert "| `study.toml` | the ablation study that was asked for |" in text
    assert "| `a/` | results of one part, a folder like this one |" in text
    assert "| `c/` | not of headprobe |" in text
    assert "configs" not in front(text)


def test_columns_are_told_of_the_table_that_is_there(small: HeadTable):
    made = Results(Path("x"), "scan", small)
    assert "| `retrieval` |" in card_text(made, ["heads.parquet"])
    assert "`roles` is what it is called" in card_text(made, ["heads.parquet"])
    assert "| `retrieval` |" not in card_text(replace(made, kind="matrix"), ["transfer.parquet"])
    assert "`roles`" not in card_text(replace(made, kind="retrieval"), ["heads.parquet"])


def test_files_are_those_that_commands_write():
    sources = [path for path in (ROOT / "probe").rglob("*.py") if "exports" not in path.parts]
    written = "".join(path.read_text() for path in sources)
    assert not [name for name in FILES if f'"{name}"' not in written]


def test_large_tables_are_of_another_size(small: HeadTable):
    big = HeadTable(pd.concat([small.frame] * 100, ignore_index=True), {}, small.metadata)
    made = replace(Results(Path("x"), "scan", small), table=big)
    assert front(card_text(made, []))["size_categories"] == ["1K<n<10K"]


def test_datasets_loads_the_folder_by_its_card(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    (folder / "README.md").write_text(card(folder))
    code = (
        "import sys, datasets; "
        "rows = datasets.load_dataset(sys.argv[1], 'heads', split='train', cache_dir=sys.argv[2]); "
        "print(len(rows), rows[11]['retrieval'], rows[0]['roles'])"
    )
    cache = tmp_path_factory.mktemp("cache")
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(cache)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split(" ", 2)[:2] == ["12", "0.55"], done.stderr
