"""LaTeX of a head table: balanced, a cell a column, and no text of a table's that LaTeX would obey."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.exports.latex import escape_latex, latex_table
from probe.exports.request import Asked
from probe.table import HeadTable

_OURS = re.compile(
    r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar|textquotedbl|textasciigrave"
    r"|textvisiblespace)\{\}|\\texttt\{U\+[0-9A-F]{4,6}\}|\\[{}$&#%_]"
    r"|\$(-|\^2|_[0-9]|\\(geq|leq|neq|times|rightarrow|cdot|infty|Sigma|alpha|beta|lambda|Delta|pm|\|))\$|(?<=[-',])\{\}"
)


def unescaped(text: str) -> str:
    """What is left for LaTeX to obey of an escaped text, once what we write ourselves is taken out."""
    return "".join(re.findall(r"[\\{}$&#%_^~<>|\"`]|[^\x20-\u017f]|[\x7f-\x9f]", _OURS.sub("", text)))


def check(source: str) -> list[list[str]]:
    """Environments nest, braces balance, every row has as many cells as there are columns; the rows' cells."""
    body = re.sub(r"^%.*\n", "", source)
    assert not re.search(r"(?<!\\)%", body)
    bare = re.sub(r"\\[\\{}$&#%_]", "", body)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    opened = []
    for verb, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if verb == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    kinds = re.search(r"\\begin\{tabular\}\{([lr]+)\}", body)
    assert kinds is not None
    rows = [line.strip().removesuffix(r"\\") for line in body.splitlines() if line.endswith(r"\\")]
    cells = [re.split(r"(?<!\\)&", row) for row in rows]
    assert {len(row) for row in cells} == {len(kinds[1])}
    return cells


def made(table: HeadTable, *columns: str, top: int | None = None) -> str:
    return latex_table(table, Asked(columns, top)).files["heads.tex"].decode()


def test_a_table_is_whole(small: HeadTable):
    source = made(small, "retrieval", "sink_learned", "roles", top=3)
    cells = check(source)
    assert len(cells) == 4
    assert [cell.strip() for cell in cells[1][:3]] == ["L2H3", "0.55 [0.50, 0.61]", "n/a"]
    assert r"\label{tab:heads-retrieval-sink-learned-roles}" in source
    assert r"head & retrieval & sink\_learned & roles \\" in source


def test_signs_and_powers_are_mathematics(effect_table: HeadTable):
    source = made(effect_table, "ablation_ioi")
    check(source)
    assert re.search(r"L25H1 & \$-0\.\d+\$ \[\$-\d\.\d+\$, \$-0\.\d+\$\]", source)
    small = effect_table.frame.assign(ablation_ioi_q=1.2e-7)
    assert r"$1.2\times 10^{-7}$" in made(HeadTable(small, {}, effect_table.metadata), "ablation_ioi")


def test_nothing_of_a_hostile_table_is_obeyed(nasty: HeadTable):
    source = made(nasty, nasty.metrics[-1], "roles", top=2)
    assert len(check(source)) == 3
    assert r"\input" not in source
    assert source.count(r"\end{table}") == 1
    caption = re.search(r"\\caption\{(.*)\}\n", source)
    assert caption is not None
    assert unescaped(caption[1]) == ""
    assert r"\textbackslash{}input\{/etc/passwd\}" in caption[1]
    assert r"\texttt{U+4E2D}" in caption[1]


def test_the_check_finds_what_is_wrong():
    assert unescaped(r"a_b") == "_"
    assert unescaped(r"100%") == "%"
    assert unescaped(r"\input{x}") == "\\{}"
    assert unescaped("中") == "中"
    for wrong in (r"\begin{tabular}{ll}" + "\na & b & c \\\\\n" + r"\end{tabular}", r"\begin{table}\begin{tabular}{l}"):
        with pytest.raises(AssertionError):
            check(wrong)


def test_every_special_has_its_escape():
    assert escape_latex("a_b & 50% {x} #1 $y$") == r"a\_b \& 50\% \{x\} \#1 \$y\$"
    assert escape_latex("a\\b^c~d") == r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d"
    assert escape_latex("--- '' é") == "-{}-{}- '{}' é"
    assert escape_latex("α ≥ Σ") == r"$\alpha$ $\geq$ $\Sigma$"
    assert escape_latex("\n") == r"\texttt{U+23CE}"


@given(st.text(max_size=40))
def test_any_text_is_escaped(text: str):
    assert unescaped(escape_latex(text)) == ""


def test_the_attack_is_one(nasty: HeadTable):
    assert unescaped(nasty.metadata["model"]) != ""
    assert unescaped(nasty.metrics[-1]) != ""
