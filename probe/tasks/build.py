"""Every task by name, and the one function that makes its prompts for the model at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from probe.errors import TokensError
from probe.models import Loaded
from probe.running import Running
from probe.tasks import (
    capital,
    colored_objects,
    greater_than,
    induction,
    ioi,
    kv_json,
    lm,
    mcq,
    mqar,
    names,
    needle,
    pairs,
)
from probe.tasks.ask import Ask, Made
from probe.tasks.task import METRICS, Task


@dataclass(frozen=True)
class TaskKind:
    """A task that can be built: what it asks, how its prompts are made, its default metric.

    corruptions: the twins it can make, the default first; none where it has no twins. sized: whether `length` can be
    asked for. reads: whether it takes a text of the caller's.
    """

    what: str
    make: Callable[[Ask], Made]
    metric: str
    corruptions: tuple[str, ...] = ()
    sized: bool = False
    reads: bool = False


TASKS: dict[str, TaskKind] = {
    "ioi": TaskKind("which of two names came once", ioi.ioi, "logit_diff", ioi.CORRUPTIONS),
    "names": TaskKind(
        "the same, in the planted models' words", names.names, "logit_diff", names.CORRUPTIONS, sized=True
    ),
    "colored_objects": TaskKind(
        "the colour of one of three objects", colored_objects.colored_objects, "logit_diff", colored_objects.CORRUPTIONS
    ),
    "greater_than": TaskKind(
        "a year after the first one", greater_than.greater_than, "prob_diff", greater_than.CORRUPTIONS
    ),
    "capital": TaskKind("the capital of a country", capital.capital, "logit_diff", capital.CORRUPTIONS),
    "mcq": TaskKind("the letter of the right answer", mcq.mcq, "logit_diff", mcq.CORRUPTIONS),
    "induction": TaskKind(
        "how a random sequence goes on when it comes again", induction.induction, "neg_loss", induction.CORRUPTIONS,
        sized=True,
    ),
    "mqar": TaskKind("the value of each of many keys", mqar.mqar, "neg_loss", mqar.CORRUPTIONS, sized=True),
    "kv_json": TaskKind("the value of a key in a JSON object", kv_json.kv_json, "logit_diff", kv_json.CORRUPTIONS),
    "needle": TaskKind(
        "a made-up fact in a long text", needle.needle, "neg_loss", needle.CORRUPTIONS, sized=True, reads=True
    ),
    "lm": TaskKind("the next token of natural text", lm.lm, "neg_loss", sized=True, reads=True),
    "lm_recall": TaskKind(
        "the same where a pair of tokens comes again", lm.lm_recall, "neg_loss", sized=True, reads=True
    ),
    "lm_rest": TaskKind("the same where none does", lm.lm_rest, "neg_loss", sized=True, reads=True),
    "recall": TaskKind(
        "the value of a key, in the planted circuits' words", pairs.pairs, "logit_diff", pairs.CORRUPTIONS, sized=True
    ),
    "translate": TaskKind("the same, asked in other words", pairs.pairs, "logit_diff", pairs.CORRUPTIONS, sized=True),
}  # fmt: skip
"""The tasks by name; `probe ablate --task` takes them."""


def build(
    name: str,
    loaded: Loaded,
    *,
    prompts: int = 64,
    held_out: int | None = None,
    seed: int = 0,
    corruption: str | None = None,
    metric: str | None = None,
    length: int | None = None,
    text: str | None = None,
) -> Task:
    """The task's prompts for a model and its tokenizer, everything from the seed.

    prompts: how many are measured. held_out: further ones for means (None: as many, where the task can make them).
    corruption, metric: one of the task's and of METRICS' (None: the task's default). length: tokens of a prompt, for
    tasks whose `sized` says so. text: what `lm` and `needle` read in place of their own text.

    Equal arguments and models give equal tasks; the first prompts are the same however many are asked for, and
    whatever the corruption. Raises TokensError, one line, for what is unknown, for a number that cannot be
    meant, and for a task that this tokenizer or model cannot express.
    """
    kind = _kind(name)
    for option, value, least in (("prompts", prompts, 1), ("held_out", held_out, 0), ("seed", seed, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise TokensError(f"task {name}: {option} {value!r}; wanted a whole number, {least} or more")
    if corruption is not None and corruption not in kind.corruptions:
        known = ", ".join(kind.corruptions) or "none: this task has no twins"
        raise TokensError(f"task {name}: corruption {corruption!r}; wanted one of: {known}")
    if metric is not None and metric not in METRICS:
        raise TokensError(f"task {name}: metric {metric!r}; wanted one of {', '.join(METRICS)}")
    if length is not None and not kind.sized:
        raise TokensError(f"task {name}: length {length}; its prompts have the length of their words: leave it out")
    if text is not None and not kind.reads:
        raise TokensError(f"task {name}: it reads no text; leave it out")
    running = Running(loaded.model)
    chosen = corruption or (kind.corruptions[0] if kind.corruptions else None)
    ask = Ask(
        name, loaded.tokenizer, running.vocabulary, running.bos, running.n_ctx,
        prompts, held_out, seed, chosen, length, text,
    )  # fmt: skip
    return _task(ask, kind.make(ask), metric or kind.metric)


def _kind(name: str) -> TaskKind:
    if name not in TASKS:
        raise TokensError(f"unknown task {name!r}; wanted one of {', '.join(TASKS)}")
    return TASKS[name]


def _task(ask: Ask, made: Made, metric: str) -> Task:
    task = Task(
        name=ask.task,
        metric=metric,
        prompts=made.prompts[: made.measured],
        held_out=made.prompts[made.measured :],
        chance=made.chance,
        seed=ask.seed,
        notes=made.notes,
        parameters={"corruption": ask.corruption, "length": len(made.prompts[0].clean_ids), **made.parameters},
    )
    if ask.limit is not None and task.length > ask.limit:
        raise ask.error(f"prompts of {task.length} tokens; the model reads {ask.limit}: ask for shorter ones")
    return task
