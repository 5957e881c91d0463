"""Prompts as lines that another program can read."""

from __future__ import annotations

import json

from probe.studies.prompts import means_jsonl, prompts_jsonl
from probe.tasks.task import Prompt, Task


def prompt(number, **more):
    return Prompt((1, 2, number), (4,), (5,), (2,), "a \u2028 b", positions={"END": 2}, **more)


TASK = Task("t", "logit_diff", (prompt(3, corrupted_ids=(1, 2, 9), corrupted="c"), prompt(4)), (prompt(6),))


def test_every_prompt_is_one_line_of_json():
    lines = prompts_jsonl([TASK, TASK]).decode("ascii").split("\n")
    assert lines.pop() == ""
    found = [json.loads(line) for line in lines]
    assert [one["index"] for one in found] == [0, 1, 0, 1]
    assert found[0] == {
        "task": "t", "index": 0, "metric": "logit_diff", "clean_ids": [1, 2, 3], "corrupted_ids": [1, 2, 9],
        "answer_ids": [4], "wrong_ids": [5], "metric_positions": [2], "target_ids": None, "positions": {"END": 2},
        "clean": "a \u2028 b", "corrupted": "c", "template": "", "group": "",
    }  # fmt: skip
    assert found[1]["corrupted_ids"] is None


def test_held_out_prompts_are_apart():
    (line,) = means_jsonl([TASK]).decode().splitlines()
    assert json.loads(line)["clean_ids"] == [1, 2, 6]
    assert means_jsonl([Task("t", "logit_diff", (prompt(3),))]) == b""
