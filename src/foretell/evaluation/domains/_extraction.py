"""The domain ``extraction``: a request to an assistant, one field of it to return as JSON.

Templates and values are in ``extraction.toml``, written for foretell. Which field is asked says
much about how hard a query is, and anyone can see it: within a field a probe must show its worth.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice, permutations
from math import prod
from string import Formatter

import numpy as np

from foretell.errors import InputError
from foretell.evaluation.domains._domain import Domain, check_sizes, deal
from foretell.records import Message, Query, Sampling, Split

_DISTRACTION = "other_"

# More would be the same sentences over and over.
_MOST_OF_A_TEMPLATE = 60

_EXAMPLES = (
    ("What will the weather be like in Oslo tomorrow evening?", "city", "Oslo"),
    ("Turn the lamp up, no, the heating, I'm freezing in here.", "appliance", "heating"),
    ("Could you translate the word umbrella into Portuguese for me?", "word", "umbrella"),
    ("A train to Lyon, not the fast one, for my grandmother and me.", "destination", "Lyon"),
    ("Our cat Biscuit needs her yearly check-up, and the vet is so busy.", "pet", "Biscuit"),
)


@dataclass(frozen=True, slots=True)
class Template:
    """A request with slots; ``group`` is its kind and place among the intent's templates."""

    intent: str
    group: str
    text: str

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of its slots, in the order of the text."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.text) if name)

    @property
    def fields(self) -> tuple[str, ...]:
        """What can be asked of it: the distracted fields if there are any, else every slot."""
        distracted = [s.removeprefix(_DISTRACTION) for s in self.slots if _is_distraction(s)]
        return tuple(distracted) or self.slots


@dataclass(frozen=True, slots=True)
class Filling:
    """The field that is asked for, and a value for every slot."""

    field: str
    slots: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """All that ``extraction.toml`` says; ``also_written`` maps a value to its other spellings."""

    templates: tuple[Template, ...]
    values: Mapping[str, Sequence[str]]
    also_written: Mapping[str, Sequence[str]]


def load_source() -> Source:
    """The templates and values that the domain is made of."""
    written = tomllib.loads(
        files(__name__.rpartition(".")[0]).joinpath("extraction.toml").read_text("utf-8")
    )
    return Source(
        templates=tuple(
            Template(intent=intent, group=f"{intent}/{kind}-{i}", text=text)
            for intent, kinds in written["intents"].items()
            for kind, texts in kinds.items()
            for i, text in enumerate(texts, start=1)
        ),
        values=written["values"],
        also_written=written["also_written"],
    )


def load_extraction(*, train: int, test: int, seed: int = 0) -> Domain:
    """Requests of six intents and the field that each was asked for.

    A query's ``group`` is its template, whose queries are all of one split: of each intent, the
    test split takes the share of templates that it is of the queries. ``attributes`` are
    ``intent`` and ``field``, both plain to see from outside.

    Raises ``InputError`` when the templates cannot be filled to so many queries.
    """
    check_sizes(train=train, test=test)
    source = load_source()
    rng = np.random.default_rng(seed)
    for_training, for_test = _divide(source.templates, test / (train + test), rng)
    return Domain(
        name="extraction",
        description="Which value did somebody ask an assistant for? One field of a request.",
        queries=(
            *_fill(for_training, source, train, "train", rng),
            *_fill(for_test, source, test, "test", rng),
        ),
        labeller="json_fields",
        labeller_options={"aliases": source.also_written},
        attribution="",
        sampling=Sampling(max_tokens=20, stop=("\n",)),
    )


def _is_distraction(slot: str) -> bool:
    return slot.startswith(_DISTRACTION)


def _divide(
    templates: Sequence[Template], test_share: float, rng: np.random.Generator
) -> tuple[list[Template], list[Template]]:
    """Templates for training and for test, shuffled; the same share of every intent.

    A split that is wanted at all gets at least one template of each intent.
    """
    for_training: list[Template] = []
    for_test: list[Template] = []
    for intent in dict.fromkeys(template.intent for template in templates):
        own = [template for template in templates if template.intent == intent]
        shuffled = [own[i] for i in rng.permutation(len(own))]
        n_test = round(test_share * len(own))
        if 0 < test_share < 1:
            n_test = min(max(n_test, 1), len(own) - 1)
        for_test += shuffled[:n_test]
        for_training += shuffled[n_test:]
    return _shuffled(for_training, rng), _shuffled(for_test, rng)


def _fill(
    templates: Sequence[Template],
    source: Source,
    wanted: int,
    split: Split,
    rng: np.random.Generator,
) -> list[Query]:
    """So many different queries, taken from the templates in turn."""
    fillings = [_fillings(template, source.values, rng) for template in templates]
    there_are = sum(len(of_template) for of_template in fillings)
    if wanted > there_are:
        raise InputError(
            f"extraction has {there_are} different {split} queries, but {wanted} were asked for; "
            "ask for fewer"
        )
    dealt = deal(
        [(template, filling) for filling in of_template]
        for template, of_template in zip(templates, fillings, strict=True)
    )
    return [_query(template, filling, split) for template, filling in islice(dealt, wanted)]


def _fillings(
    template: Template, values: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> list[Filling]:
    """Different fillings of a template at random, as many as it bears.

    A distraction differs from what it distracts from.
    """
    names = sorted({slot.removeprefix(_DISTRACTION) for slot in template.slots})
    choices = [
        list(permutations(values[name], 2 if _DISTRACTION + name in template.slots else 1))
        for name in names
    ]
    shape = (len(template.fields), *map(len, choices))
    n = min(prod(shape), _MOST_OF_A_TEMPLATE)
    drawn = np.unravel_index(rng.choice(prod(shape), size=n, replace=False), shape)
    fillings: list[Filling] = []
    for field, *picks in zip(*(column.tolist() for column in drawn), strict=True):
        slots: dict[str, str] = {}
        for name, choice, pick in zip(names, choices, picks, strict=True):
            slots |= zip((name, _DISTRACTION + name), choice[pick], strict=False)
        fillings.append(Filling(field=template.fields[field], slots=slots))
    return fillings


def _query(template: Template, filling: Filling, split: Split) -> Query:
    field = filling.field
    filled = template.text.format(**filling.slots)
    request = filled[:1].upper() + filled[1:]
    return Query(
        id=_stable_id(template.group, field, request),
        messages=(
            *(message for example in _EXAMPLES for message in _worked(*example)),
            {"role": "user", "content": _question(request, field)},
            {"role": "assistant", "content": _answer_start(field)},
        ),
        reference={field: filling.slots[field]},
        group=template.group,
        split=split,
        attributes={"intent": template.intent, "field": field},
    )


def _stable_id(group: str, field: str, request: str) -> str:
    """The same query has the same id in a larger or differently seeded domain."""
    digest = hashlib.sha256(request.encode()).hexdigest()[:12]
    return f"extraction-{group.replace('/', '-')}-{field}-{digest}"


def _worked(request: str, field: str, value: str) -> tuple[Message, Message]:
    return (
        {"role": "user", "content": _question(request, field)},
        {"role": "assistant", "content": f'{_answer_start(field)}{value}"}}'},
    )


def _question(request: str, field: str) -> str:
    return f"Request: {request}\nWhich {field} does the request name?"


def _answer_start(field: str) -> str:
    return f'{{"{field}": "'


def _shuffled(templates: Sequence[Template], rng: np.random.Generator) -> list[Template]:
    return [templates[i] for i in rng.permutation(len(templates))]
