"""Heads, groups and layers as units of removal."""

from __future__ import annotations

import pytest

from probe.analyses.units import named, set_unit, units_of
from probe.errors import TokensError
from probe.running import Running


def test_units_cover_every_head_once(make_llama):
    running = Running(make_llama(layers=2))
    every = [(layer, head) for layer in range(2) for head in range(4)]
    for kind, count in (("head", 8), ("kv_group", 4), ("layer", 2)):
        units = units_of(running, kind)
        assert len(units) == count
        assert [head for unit in units for head in unit.heads] == every
        assert len({unit.name for unit in units}) == count
    assert units_of(running, "kv_group")[3].name == "L1G1"
    assert units_of(running, "kv_group")[3].heads == ((1, 2), (1, 3))
    assert units_of(running)[5].name == "L1H1"


def test_a_set_is_sorted_and_has_the_lowest_layer_of_its_heads():
    unit = set_unit("mine", [(2, 1), (0, 3), (2, 1)])
    assert (unit.name, unit.heads, unit.layer) == ("set:mine", ((0, 3), (2, 1)), 0)
    with pytest.raises(TokensError, match="holds no head"):
        set_unit("none", [])


def test_unknown_kinds_and_names_are_refused_by_name(make_llama):
    running = Running(make_llama(layers=2))
    with pytest.raises(TokensError, match="unit 'neuron'; wanted one of head, kv_group, layer"):
        units_of(running, "neuron")
    units = units_of(running)
    assert [unit.name for unit in named(units, ["L1H2", "L0H0"])] == ["L1H2", "L0H0"]
    with pytest.raises(TokensError, match="no unit 'L7H0'"):
        named(units, ["L7H0"])
