"""The domain ``extraction``: a request to an assistant, one field of it to return as JSON.

Templates and values are in ``extraction.toml``, written for foretell. Which field is asked says
much about how hard a query is, and anyone can see it: within a field a probe must show its worth.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Formatter

import numpy as np

from foretell.errors import InputError
from foretell.evaluation.domains._domain import Domain, check_sizes
from foretell.records import Message, Query, Sampling, Split

_DISTRACTION = "other_"
_DRAWS_PER_ROUND = 20

_EXAMPLES = (
    ("What will the weather be like in Oslo tomorrow evening?", "city", "Oslo"),
    ("Turn the lamp up, no, the heating, I'm freezing in here.", "appliance", "heating"),
    ("Could you translate the word umbrella into Portuguese for me?", "language", "Portuguese"),
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
    queries: dict[str, Query] = {}
    while len(queries) < wanted:
        before = len(queries)
        for template in templates:
            for query in _draws(template, source, split, rng):
                if query.id not in queries:
                    queries[query.id] = query
                    break
            if len(queries) == wanted:
                break
        if len(queries) == before:
            raise InputError(
                f"extraction has no more than about {before} different {split} queries, but "
                f"{wanted} were asked for; ask for fewer"
            )
    return list(queries.values())


def _draws(
    template: Template, source: Source, split: Split, rng: np.random.Generator
) -> Iterator[Query]:
    """Some fillings of a template at random, each asked for one of its fields."""
    for _ in range(_DRAWS_PER_ROUND):
        field = template.fields[rng.integers(len(template.fields))]
        filling = _filling(template.slots, source.values, rng)
        request = template.text.format(**filling)
        yield _query(template, request[:1].upper() + request[1:], field, filling[field], split)


def _filling(
    slots: Iterable[str], values: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> dict[str, str]:
    """A value for every slot; a distraction differs from what it distracts from."""
    filling: dict[str, str] = {}
    for name in sorted({slot.removeprefix(_DISTRACTION) for slot in slots}):
        meant, other = map(int, rng.permutation(len(values[name]))[:2])
        filling[name] = values[name][meant]
        filling[_DISTRACTION + name] = values[name][other]
    return filling


def _query(template: Template, request: str, field: str, value: str, split: Split) -> Query:
    return Query(
        id=_stable_id(template.group, field, request),
        messages=(
            *(message for example in _EXAMPLES for message in _worked(*example)),
            {"role": "user", "content": _question(request, field)},
            {"role": "assistant", "content": _answer_start(field)},
        ),
        reference={field: value},
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
    return f"{request}\nReturn the {field} as JSON."


def _answer_start(field: str) -> str:
    return f'{{"{field}": "'


def _shuffled(templates: Sequence[Template], rng: np.random.Generator) -> list[Template]:
    return [templates[i] for i in rng.permutation(len(templates))]
