"""A dataset card for a results folder: README.md with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from probe.columns import describe
from probe.errors import ResultsError
from probe.exports.markdown import code, escape_markdown, table_lines
from probe.exports.request import Asked, Made
from probe.results import Results
from probe.table import HeadTable
from probe.text import show_token, tokens_in_words

CARD_FILE = "README.md"
FILES: Mapping[str, str] = {
    "heads.parquet": "every head's numbers, one row a head; the metadata are JSON in the schema, under `probe`",
    "heads.csv": "heads.parquet for spreadsheets; text that a spreadsheet would run begins with '",
    "heads.json": "heads.parquet with its metadata, as JSON (export/heads.json adds what each column is, by a schema)",
    "profiles.safetensors": "what does not fit a row: attention by position and distance, thumbnails, strongest pairs",
    "tokens.json": "what was read, as ids and as text",
    "report.html": "the results as a page that needs no network",
    "run.json": "what was asked, the command, times and the machine",
    "trials.jsonl": "one retrieval trial a line: prompt, answer, whether it counts",
    "retrieval.parquet": "retrieval scores of every trial and head",
    "ablation.parquet": "recall with heads removed, by trial",
    "study.toml": "the ablation study that was asked for",
    "tasks.json": "how well the model does each task without a removal, and what was tested",
    "effects.parquet": "the effect of every removal on every prompt",
    "effects.jsonl": "results as they came, one checksummed line a piece of work",
    "curves.parquet": "the metric while heads are removed one after the other",
    "prompts.jsonl": "the prompts, as text and ids",
    "judged.jsonl": "the prompts that faithfulness was measured on",
    "means.jsonl": "the prompts that means were taken over",
    "circuit.json": "the circuit: every head and MLP with its score, the best edges, faithfulness",
    "nodes.parquet": "the score of every head and MLP on every prompt",
    "edges.parquet": "the score of every edge, with its standard error",
    "tests.json": "tests of the circuit for completeness and minimality",
    "matrix.json": "what every pair of circuits shares",
    "transfer.parquet": "how much each circuit does of the other tasks",
    "removed.parquet": "what tasks lose without the heads that they share",
    "overlap.json": "what two circuits share, beside chance",
}
"""What each file of a results folder is."""
KINDS: Mapping[str, str] = {
    "scan": "What every attention head attends to",
    "retrieval": "Which attention heads fetch a fact from a long text",
    "report": "What every attention head attends to, and which heads fetch a fact from a long text",
    "table": "Numbers of attention heads",
    "study": "What removing each attention head costs on a task",
    "studies": "What removing each attention head costs on tasks, for several models or seeds",
    "circuit": "The heads and connections that a task runs on",
    "matrix": "The heads and connections that several tasks run on, and what they share",
    "overlap": "What the circuits of two tasks share",
}
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
_CONFIG = re.compile(r"\w+", re.ASCII)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


def dataset_card(results: Results, asked: Asked) -> Made:
    """`README.md` of a results folder, from its files alone: the same folder gives the same bytes.

    Raises ResultsError for a licence that is no identifier of the hub's (small letters, digits, dots, dashes).
    """
    here = (path.name + "/" * path.is_dir() for path in results.folder.iterdir())
    return Made({CARD_FILE: card_text(results, here, asked.licence).encode()})


def card_text(results: Results, files: Iterator[str] | list[str], licence: str = "unknown") -> str:
    """The card of results whose folder holds `files` (folders end with /); hidden ones and the card are left out.

    For a folder in the making, whose results are in memory. Raises ResultsError as `dataset_card` does.
    """
    if not _LICENCE.fullmatch(licence):
        raise ResultsError(f"licence {licence!r}; wanted an identifier as the hub spells it, apache-2.0 or cc-by-4.0")
    listed = sorted(name for name in files if not name.startswith(".") and name not in (CARD_FILE, "export/"))
    model = results.model or "several models"
    title = f"Attention heads of {model}"
    blocks = [
        "\n".join(_front_matter(results, listed, title, licence)),
        f"# {escape_markdown(title)}",
        f"{KINDS.get(results.kind, 'Results')} in {escape_markdown(model)}{_measured(results.table)}. Made with "
        "headprobe.",
        "## Files",
        "\n".join(table_lines(["file", "what it holds"], [[code(name), _told(name, results)] for name in listed])),
        *(_columns(results.table, results.kind) if results.table is not None and "heads.parquet" in listed else ()),
        "## Load it",
        *_loading(listed),
        "## How it was made",
        *_made(results),
        "## Limits",
        "The numbers hold for the text or the prompts that were read, at their length; another text may rank heads "
        "otherwise. Intervals say how far a number would move with other sequences, prompts or trials of their kind.",
        "## Licence",
        "Not stated by whoever made these results." if licence == "unknown" else f"{escape_markdown(licence)}.",
        "The model and the text that was read have licences of their own.",
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(results: Results, files: list[str], title: str, licence: str) -> Iterator[str]:
    yield from ("---", f"pretty_name: {_quoted(title)}", f"license: {_quoted(licence)}")
    yield from ("tags:", "- attention-heads", "- interpretability", "- mechanistic-interpretability", "- headprobe")
    if results.table is not None:
        rows = len(results.table.frame)
        yield from ("size_categories:", f"- {next((size for most, size in _SIZES if rows < most), '100K<n<1M')}")
    tables = [name for name in files if name.endswith(".parquet") and _CONFIG.fullmatch(name.removesuffix(".parquet"))]
    if tables:
        yield "configs:"
    first = "heads.parquet" if "heads.parquet" in tables else tables[0] if tables else ""
    for name in tables:
        yield from (f"- config_name: {_quoted(name.removesuffix('.parquet'))}", f"  data_files: {_quoted(name)}")
        if name == first:
            yield "  default: true"
    yield "---"


def _quoted(text: str) -> str:
    """A text as a double-quoted YAML scalar: JSON's, with every control and invisible character shown as its code."""
    return json.dumps("".join(one if one == " " else show_token(one) for one in text), ensure_ascii=False)


def _measured(table: HeadTable | None) -> str:
    if table is None:
        return ""
    layers = len(table.frame[["stack", "kind", "layer"]].drop_duplicates())
    n, length = table.metadata.get("n_sequences"), table.metadata.get("length")
    read = "" if n is None or length is None else f", read on {n} sequences of {tokens_in_words(length)}"
    return f": {len(table.frame)} heads in {layers} layers{read}"


def _told(name: str, results: Results) -> str:
    if name.removesuffix("/") in (part.folder.name for part in results.parts):
        return "results of one part, a folder like this one"
    return FILES.get(name, "not of headprobe")


def _columns(table: HeadTable, kind: str) -> Iterator[str]:
    yield "## Columns of heads.parquet"
    roles = "" if kind == "retrieval" else "; `roles` is what it is called by the thresholds in the metadata"
    yield f"`stack`, `kind`, `layer`, `head` name a head, from 0; `kv_head` is the key/value head that it reads{roles}."
    rows = []
    for name in table.metrics:
        told = describe(name, table.metadata)
        end = "no bound" if told.top is None else f"0 to {told.top:g}"
        rows.append([code(name), escape_markdown(f"{told.title}: {told.formula}"), escape_markdown(told.unit), end])
    yield "\n".join(table_lines(["column", "what it is", "unit", "range"], rows))
    yield ("Beside a metric `m`: `m_low` and `m_high`, its 95 % bootstrap interval; of an effect `m_p` and `m_q`, its "
           "p-value and that corrected for all heads; `n_m`, the number of measurements where it is not the same for "
           "all heads. Empty: not defined for that head.")  # fmt: skip


def _loading(files: list[str]) -> Iterator[str]:
    tables = [name for name in files if name.endswith(".parquet") and _CONFIG.fullmatch(name.removesuffix(".parquet"))]
    if tables:
        shown = "heads.parquet" if "heads.parquet" in tables else tables[0]
        lines = [
            "import pandas", f'frame = pandas.read_parquet("{shown}")', "",
            "from datasets import load_dataset  # the folder, or its name on the hub",
            f'rows = load_dataset(".", "{shown.removesuffix(".parquet")}", split="train")',
        ]  # fmt: skip
        yield "\n".join(["```python", *lines, "```"])
    yield "With headprobe, every file checked:"
    yield '```python\nfrom probe.results import read_results\n\nresults = read_results(".")\n```'


def _made(results: Results) -> Iterator[str]:
    if results.command is not None:
        shown = "".join(one if one in " \n" else show_token(one) for one in results.command)
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
        yield f"{fence}\n{shown}\n{fence}"
    metadata = results.table.metadata if results.table is not None else {}
    rows = [[label, escape_markdown(str(metadata[name]))] for name, label in _PROVENANCE.items()
            if isinstance(metadata.get(name), str | int)]  # fmt: skip
    versions = metadata.get("versions")
    if isinstance(versions, Mapping) and versions:
        rows.append(["versions", escape_markdown(", ".join(f"{name} {number}" for name, number in versions.items()))])
    if rows:
        yield "\n".join(table_lines(["what", "value"], rows))


_PROVENANCE: Mapping[str, str] = {
    "model": "model", "source": "source of the weights", "weight_hash": "SHA-256 of the weights",
    "dtype": "number type", "device": "device", "text": "text that was read", "bos": "begin-of-sequence token",
    "tokens_hash": "SHA-256 of the tokens", "seed": "seed", "definitions": "version of the definitions",
}  # fmt: skip
