"""Factual recall: the capital of a country, in several wordings.

There are only as many prompts as facts that the tokenizer can ask and answer in one token: none are held out, and
means leave the measured prompt out. The `other_country` twin names another country.
"""

from __future__ import annotations

from probe.tasks.ask import Ask, Made
from probe.tasks.task import Prompt
from probe.tasks.wording import Wording, same_length

CORRUPTIONS = ("other_country",)
TEMPLATES = (
    "The capital of {country} is the city of",
    "We know that the capital of {country} is",
    "People say the capital of {country} is called",
    "In {country}, the capital city is named",
)
# fmt: off
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "England": "London", "Egypt": "Cairo", "Greece": "Athens", "Austria": "Vienna",
    "Poland": "Warsaw", "Sweden": "Stockholm", "Norway": "Oslo", "Portugal": "Lisbon", "Ireland": "Dublin",
    "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Kenya": "Nairobi", "Turkey": "Ankara", "Iran": "Tehran",
    "Iraq": "Baghdad", "Syria": "Damascus", "Lebanon": "Beirut", "Hungary": "Budapest", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Belgium": "Brussels", "Canada": "Ottawa", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Ukraine": "Kyiv", "Scotland": "Edinburgh", "Wales": "Cardiff", "Afghanistan": "Kabul", "Pakistan": "Islamabad",
    "Nepal": "Kathmandu", "Venezuela": "Caracas", "Qatar": "Doha", "Taiwan": "Taipei", "Jordan": "Amman",
    "Bulgaria": "Sofia", "Romania": "Bucharest", "Serbia": "Belgrade", "Croatia": "Zagreb", "Morocco": "Rabat",
    "Libya": "Tripoli", "Somalia": "Mogadishu", "Ghana": "Accra", "Zimbabwe": "Harare", "Bangladesh": "Dhaka",
    "Australia": "Canberra", "Jamaica": "Kingston", "Iceland": "Reykjavik", "Latvia": "Riga", "Sudan": "Khartoum",
}
# fmt: on


def capital(ask: Ask) -> Made:
    """One prompt a country and wording, in seeded order; answer: its capital, wrong: every other one.

    Prompts of one country share a group. Positions: COUNTRY, END. Where fewer prompts than asked for can be made,
    all are taken and a note says so. Raises TokensError where prompts to hold out are asked for, or too few facts
    are known.
    """
    if ask.held_out:
        raise ask.error(f"held_out {ask.held_out}; the facts are few and none are held out: leave it out")
    wording = Wording(ask)
    one_token = wording.single("countries", list(CAPITALS), 4, before="The capital of")
    kept, notes = same_length(ask, {t: wording.fill(t, country=one_token[0]) for t in TEMPLATES})
    tokens = _answers(wording, one_token, kept)
    countries = list(tokens)
    if len(countries) < 4:
        raise ask.error(f"{len(countries)} capitals are one token of this tokenizer; wanted 4 or more")
    rng, twin_rng = ask.generator(), ask.generator(1)
    pairs = [(country, template) for country in countries for template in kept]
    order = [pairs[int(i)] for i in rng.permutation(len(pairs))][: ask.prompts]

    def one(index: int) -> Prompt:
        country, template = order[index]
        clean = wording.fill(template, country=country)
        other = [c for c in countries if c != country][int(twin_rng.integers(len(countries) - 1))]
        twin = wording.fill(template, country=other)
        return Prompt(
            clean_ids=clean.ids,
            answer_ids=(wording.answer(clean.text, f" {CAPITALS[country]}"),),
            wrong_ids=tuple(token for c, token in tokens.items() if c != country),
            metric_positions=(len(clean.ids) - 1,),
            clean=clean.text,
            template=str(TEMPLATES.index(template)),
            group=country,
            positions={"COUNTRY": clean.at["country"], "END": len(clean.ids) - 1},
            corrupted_ids=twin.ids,
            corrupted=twin.text,
        )

    fewer = (f"{ask.prompts} prompts asked for, {len(order)} can be made",) if len(order) < ask.prompts else ()
    known = wording.left_out("countries", list(CAPITALS), countries)
    prompts = tuple(one(index) for index in range(len(order)))
    return Made(prompts, len(order), 1 / len(countries), (*wording.notes, *notes, *known, *fewer))


def _answers(wording: Wording, countries: list[str], templates: list[str]) -> dict[str, int]:
    """The capital's token of every country that has one and the same after every template."""
    tokens: dict[str, set[int | None]] = {country: set() for country in countries}
    for template in templates:
        end = wording.fill(template, country=countries[0]).text
        for country, found in tokens.items():
            found.add(wording.next_token(end, f" {CAPITALS[country]}"))
    single = {country: next(iter(found)) for country, found in tokens.items() if len(found) == 1}
    return {country: token for country, token in single.items() if token is not None}
