"""A head table as LaTeX for booktabs: every special escaped, nothing outside what pdfLaTeX sets by itself."""

from __future__ import annotations

import re
import unicodedata

from probe.exports.printed import Printed, printed
from probe.exports.request import Asked, Made
from probe.table import HeadTable
from probe.text import show_token

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    "␣": r"\textvisiblespace{}",
}  # fmt: skip
_MATHS = {
    "−": "-", "≥": r"\geq", "≤": r"\leq", "≠": r"\neq", "×": r"\times", "→": r"\rightarrow", "·": r"\cdot",
    "∞": r"\infty", "Σ": r"\Sigma", "α": r"\alpha", "β": r"\beta", "λ": r"\lambda", "Δ": r"\Delta", "‖": r"\|",
    "²": "^2", "₂": "_2", "₀": "_0", "₁": "_1", "±": r"\pm",
}  # fmt: skip
_LIGATURE = re.compile(r"-(?=-)|'(?=')|,(?=,)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def latex_table(table: HeadTable, asked: Asked) -> Made:
    """`heads.tex`: a table environment with caption, label and notes; it needs `\\usepackage{booktabs}` (and T1 fonts
    for straight quotes). Raises ResultsError as `printed` does.
    """
    page = printed(table, asked)
    return Made({"heads.tex": "\n".join(_lines(page)).encode()})


def escape_latex(text: str) -> str:
    """Any text as LaTeX that prints it in text mode and does nothing else.

    Line ends, blanks other than a space and control characters become signs; letters that pdfLaTeX's fonts lack become
    their code point, `U+4E2D`.
    """
    shown = "".join(character if character == " " else show_token(character) for character in text)
    # Two of these in a row would be set as another sign.
    return _LIGATURE.sub(r"\g<0>{}", "".join(map(_escaped, shown)))


def _escaped(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character in _MATHS:
        return f"${_MATHS[character]}$"
    # Latin-1 and Latin Extended-A are what inputenc's utf8 knows with T1 fonts; decomposed, all are base + accent.
    if character.isascii() or (unicodedata.category(character).startswith("L") and ord(character) < 0x180):
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"


def _lines(page: Printed) -> list[str]:
    kinds = "".join("l" if words else "r" for words in page.words)
    rows = [[_cell(cell, words) for cell, words in zip(row, page.words, strict=True)] for row in page.body]
    return [
        r"% \usepackage{booktabs} and \usepackage[T1]{fontenc} in the preamble",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(page.title)}}}",
        rf"  \label{{tab:{_label(page.header)}}}",
        rf"  \begin{{tabular}}{{{kinds}}}",
        r"    \toprule",
        f"    {' & '.join(map(escape_latex, page.header))} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\smallskip",
        r"  \begin{minipage}{\linewidth}\footnotesize",
        *(rf"    {escape_latex(note)}\par" for note in page.notes),
        r"  \end{minipage}",
        r"\end{table}",
        "",
    ]


def _label(header: tuple[str, ...]) -> str:
    """`heads-induction-retrieval`: tables of other columns get another label."""
    return "-".join(
        "heads" if name == "head" else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in header
    )


def _cell(text: str, words: bool) -> str:
    return escape_latex(text) if words else _NUMBER.sub(_number, text)


def _number(found: re.Match[str]) -> str:
    """A number of ours: a true minus and powers of ten are set as mathematics."""
    mantissa, _, exponent = found[0].partition("e")
    if exponent:
        return rf"${mantissa}\times 10^{{{exponent}}}$"
    return f"${mantissa}$" if mantissa.startswith("-") else mantissa
