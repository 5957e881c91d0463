from __future__ import annotations

import numpy as np

from probe.analyses.effects import Effects
from probe.analyses.units import Unit


def test_effect_is_clean_less_ablated_prompt_by_prompt() -> None:
    units = (Unit("L0H0", "head", ((0, 0),)), Unit("L0H1", "head", ((0, 1),)))
    effects = Effects("t", "mean", "exact", units, np.array([5.0, 3.0]), np.array([[1.0, 4.0], [np.nan, 3.0]]), 7.0)
    assert effects.effect[0].tolist() == [4.0, -1.0]
    assert np.isnan(effects.effect[1, 0])
    assert effects.effect[1, 1] == 0
