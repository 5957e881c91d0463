"""Coloured objects: three objects with their colours, one is asked for; one answered question goes before.

The format is that of Merullo et al. (arXiv 2310.08744): places, phrases, objects and colours as published, the six
colours of a prompt all different, so that the answer was not in the example. The `other_object` twin asks for another
of the three.
"""

from __future__ import annotations

import numpy as np

from probe.tasks.ask import Ask, Made
from probe.tasks.task import Prompt
from probe.tasks.wording import Wording

CORRUPTIONS = ("other_object",)
PLACES = ("table", "desk", "floor")
PHRASES = ("I see", "you see", "there is")
COLORS = ("brown", "yellow", "black", "orange", "purple", "green", "red", "blue")
# fmt: off
OBJECTS = (
    "bracelet", "cup", "notebook", "textbook", "puzzle", "mug", "bowl", "pencil", "envelope", "plate", "leash",
    "necklace", "jug", "lighter", "bottle", "pen", "ball",
)
# fmt: on
TEMPLATE = (
    "Q: On the {place0}, {see0} {a00} {color00} {object00}, {a01} {color01} {object01}, "
    "and {a02} {color02} {object02}. What color is the {asked0}?\nA: {answer}\n"
    "Q: On the {place1}, {see1} {a10} {color10} {object10}, {a11} {color11} {object11}, "
    "and {a12} {color12} {object12}. What color is the {asked1}?\nA:"
)


def colored_objects(ask: Ask) -> Made:
    """Prompts whose answer is one of three colours, capitalised; wrong: the other two. Raises TokensError.

    Positions: ANSWER and OBJECT (the right colour and its object in the list), ASKED (the object in the question), END.
    """
    wording = Wording(ask)
    capital = {color.capitalize() for color in COLORS}
    spoken = set(wording.single("capitalised colours", sorted(capital), 6, before="A:"))
    colors = wording.single("colours", [color for color in COLORS if color.capitalize() in spoken], 6)
    objects = wording.single("objects", OBJECTS, 6)
    rng, twin_rng = ask.generator(), ask.generator(1)

    def one(_: int) -> Prompt:
        shown = [colors[int(i)] for i in rng.choice(len(colors), 6, replace=False)]
        things = [objects[int(i)] for i in rng.choice(len(objects), 6, replace=False)]
        before, right = (int(i) for i in rng.integers(3, size=2))
        slots = {**_list(0, shown[:3], things[:3], rng), **_list(1, shown[3:], things[3:], rng)}
        slots |= {"asked0": things[before], "answer": shown[before].capitalize()}
        clean = wording.fill(TEMPLATE, **slots, asked1=things[3 + right])
        other = (right + 1 + int(twin_rng.integers(2))) % 3
        twin = wording.fill(TEMPLATE, **slots, asked1=things[3 + other])
        wrong = [index for index in range(3) if index != right]
        spoken = [wording.answer(clean.text, f" {color.capitalize()}") for color in shown[3:]]
        return Prompt(
            clean_ids=clean.ids,
            answer_ids=(spoken[right],),
            wrong_ids=tuple(spoken[index] for index in wrong),
            metric_positions=(len(clean.ids) - 1,),
            clean=clean.text,
            positions={
                "ANSWER": clean.at[f"color1{right}"],
                "OBJECT": clean.at[f"object1{right}"],
                "ASKED": clean.at["asked1"],
                **{f"WRONG{number}": clean.at[f"color1{index}"] for number, index in enumerate(wrong, start=1)},
                "END": len(clean.ids) - 1,
            },
            corrupted_ids=twin.ids,
            corrupted=twin.text,
        )

    notes = (
        *wording.notes,
        *wording.left_out("colours", COLORS, colors),
        *wording.left_out("objects", OBJECTS, objects),
    )
    return Made(ask.draw(ask.total, one), ask.prompts, chance=1 / 3, notes=notes)


def _list(number: int, colors: list[str], things: list[str], rng: np.random.Generator) -> dict[str, str]:
    """The slots of one list: where, seen how, and three objects each with its colour and its article."""
    slots = {f"place{number}": str(rng.choice(PLACES)), f"see{number}": str(rng.choice(PHRASES))}
    for index, (color, thing) in enumerate(zip(colors, things, strict=True)):
        article = "an" if color[0] in "aeiou" else "a"
        slots |= {f"a{number}{index}": article, f"color{number}{index}": color, f"object{number}{index}": thing}
    return slots
