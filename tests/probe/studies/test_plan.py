"""The cost said beforehand is the cost that is paid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probe.models import load
from probe.studies.bench import Benches
from probe.studies.file import Study
from probe.studies.plan import Plan, draws_curves, duration, plan
from probe.tasks.build import build

STUDY = Study(("planted",), ("induction",), prompts=4, curve=False)


@pytest.fixture(scope="module")
def ready():
    loaded = load("planted")
    return loaded, [build("induction", loaded, prompts=4, length=25)]


def planned(ready, done=frozenset(), **changes):
    study = replace(STUDY, **changes)
    return plan(study, Benches(ready[0], ready[1], study), ready[1], done)


def test_layer_forwards_are_counted_as_the_methods_count_them(ready):
    # Three layers of eight heads: clean 3, each head from its layer on 8 · (3 + 2 + 1) = 48.
    assert planned(ready).known == 51
    assert planned(ready).most == 0
    # A second mode shares the clean run; a gradient is one forward and one backward: 3 · 3.
    assert planned(ready, modes=("mean", "zero")).known == 3 + 2 * 48
    assert planned(ready, methods=("exact", "gradient")).known == 51 + 9
    # Layers: the clean run, and one run for each from it on.
    assert planned(ready, unit="layer").known == 3 + 3 + 2 + 1


def test_what_only_the_work_can_tell_is_bounded(ready):
    assert planned(ready, methods=("hybrid",)).known == 3 + 9
    assert planned(ready, methods=("hybrid",)).most == 48
    assert planned(ready, methods=("hybrid", "exact")).most == 0, "the exact pieces are known"
    # Sets of 1, 2, 5 and 10 heads (half of 24 is 12), 22 of each, at most all three layers on all four prompts.
    assert planned(ready, curve=True).most == 4 * 22 * 3
    assert not draws_curves(replace(STUDY, curve=True, unit="layer"))


def test_what_is_there_is_not_counted_again(ready):
    whole = planned(ready)
    rest = planned(ready, frozenset(piece.key for piece in whole.pieces[:2]))
    assert rest.done == 2
    assert rest.known < whole.known
    assert rest.pieces == whole.pieces
    assert planned(ready, frozenset(piece.key for piece in whole.pieces)).known == 0


def test_time_and_memory_are_of_the_right_size(ready):
    found = planned(ready)
    # 51 blocks of a tiny model over 4 × 25 tokens: far more than a microsecond each, far less than a second.
    assert 51e-6 < found.seconds < 51
    weights = sum(weight.nbytes for weight in ready[0].model.parameters())
    assert weights < found.memory < weights + 4 * 2**30


def test_the_plan_in_words():
    assert Plan((), 4_185, 0, 360, 2**30).sentence() == "4,185 layer-forwards; about 6 minutes, 1.0 GiB of memory"
    assert Plan((), 60, 48, 30, 2**29).sentence(2) == (
        "60 layer-forwards and at most 48 more; about 15 seconds, 1.0 GiB of memory"
    )
    assert Plan((1, 2), 0, 0, 0, 2**30, 2).sentence().startswith("0 layer-forwards (2 of 2 pieces are there already)")
    said = [duration(seconds) for seconds in (0, 40, 720, 12_600)]
    assert said == ["1 seconds", "40 seconds", "12 minutes", "3.5 hours"]
