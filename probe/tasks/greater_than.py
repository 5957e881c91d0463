"""Greater than: a span of years whose end must come after its beginning.

After Hanna et al. (arXiv 2305.00586): "The war lasted from the year 1743 to the year 17", and years above 43 are right.
The `from_01` twin begins in the century's year 01, so that every year is right. Where a tokenizer writes digits one by
one, the next token is the decade's digit, and the task asks for that: digits above the first year's are right, digits
below are wrong, and the same digit is neither, for it may go on to either. Nouns are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

from probe.tasks.ask import Ask, Made
from probe.tasks.task import Prompt
from probe.tasks.wording import Wording

CORRUPTIONS = ("from_01",)
TEMPLATE = "The {noun} lasted from the year {century}{year} to the year {again}"
CENTURIES = tuple(str(century) for century in range(11, 18))
# fmt: off
NOUNS = (
    "war", "siege", "campaign", "project", "trial", "study", "journey", "dispute", "contract", "expedition", "alliance",
    "treaty", "reign", "construction", "debate", "conflict", "voyage", "marriage", "trip", "plan", "program", "work",
)
# fmt: on


@dataclass(frozen=True)
class Years:
    """How a tokenizer goes on after a century: by decade digits, or by years of two digits.

    next: the one id of each continuation, a digit "0" … "9" or a year "00" … "99".
    """

    digits: bool
    next: dict[str, int]

    def sides(self, year: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that are right and wrong after a span from `year`, 0 … 99."""
        here = year // 10 if self.digits else year
        right = tuple(token for text, token in self.next.items() if int(text) > here)
        wrong = tuple(token for text, token in self.next.items() if int(text) < here + (not self.digits))
        return right, wrong


def greater_than(ask: Ask) -> Made:
    """Prompts that end on a century; answers: every right continuation, wrong: every wrong one. Raises TokensError.

    Positions: YEAR (the first year's token, its decade's digit where digits are split), END.
    """
    wording = Wording(ask)
    nouns = wording.single("nouns", NOUNS, 4, before="The")
    years = years_of(wording, "The war lasted from the year 1743 to the year 17")
    within = range(10, 90) if years.digits else range(2, 99)  # something is right and something wrong
    spans = [(c, y) for c in CENTURIES for y in within if _splits(wording, c, y, years.digits)]
    if len(spans) < 2:
        raise ask.error(f"{len(spans)} years from 1102 to 1798 are written century first; choose another task")
    rng = ask.generator()

    def one(_: int) -> Prompt:
        noun = nouns[int(rng.integers(len(nouns)))]
        century, year = spans[int(rng.integers(len(spans)))]
        clean = wording.fill(TEMPLATE, noun=noun, century=century, year=f"{year:02d}", again=century)
        twin = wording.fill(TEMPLATE, noun=noun, century=century, year="01", again=century)
        right, wrong = years.sides(year)
        return Prompt(
            clean_ids=clean.ids,
            answer_ids=right,
            wrong_ids=wrong,
            metric_positions=(len(clean.ids) - 1,),
            clean=clean.text,
            positions={"YEAR": clean.at["year"], "END": len(clean.ids) - 1},
            corrupted_ids=twin.ids,
            corrupted=twin.text,
        )

    made = ask.draw(ask.total, one)
    shares = [len(p.answer_ids) / (len(p.answer_ids) + len(p.wrong_ids)) for p in made[: ask.prompts]]
    note = (
        "asked of the decade's digit: the tokenizer writes digits one by one; the first year's own digit is neither "
        "right nor wrong"
        if years.digits
        else f"asked of two-digit years, {len(years.next)} of 100 being one token"
    )
    parameters = {"digits": years.digits}
    return Made(made, ask.prompts, sum(shares) / len(shares), (*wording.notes, note), parameters)


def years_of(wording: Wording, text: str) -> Years:
    """How the tokenizer goes on after `text`, which ends on a century. Raises TokensError for other ways."""
    digits = {str(d): wording.next_token(text, str(d)) for d in range(10)}
    before = wording.ids(text)
    alone = all(wording.ids(f"{text}{d}{d}") == (*before, token, token) for d, token in digits.items())
    if alone and None not in digits.values():
        return Years(True, {text: token for text, token in digits.items() if token is not None})
    pairs = {f"{y:02d}": wording.next_token(text, f"{y:02d}") for y in range(100)}
    known = {year: token for year, token in pairs.items() if token is not None}
    if len(known) < 80:
        raise wording.ask.error(
            f"{len(known)} of 100 years are one token after their century, and digits are not split one by one; "
            "choose another task for this model"
        )
    return Years(False, known)


def _splits(wording: Wording, century: str, year: int, digits: bool) -> bool:
    """Whether the year's tokens are the century's followed by one, or by one a digit."""
    before, whole = wording.ids(f"the year {century}"), wording.ids(f"the year {century}{year:02d}")
    return whole[: len(before)] == before and len(whole) == len(before) + (2 if digits else 1)
