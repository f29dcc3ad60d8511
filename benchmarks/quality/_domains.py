"""The domains of the benchmark: what is asked, and how an answer is judged.

``geo`` comes with foretell; the others are made of public data sets that foretell does not ship,
read from a folder that is named on the command line.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foretell.evaluation.domains import Domain, load_geo
from foretell.records import Message, Query, Sampling, Split

SIZES = {"geo": 2_000, "snips_field": 2_000, "snips_intent": 1_000, "svamp": 700, "gsm8k": 310}
_TEST_SHARE = 0.25

_INTENTS = {
    "AddToPlaylist": "add to playlist",
    "BookRestaurant": "book restaurant",
    "GetWeather": "get weather",
    "PlayMusic": "play music",
    "RateBook": "rate book",
    "SearchCreativeWork": "search creative work",
    "SearchScreeningEvent": "search screening event",
}


def load_domain(name: str, data: Path) -> Domain:
    """One of ``SIZES``; ``data`` holds ``snips.jsonl``, ``svamp.jsonl`` and ``gsm8k.jsonl``."""
    match name:
        case "geo":
            return load_geo(train=1_500, test=500)
        case "snips_field":
            return _snips_field(_rows(data / "snips.jsonl"), SIZES[name])
        case "snips_intent":
            return _snips_intent(_rows(data / "snips.jsonl"), SIZES[name])
        case "svamp":
            return _svamp(_rows(data / "svamp.jsonl")[: SIZES[name]])
        case "gsm8k":
            return _gsm8k(_rows(data / "gsm8k.jsonl")[: SIZES[name]])
    raise SystemExit(f"there is no domain {name!r}; use one of {', '.join(SIZES)}")


def _snips_field(rows: Sequence[dict[str, Any]], size: int) -> Domain:
    """One field of a request to a voice assistant, whose name is asked for, as JSON."""
    examples = (
        ("What will the weather be like in Oslo tomorrow evening?", "city", "Oslo"),
        ("Put the new Björk single on my Sunday Mornings list", "playlist", "Sunday Mornings"),
        ("Get us a table for six at a sushi bar in Leeds", "party size number", "six"),
        ("Give The Hobbit four stars out of five", "rating value", "four"),
    )

    def asked(request: str, field: str) -> str:
        return f"Request: {request}\nWhich {field} does the request name?"

    queries: list[Query] = []
    for row in _shuffled(rows, seed=1):
        fields = {k: v for k, v in row["fields"].items() if row["request"].count(v) == 1}
        if not fields:
            continue
        rng = np.random.default_rng(_hash(row["id"]))
        field = sorted(fields)[int(rng.integers(len(fields)))]
        words = field.replace("_", " ").replace("timeRange", "time range")
        start = f'{{"{words}": "'
        queries.append(
            _query(
                f"field-{row['id']}",
                [
                    *(
                        message
                        for request, name, value in examples
                        for message in _turn(asked(request, name), f'{{"{name}": "{value}"}}')
                    ),
                    *_turn(asked(row["request"], words), start),
                ],
                {words: row["fields"][field]},
                group=_template(row),
                attributes={"field": field, "intent": row["intent"]},
            )
        )
    return Domain(
        name="snips_field",
        description="Which value did somebody ask a voice assistant for? One field of a request.",
        queries=tuple(queries[:size]),
        labeller="json_fields",
        labeller_options={},
        attribution="Snips NLU benchmark 2017-06 (Coucke et al., arXiv 1805.10190), CC0-1.0",
        sampling=Sampling(max_tokens=20, stop=("\n",)),
    )


def _snips_intent(rows: Sequence[dict[str, Any]], size: int) -> Domain:
    """Which of seven intents a request to a voice assistant has, as JSON."""
    listing = ", ".join(_INTENTS.values())
    system: Message = {
        "role": "system",
        "content": f"Say which of these the request asks for: {listing}.",
    }
    examples = (
        ("Will I need an umbrella in Turin?", "get weather"),
        ("I'd like to hear something by Miles Davis", "play music"),
    )
    queries = [
        _query(
            f"intent-{row['id']}",
            [
                system,
                *(
                    message
                    for request, intent in examples
                    for message in _turn(f"Request: {request}", f'{{"intent": "{intent}"}}')
                ),
                *_turn(f"Request: {row['request']}", '{"intent": "'),
            ],
            {"intent": _INTENTS[row["intent"]]},
            group=_template(row),
            attributes={},
        )
        for row in _shuffled(rows, seed=2)[:size]
    ]
    return Domain(
        name="snips_intent",
        description="Which of seven intents does a request to a voice assistant have?",
        queries=tuple(queries),
        labeller="json_fields",
        labeller_options={},
        attribution="Snips NLU benchmark 2017-06 (Coucke et al., arXiv 1805.10190), CC0-1.0",
        sampling=Sampling(max_tokens=12, stop=("\n",)),
    )


def _svamp(rows: Sequence[dict[str, Any]]) -> Domain:
    """One-step word problems, answered with one equation."""
    system: Message = {"role": "system", "content": "Answer with one equation, nothing else."}
    examples = (
        ("A farmer had 14 hens and bought 9 more. How many hens has he now?", "14 + 9 = 23"),
        ("Each of 6 boxes holds 8 pens. How many pens are there?", "6 * 8 = 48"),
        ("Lea had 30 stamps. She gave 12 of them to Tom. How many are left?", "30 - 12 = 18"),
    )
    queries = [
        _query(
            row["id"],
            [
                system,
                *(message for asked, said in examples for message in _turn(asked, said)),
                {"role": "user", "content": row["question"]},
            ],
            row["answer"],
            group=_without_numbers(row["question"]),
            attributes={},
        )
        for row in rows
    ]
    return Domain(
        name="svamp",
        description="Arithmetic word problems of one step, answered with one equation.",
        queries=tuple(queries),
        labeller="numeric",
        labeller_options={"tolerance": "0.001"},
        attribution="SVAMP (Patel et al., NAACL 2021), MIT",
        sampling=Sampling(max_tokens=24, stop=("\n",)),
    )


def _gsm8k(rows: Sequence[dict[str, Any]]) -> Domain:
    """Word problems of several steps, answered step by step."""
    system: Message = {
        "role": "system",
        "content": "Solve the problem in short steps. End with 'The answer is' and the number.",
    }
    example = _turn(
        "A baker sold 12 loaves at $3 each and 5 cakes at $8 each. How much more did the loaves "
        "than the cakes bring in?",
        "Loaves: 12 * 3 = 36 dollars.\nCakes: 5 * 8 = 40 dollars.\n"
        "Difference: 36 - 40 = -4 dollars.\nThe answer is -4.",
    )
    queries = [
        _query(
            row["id"],
            [system, *example, {"role": "user", "content": row["question"]}],
            row["answer"],
            group=_without_numbers(row["question"]),
            attributes={},
        )
        for row in rows
    ]
    return Domain(
        name="gsm8k",
        description="Arithmetic word problems of several steps, answered step by step.",
        queries=tuple(queries),
        labeller="numeric",
        labeller_options={"tolerance": "0.001"},
        attribution="GSM8K (Cobbe et al., arXiv 2110.14168), MIT",
        sampling=Sampling(max_tokens=240),
    )


def _query(
    query_id: str, messages: Iterable[Message], reference: Any, *, group: str, attributes: Any
) -> Query:
    split: Split = "test" if _hash(f"split:{group}") / 2**64 < _TEST_SHARE else "train"
    return Query(
        id=query_id,
        messages=tuple(messages),
        reference=reference,
        group=group,
        split=split,
        attributes=attributes,
    )


def _turn(asked: str, said: str) -> tuple[Message, Message]:
    return {"role": "user", "content": asked}, {"role": "assistant", "content": said}


def _template(row: dict[str, Any]) -> str:
    """The request with its values taken out: requests that differ in values alone are a group."""
    text = row["request"]
    for field, value in sorted(row["fields"].items(), key=lambda pair: -len(pair[1])):
        text = text.replace(value, f" <{field}> ")
    return "snips: " + _folded(text)


def _without_numbers(question: str) -> str:
    return _folded(re.sub(r"\d[\d,.]*", "#", question))


def _folded(text: str) -> str:
    return " ".join(re.findall(r"[\w<>#]+", text.lower()))


def _shuffled(rows: Sequence[dict[str, Any]], *, seed: int) -> list[dict[str, Any]]:
    """Rows in an order of their own, so that two domains of one file share few requests."""
    once: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        once[row["request"].lower()].append(row)
    unique = [same[0] for same in once.values()]
    half = [row for row in unique if _hash(f"half:{row['id']}") % 2 == seed % 2]
    return [half[i] for i in np.random.default_rng(seed).permutation(len(half))]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
