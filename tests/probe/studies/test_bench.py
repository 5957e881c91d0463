"""Benches by task, and workers that refuse to compute with anything else."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from probe.errors import ResultsError, TokensError
from probe.models import load
from probe.studies.bench import Benches, Recipe
from probe.studies.file import Study
from probe.studies.identity import versions
from probe.tasks.build import build

STUDY = Study(("planted",), ("induction", "names"), modes=("zero",), prompts=3)


@pytest.fixture(scope="module")
def ready():
    loaded = load("planted")
    return loaded, tuple(build(name, loaded, prompts=3) for name in STUDY.tasks)


@pytest.fixture
def recipe(ready):
    return Recipe("planted", STUDY, ready[1], ready[0].weight_hash, versions())


def test_each_task_has_its_bench_and_back_and_forth_changes_nothing(ready):
    benches = Benches(*ready, STUDY)
    pieces = [benches.of(task).clean_pieces("zero")[0] for task in STUDY.tasks]
    first = [benches.compute(piece).tobytes() for piece in pieces]
    assert [benches.compute(piece).tobytes() for piece in pieces] == first
    assert first[0] != first[1]
    assert benches.cost(pieces[0]) == 3
    assert benches.group_size >= 1
    benches.verify()


def test_a_worker_made_by_the_recipe_computes_the_same(ready, recipe):
    benches = Benches(*ready, STUDY)
    piece = benches.of("names").ablation_pieces("zero", benches.of("names").units[:8])[0]
    worker = pickle.loads(pickle.dumps(recipe.make()))()
    assert worker(piece).tobytes() == benches.compute(piece).tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_hash": "0" * 64}, "a worker's planted has the weights .* put the same model there"),
        ({"versions": {"torch": "1.0"}}, r"a worker has torch .*, and the study 1\.0; install the same there"),
    ],
)
def test_a_worker_with_another_model_or_library_refuses(recipe, changes, message):
    with pytest.raises(ResultsError, match=message):
        replace(recipe, **changes).make()()


def test_a_place_that_a_task_lacks_is_refused_at_once(ready):
    with pytest.raises(TokensError, match="NOWHERE"):
        Benches(*ready, replace(STUDY, positions="NOWHERE"))
