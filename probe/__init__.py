"""A microscope for attention heads: what every head of a pretrained model does, at any length.

Names are imported when first used, so that `import probe` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe.analyses.ablation import Ablation as Ablation
    from probe.analyses.ablation import ablate as ablate
    from probe.analyses.needles import Needle as Needle
    from probe.analyses.overlap import overlap as overlap
    from probe.analyses.removal import RemovalPlan as RemovalPlan
    from probe.analyses.repair import repair as repair
    from probe.analyses.retrieval import retrieval as retrieval
    from probe.analyses.retrieval_ablation import AblationPlan as AblationPlan
    from probe.analyses.retrieval_result import RetrievalResult as RetrievalResult
    from probe.analyses.transfer import transfer as transfer
    from probe.attention_view import AttentionView as AttentionView
    from probe.attention_view import attention_view as attention_view
    from probe.circuits.plan import CircuitPlan as CircuitPlan
    from probe.circuits.study import circuit as circuit
    from probe.closeups import closeups as closeups
    from probe.comparisons.compare import compare as compare
    from probe.comparisons.comparison import Comparison as Comparison
    from probe.errors import ModelError as ModelError
    from probe.errors import ProbeError as ProbeError
    from probe.errors import ResultsError as ResultsError
    from probe.errors import StudyError as StudyError
    from probe.errors import TokensError as TokensError
    from probe.explorer import Explorer as Explorer
    from probe.explorer import explore as explore
    from probe.look import pattern as pattern
    from probe.look import top_pairs as top_pairs
    from probe.models import Loaded as Loaded
    from probe.models import list_models as list_models
    from probe.models import load as load
    from probe.page.report import write_report as write_report
    from probe.planted.models import PLANTED_ROLES as PLANTED_ROLES
    from probe.planted.models import planted_gpt2 as planted_gpt2
    from probe.planted.models import planted_llama as planted_llama
    from probe.results import read_results as read_results
    from probe.results import together as together
    from probe.scan import scan as scan
    from probe.studies.file import Study as Study
    from probe.studies.study import study as study
    from probe.table import HeadTable as HeadTable
    from probe.token_file import token_texts as token_texts
    from probe.tokens import cut_pieces as cut_pieces
    from probe.tokens import natural_text as natural_text
    from probe.tokens import random_repeats as random_repeats
    from probe.tokens import token_strings as token_strings

_HOMES = {
    "probe.analyses.ablation": ("Ablation", "ablate"),
    "probe.analyses.needles": ("Needle",),
    "probe.analyses.overlap": ("overlap",),
    "probe.analyses.removal": ("RemovalPlan",),
    "probe.analyses.repair": ("repair",),
    "probe.analyses.retrieval": ("retrieval",),
    "probe.analyses.retrieval_ablation": ("AblationPlan",),
    "probe.analyses.retrieval_result": ("RetrievalResult",),
    "probe.analyses.transfer": ("transfer",),
    "probe.attention_view": ("AttentionView", "attention_view"),
    "probe.circuits.plan": ("CircuitPlan",),
    "probe.circuits.study": ("circuit",),
    "probe.closeups": ("closeups",),
    "probe.comparisons.compare": ("compare",),
    "probe.comparisons.comparison": ("Comparison",),
    "probe.errors": ("ModelError", "ProbeError", "ResultsError", "StudyError", "TokensError"),
    "probe.explorer": ("Explorer", "explore"),
    "probe.look": ("pattern", "top_pairs"),
    "probe.models": ("Loaded", "list_models", "load"),
    "probe.planted.models": ("PLANTED_ROLES", "planted_gpt2", "planted_llama"),
    "probe.page.report": ("write_report",),
    "probe.results": ("read_results", "together"),
    "probe.scan": ("scan",),
    "probe.studies.study": ("study",),
    "probe.studies.file": ("Study",),
    "probe.table": ("HeadTable",),
    "probe.token_file": ("token_texts",),
    "probe.tokens": ("cut_pieces", "natural_text", "random_repeats", "token_strings"),
}
_PUBLIC = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_PUBLIC)
__version__ = "0.1.0"


class _Package(ModuleType):
    """Keeps `probe.scan` the function when its module of the same name is imported."""

    def __getattr__(self, name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'probe' has no attribute {name!r}")
        value = getattr(import_module(_PUBLIC[name]), name)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_PUBLIC})


sys.modules[__name__].__class__ = _Package
