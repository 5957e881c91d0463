"""The report's section on methods: what every column means, and where every method comes from."""

from __future__ import annotations

from probe.columns import describe
from probe.page.findings import kept
from probe.page.markup import Html, el
from probe.page.material import Material
from probe.page.sections import breakable, scrolling, section
from probe.page.sources import STATISTICS, Source, sources
from probe.table import HeadTable


def methods_part(page: Material) -> Html:
    """Definitions of the columns, then sources with their departures."""
    table = page.table
    rows = [
        el("tr", el("th", el("code", breakable(told.name)), scope="row"), el("td", told.title),
           el("td", told.formula), el("td", told.unit))
        for told in (describe(name, table.metadata) for name in table.metrics)
    ]  # fmt: skip
    content: list[object] = [el("h3", "Definitions"), el("p", _notation(table)) if table.scanned else None]
    content.append(scrolling("Definitions of the columns", ("column", "what it is", "formula", "unit"), rows))
    content.append(el("h3", "Sources, and what is done otherwise"))
    content.append(el("dl", *map(_source, (*sources(page), *STATISTICS)), class_="sources"))
    return section("methods", "Methods", *content)


def _notation(table: HeadTable) -> str:
    return (
        "P[i, j] is the weight of query i on key j after mask and softmax, from q and k as the model uses "
        "them; t_i the token at position i; z_i = Σ_j P[i, j] v_j; o_i what the head writes to the residual "
        "stream. "
        f"Streaming keeps {kept(table)}. Values are made per sequence, then averaged over sequences; "
        "intervals are percentile bootstraps of 2,000 resamples of whole sequences, the same for all heads. "
        "Every statistic is streamed from q, k and v at the attention call: no map of all queries and keys is built."
    )


def _source(one: Source) -> Html:
    place = f" ({one.place})" if one.place else ""
    departs = "" if one.departs == "nothing" else f" Here: {one.departs}"
    return el("div", el("dt", one.what), el("dd", f"{one.paper.rstrip('.')}{place}.{departs}"))
