"""What holds for every task: one length, no copies, everything from the seed, refusals in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from probe.errors import TokensError
from probe.models import Loaded
from probe.tasks.build import TASKS, build
from probe.tasks.task import METRICS, Task

WORDED = ["ioi", "colored_objects", "greater_than", "capital", "mcq", "kv_json"]
PLANTED = ["names", "induction", "mqar", "needle", "lm", "lm_recall", "lm_rest"]
PAIRS = ["recall", "translate"]
LENGTHS = {"needle": 64, "lm": 64, "lm_recall": 64, "lm_rest": 64}


@pytest.fixture
def host(planted: Loaded, wordy: Loaded, models: Callable[[str], Loaded]) -> Callable[[str], Loaded]:
    return lambda name: models("planted-circuits") if name in PAIRS else planted if name in PLANTED else wordy


def made(name: str, loaded: Loaded, **asked: object) -> Task:
    return build(name, loaded, **{"prompts": 8, "length": LENGTHS.get(name), **asked})  # type: ignore[arg-type]


def test_every_task_is_here():
    assert sorted(TASKS) == sorted(WORDED + PLANTED + PAIRS)
    assert all(kind.metric in METRICS and kind.what for kind in TASKS.values())


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_alike_in_length_and_in_nothing_else(name: str, host: Callable[[str], Loaded]):
    task = made(name, host(name))
    everyone = [*task.prompts, *task.held_out]
    assert len(task.prompts) == 8
    assert len(task.held_out) == (0 if name == "capital" else 8)
    assert len({len(prompt.clean_ids) for prompt in everyone}) == 1
    assert len({prompt.clean_ids for prompt in everyone}) == len(everyone)
    assert all(prompt.positions["END"] == prompt.metric_positions[-1] for prompt in everyone)
    assert all(0 <= place < task.length for prompt in everyone for place in prompt.positions.values())
    assert not any(set(prompt.answer_ids) & set(prompt.wrong_ids) for prompt in everyone)
    assert any("BOS" in note or "<bos>" in note for note in task.notes)
    assert 0 < task.chance < 1


@pytest.mark.parametrize("name", TASKS)
def test_everything_comes_from_the_seed(name: str, host: Callable[[str], Loaded]):
    loaded = host(name)
    task = made(name, loaded)
    assert task == made(name, loaded)
    assert task.prompts != made(name, loaded, seed=1).prompts


@pytest.mark.parametrize("name", TASKS)
def test_more_prompts_begin_with_the_fewer_ones(name: str, host: Callable[[str], Loaded]):
    loaded = host(name)
    few = made(name, loaded, prompts=3)
    many = made(name, loaded, prompts=8, **({} if name == "capital" else {"held_out": 2}))
    assert many.prompts[:3] == few.prompts


@pytest.mark.parametrize("name", [name for name, kind in TASKS.items() if kind.corruptions])
def test_twins_differ_and_do_not_move_the_clean_prompts(
    name: str, host: Callable[[str], Loaded], differing: Callable[..., list[int]]
):
    first, *others = (made(name, host(name), corruption=one) for one in TASKS[name].corruptions)
    assert first == made(name, host(name)), "the first corruption is the default"
    for task in (first, *others):
        assert task.paired
        assert all(differing(prompt) for prompt in task.prompts)
        assert [prompt.clean_ids for prompt in task.prompts] == [prompt.clean_ids for prompt in first.prompts]
    assert all(task.prompts != first.prompts for task in others)


def test_tasks_without_twins(planted: Loaded):
    task = made("lm", planted)
    assert not task.paired
    with pytest.raises(TokensError, match="task lm: corruption 's2_io'; wanted one of: none: this task has no twins"):
        build("lm", planted, corruption="s2_io")


@pytest.mark.parametrize("name", WORDED)
def test_planted_models_are_refused_words(name: str, planted: Loaded):
    with pytest.raises(TokensError, match=f"^task {name}: 0 of .* are one token of this tokenizer") as refused:
        build(name, planted)
    assert "\n" not in str(refused.value)


def test_names_want_the_planted_vocabulary(wordy: Loaded):
    with pytest.raises(TokensError, match="task names: it is made of the planted models' vocabulary"):
        build("names", wordy)


@pytest.mark.parametrize("name", WORDED)
def test_no_tokenizer_no_words(name: str, wordy: Loaded):
    with pytest.raises(TokensError, match=f"^task {name}: it is asked in words, and the model has no tokenizer"):
        build(name, replace(wordy, tokenizer=None))


def test_random_tasks_need_no_tokenizer(wordy: Loaded):
    for name in ("induction", "mqar"):
        assert build(name, replace(wordy, tokenizer=None), prompts=2).prompts[0].clean.startswith("#1 #")


@pytest.mark.parametrize("name", ["planted-gpt2", "planted-shuffled"])
def test_the_other_planted_models(name: str, planted: Loaded, models: Callable[[str], Loaded]):
    loaded = models(name)
    for task in ("names", "induction"):
        assert made(task, loaded) == made(task, planted)


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("ioi2", {}, "unknown task 'ioi2'; wanted one of ioi, names, colored_objects"),
        ("ioi", {"corruption": "swap"}, "corruption 'swap'; wanted one of: s2_io, abc"),
        ("ioi", {"metric": "f1"}, "metric 'f1'; wanted one of logit_diff"),
        ("ioi", {"metric": "neg_loss"}, "neg_loss wants a target"),
        ("ioi", {"length": 20}, "length 20; its prompts have the length of their words"),
        ("ioi", {"text": "a"}, "it reads no text"),
        ("ioi", {"prompts": 0}, "prompts 0; wanted a whole number, 1 or more"),
        ("ioi", {"prompts": 2.5}, "prompts 2.5; wanted a whole number"),
        ("ioi", {"held_out": -1}, "held_out -1; wanted a whole number, 0 or more"),
        ("ioi", {"seed": -1}, "seed -1; wanted"),
        ("capital", {"held_out": 4}, "held_out 4; the facts are few and none are held out"),
    ],
)
def test_bad_requests(name: str, asked: dict[str, object], said: str, wordy: Loaded):
    with pytest.raises(TokensError, match=said):
        build(name, wordy, **asked)  # type: ignore[arg-type]


def test_longer_than_the_model_reads(planted: Loaded):
    with pytest.raises(TokensError, match="prompts of 4099 tokens; the model reads 4096: ask for shorter ones"):
        build("induction", planted, length=4099, prompts=1, held_out=0)


def test_another_metric(wordy: Loaded):
    assert build("ioi", wordy, prompts=2, metric="prob_diff").metric == "prob_diff"
    assert build("ioi", wordy, prompts=2, metric="neg_kl").metric == "neg_kl"
