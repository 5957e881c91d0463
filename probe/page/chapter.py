"""What one study adds to the page: its sections and figures, and its share of the findings and the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go

from probe.page.findings import Finding
from probe.page.markup import Html


@dataclass(frozen=True, eq=False)
class Chapter:
    """Everything the page shows of one study.

    summary: a sentence for the head of the page. findings: cards, in order. uncertainty: what their brackets are.
    sections: identifier → name in the contents, and the section. figures: by the names that the sections have places
    for. limits: what a reader must not conclude.
    """

    summary: str = ""
    findings: Sequence[Finding] = ()
    uncertainty: Sequence[str] = ()
    sections: Mapping[str, tuple[str, Html]] = field(default_factory=dict)
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    limits: Sequence[str] = ()
