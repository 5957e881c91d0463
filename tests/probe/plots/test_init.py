from __future__ import annotations

import subprocess
import sys

import pytest

import probe.plots


def test_every_figure_is_a_name_of_the_package() -> None:
    for name in probe.plots.__all__:
        figure = getattr(probe.plots, name)
        assert figure.__name__ == name
        assert figure.__module__.startswith("probe.plots.")
    assert set(probe.plots.__all__) <= set(dir(probe.plots))


def test_modules_keep_their_names_and_unknown_ones_are_refused() -> None:
    from probe.plots import retrieval

    assert retrieval.__name__ == "probe.plots.retrieval"
    with pytest.raises(AttributeError, match="no attribute 'pie'"):
        getattr(probe.plots, "pi" + "e")


def test_results_draw_themselves_without_plotly_until_asked() -> None:
    code = "import probe.analyses.overlap, probe.table, sys; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
