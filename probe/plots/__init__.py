"""Figures from tables: plotly, one look. Every figure is a name of this package, imported when first used.

Colours, axes and titles are in `style`, marks on maps in `cells`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe.plots.ablation import effect_map as effect_map
    from probe.plots.ablation import estimate_scatter as estimate_scatter
    from probe.plots.ablation import ranked_effects as ranked_effects
    from probe.plots.ablation import removal as removal
    from probe.plots.beside import overlap_measures as overlap_measures
    from probe.plots.beside import part_draws as part_draws
    from probe.plots.beside import repair_draws as repair_draws
    from probe.plots.beside import transfer_draws as transfer_draws
    from probe.plots.circuit import circuit_graph as circuit_graph
    from probe.plots.circuit_tests import completeness_scatter as completeness_scatter
    from probe.plots.circuit_tests import minimality_marks as minimality_marks
    from probe.plots.faithfulness import edge_curve as edge_curve
    from probe.plots.faithfulness import head_curve as head_curve
    from probe.plots.heads import head_map as head_map
    from probe.plots.heads import ranked as ranked
    from probe.plots.metrics import scatter as scatter
    from probe.plots.overlap import overlap_map as overlap_map
    from probe.plots.overlap import overlap_matrix as overlap_matrix
    from probe.plots.overlap import score_scatter as score_scatter
    from probe.plots.profiles import offset_spectrum as offset_spectrum
    from probe.plots.profiles import received as received
    from probe.plots.profiles import thumbnails as thumbnails
    from probe.plots.retrieval import recall_by_length as recall_by_length
    from probe.plots.retrieval import recall_by_place as recall_by_place
    from probe.plots.retrieval import recall_without as recall_without
    from probe.plots.sources import direct_map as direct_map
    from probe.plots.sources import importance_map as importance_map
    from probe.plots.sources import patched_map as patched_map
    from probe.plots.sources import path_map as path_map
    from probe.plots.sources import scores_map as scores_map
    from probe.plots.style import untitled as untitled
    from probe.plots.transfer import removed_marks as removed_marks
    from probe.plots.transfer import transfer_matrix as transfer_matrix

_HOMES = {
    "ablation": ("effect_map", "estimate_scatter", "ranked_effects", "removal"),
    "beside": ("overlap_measures", "part_draws", "repair_draws", "transfer_draws"),
    "circuit": ("circuit_graph",),
    "circuit_tests": ("completeness_scatter", "minimality_marks"),
    "faithfulness": ("edge_curve", "head_curve"),
    "heads": ("head_map", "ranked"),
    "metrics": ("scatter",),
    "overlap": ("overlap_map", "overlap_matrix", "score_scatter"),
    "profiles": ("offset_spectrum", "received", "thumbnails"),
    "retrieval": ("recall_by_length", "recall_by_place", "recall_without"),
    "sources": ("direct_map", "importance_map", "patched_map", "path_map", "scores_map"),
    "style": ("untitled",),
    "transfer": ("removed_marks", "transfer_matrix"),
}
_PUBLIC = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'probe.plots' has no attribute {name!r}")
    return getattr(import_module(f"probe.plots.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
