"""Indirect object identification: two names, one of them again, and the model is to go on with the other.

After Wang et al. (arXiv 2211.00593): ABBA and BABA templates of our own wording, no name twice where it should be
once. In each, slots stand at the same places in every wording. Two corruptions: `s2_io` replaces S2 by IO (the right
answer becomes the other name), `abc` replaces the three names by three others, all different (the published ABC set
lets about one in a hundred collide; ours never).
"""

from __future__ import annotations

from probe.tasks.ask import Ask, Made
from probe.tasks.task import Prompt
from probe.tasks.wording import Worded, Wording, same_length

CORRUPTIONS = ("s2_io", "abc")
TEMPLATES = (
    "When {A} and {B} went to the {place} on a quiet afternoon, {C} gave a {object} to",
    "After {A} and {B} came to the {place} on a rainy morning, {C} handed a {object} to",
    "While {A} and {B} were at the {place} in the early evening, {C} gave a {object} to",
    "When {A} and {B} met at the {place} before the long trip, {C} offered a {object} to",
    "After {A} and {B} left for the {place} with some old friends, {C} gave a {object} to",
    "While {A} and {B} stayed at the {place} during the cold winter, {C} sent a {object} to",
    "Once {A} and {B} got to the {place} after a long walk, {C} showed a {object} to",
    "As {A} and {B} walked to the {place} in the bright sun, {C} gave a {object} to",
)
# fmt: off
NAMES = (
    "Mary", "John", "Tom", "James", "Paul", "Mark", "Anna", "Sarah", "Peter", "Alice", "David", "Laura", "Kevin",
    "Maria", "Robert", "Emily", "Jack", "Kate", "Simon", "Julia", "Michael", "Lisa", "Daniel", "Emma", "Steve", "Jane",
    "Thomas", "Lucy", "Adam", "Rachel", "George", "Susan", "Henry", "Karen", "Martin", "Helen", "Eric", "Amy", "Brian",
    "Ruth", "Charles", "Linda", "Frank", "Nancy", "Scott", "Diana", "Andrew", "Sophie", "Alex", "Claire", "Ben",
    "Jessica",
)
PLACES = (
    "store", "school", "park", "house", "office", "hospital", "station", "garden", "restaurant", "market", "library",
    "museum",
)
OBJECTS = ("ring", "drink", "book", "bone", "snack", "ball", "gift", "letter", "key", "basket", "flower", "computer")
# fmt: on


def ioi(ask: Ask) -> Made:
    """Prompts `… IO … S … S …` → IO, with positions IO, S1, S1+1, S2 and END. Raises TokensError.

    Templates (a wording and an order, ABBA or BABA) take turns. Answer: IO; wrong: S; both are one token.
    """
    wording = Wording(ask)
    names = wording.single("names", NAMES, 6)
    places, objects = wording.single("places", PLACES, 2), wording.single("objects", OBJECTS, 2)
    example = {"A": names[0], "B": names[1], "C": names[0], "place": places[0], "object": objects[0]}
    kept, notes = same_length(ask, {one: wording.fill(one, **example) for one in TEMPLATES})
    rng, twin_rng = ask.generator(), ask.generator(1)

    def one(index: int) -> Prompt:
        # Held-out prompts go through the same templates in the same order: every measured one has its mean.
        turn = index % ask.prompts
        template, order = kept[turn // 2 % len(kept)], ("ABBA", "BABA")[turn % 2]
        first, second = (names[int(i)] for i in rng.choice(len(names), 2, replace=False))
        again = second if order == "ABBA" else first
        setting = {"place": places[int(rng.integers(len(places)))], "object": objects[int(rng.integers(len(objects)))]}
        clean = wording.fill(template, A=first, B=second, C=again, **setting)
        io = first if again == second else second
        if ask.corruption == "s2_io":
            others = {"A": first, "B": second, "C": io}
        else:
            free = [name for name in names if name not in (first, second)]
            others = dict(zip("ABC", (free[int(i)] for i in twin_rng.choice(len(free), 3, replace=False)), strict=True))
        twin = wording.fill(template, **others, **setting)
        return Prompt(
            clean_ids=clean.ids,
            answer_ids=(wording.answer(clean.text, f" {io}"),),
            wrong_ids=(wording.answer(clean.text, f" {again}"),),
            metric_positions=(len(clean.ids) - 1,),
            clean=clean.text,
            template=f"{TEMPLATES.index(template)} {order}",
            group=f"{TEMPLATES.index(template)} {order}",
            positions=_positions(clean, order),
            corrupted_ids=twin.ids,
            corrupted=twin.text,
        )

    lists = (("names", NAMES, names), ("places", PLACES, places), ("objects", OBJECTS, objects))
    dropped = [note for what, all_of, some in lists for note in wording.left_out(what, all_of, some)]
    return Made(ask.draw(ask.total, one), ask.prompts, chance=0.5, notes=(*wording.notes, *notes, *dropped))


def _positions(clean: Worded, order: str) -> dict[str, int]:
    io, s1 = (clean.at["A"], clean.at["B"]) if order == "ABBA" else (clean.at["B"], clean.at["A"])
    return {"IO": io, "S1": s1, "S1+1": s1 + 1, "S2": clean.at["C"], "END": len(clean.ids) - 1}
