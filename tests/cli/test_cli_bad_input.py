"""What is wrong is said in one sentence: the thing, what was wanted, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toy_project import CONFIG, changed, foretell, refused, toy_queries, write_config, write_lines

COLLECT = "collect --domain toy --input queries.jsonl --max-tokens 4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    command: str
    said: tuple[str, ...]
    spoil: Callable[[Path], None] = lambda _: None


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: write_config(folder, changed(CONFIG, **changes))


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: Path(folder / name).write_text(content, encoding="utf-8") and None


def llamacpp(reference: str) -> dict[str, str]:
    return {"engine": "llamacpp", "model": reference}


def random_bytes(folder: Path) -> None:
    (folder / "noise.gguf").write_bytes(np.random.default_rng(0).bytes(100_000))
    config(models__small=llamacpp("file:noise.gguf"))(folder)


def one_class(folder: Path) -> None:
    write_lines(
        folder / "outcomes.jsonl",
        [
            {"id": q.id, "metric": "right", "value": 1, "source": "code", "role": "weak"}
            for q in toy_queries()
        ],
    )
    label(folder)


def label(folder: Path) -> None:
    imported = "label --domain toy --labeller import --option file=outcomes.jsonl"
    assert foretell(folder, imported).code == 0


def references(folder: Path) -> None:
    write_lines(
        folder / "queries.jsonl",
        [{"id": str(i), "prompt": "Where?", "reference": {"city": "Lyon"}} for i in range(3)],
    )
    assert foretell(folder, COLLECT).code == 0


def only(split: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_lines(
            folder / "queries.jsonl",
            [{"id": q.id, "messages": list(q.messages), "split": split} for q in toy_queries()],
        )
        assert foretell(folder, COLLECT).code == 0
        label(folder)

    return spoil


def no_strong_labels(folder: Path) -> None:
    """Trained on weak outcomes alone, then a goal that compares with the strong model."""
    assert foretell(folder, "data delete --domain toy --yes").code == 0
    assert foretell(folder, COLLECT).code == 0
    rows = map(json.loads, (folder / "outcomes.jsonl").read_text().splitlines())
    write_lines(folder / "outcomes.jsonl", [row for row in rows if row["role"] == "weak"])
    label(folder)
    assert foretell(folder, "train --domain toy --no-nested").code == 0
    config(routes__auto__goal={"quality": 0.9})(folder)


def second_metric(folder: Path) -> None:
    rows = map(json.loads, (folder / "outcomes.jsonl").read_text().splitlines())
    write_lines(folder / "outcomes.jsonl", [{**row, "metric": "other"} for row in rows])
    label(folder)


def other_weights(folder: Path) -> None:
    card = json.loads((folder / "probes/toy/1/card.json").read_text())
    card["model"]["weights_sha256"] = "f" * 64
    (folder / "probes/toy/1/card.json").write_text(json.dumps(card))


def tampered_weights(folder: Path) -> None:
    weights = folder / "probes/toy/1/weights.safetensors"
    spoilt = bytearray(weights.read_bytes())
    spoilt[-1] ^= 1
    weights.write_bytes(spoilt)


FRESH = {
    "a missing configuration": Case(
        command="route hello -c nowhere.yaml", said=("nowhere.yaml", "cannot read")
    ),
    "an unknown key": Case(
        command="config validate",
        spoil=config(routes__auto__wek="small"),
        said=("foretell.yaml", "routes.auto.wek", "spelling"),
    ),
    "a key that stands in the file": Case(
        command="config validate",
        spoil=config(models__large__api_key="k"),
        said=("models.large.api_key", "api_key_env"),
    ),
    "an unknown route": Case(
        command="route hello --route fast", said=("no route is called 'fast'", "auto")
    ),
    "an unknown router": Case(
        command="route hello",
        spoil=config(routes__auto__router="astrology"),
        said=("routes.auto.router", "probe"),
    ),
    "a classifier that no one defined": Case(
        command="route hello",
        spoil=config(routes__auto__router="llm", routes__auto__classifier="judge"),
        said=("routes.auto.classifier", "'judge'", "known are large, small"),
    ),
    "a model that no one defined": Case(
        command="route hello",
        spoil=config(routes__auto__weak="smal"),
        said=("routes.auto.weak", "'smal'", "known are large, small"),
    ),
    "a missing input file": Case(
        command="collect --domain toy --input nowhere.jsonl", said=("nowhere.jsonl", "No such")
    ),
    "a broken line": Case(
        command=COLLECT,
        spoil=text("queries.jsonl", '{"id": "1", "prompt": "a"}\n{"id": \n'),
        said=("queries.jsonl, line 2", "not valid JSON"),
    ),
    "an input file without queries": Case(
        command=COLLECT,
        spoil=text("queries.jsonl", "\n"),
        said=("queries.jsonl holds no queries", "JSON object a line"),
    ),
    "a layer that the model does not have": Case(
        command=f"{COLLECT} --read-point layer99_last",
        said=("layer 99", "0 to 3"),
    ),
    "a read point that is none": Case(
        command=f"{COLLECT} --read-point top", said=("'top'", "layer20_mean")
    ),
    "a prompt over the context": Case(
        command=COLLECT,
        spoil=text("queries.jsonl", json.dumps({"id": "1", "prompt": "long " * 500})),
        said=("tokens", "the context holds 512", "shorten"),
    ),
    "a recording that is not there": Case(
        command=f"{COLLECT} --with-strong",
        spoil=config(models__large__path="nowhere.jsonl.gz"),
        said=("nowhere.jsonl.gz",),
    ),
    "a missing model file": Case(
        command=COLLECT,
        spoil=config(models__small=llamacpp("file:nowhere.gguf")),
        said=("nowhere.gguf",),
    ),
    "a model file of random bytes": Case(
        command=COLLECT, spoil=random_bytes, said=("noise.gguf", "GGUF")
    ),
    "a domain of which nothing is stored": Case(
        command="label --domain other --labeller json_valid",
        said=("'other'", "foretell collect"),
    ),
    "training without labels": Case(command="train --domain toy", said=("'toy'", "foretell label")),
    "evaluating without labels": Case(
        command="evaluate --domain toy", said=("'toy'", "foretell label")
    ),
    "a field that no reference has": Case(
        command="label --domain toy --labeller json_field --option field=country",
        spoil=references,
        said=("'country'", "the fields are city"),
    ),
    "an empty training set": Case(
        command="train --domain toy", spoil=only("test"), said=("empty", "collect and label")
    ),
    "an empty test set": Case(
        command="evaluate --domain toy", spoil=only("train"), said=("empty", "collect")
    ),
    "a route without a probe": Case(
        command="route hello", said=("no probe for domain 'toy'", "foretell train --domain toy")
    ),
    "a route without domain or probe": Case(
        command="route hello",
        spoil=config(routes__auto__domain=None),
        said=("names no domain", "foretell train"),
    ),
    "an empty query": Case(command="route ''", said=("the query is empty",)),
    "an option that is no pair": Case(
        command="label --domain toy --labeller regex --option pattern",
        said=("'pattern'", "name=value"),
    ),
    "an import without a file": Case(
        command="label --domain toy --labeller import", said=("--option file=",)
    ),
    "an unknown domain of the demo": Case(
        command="demo --domain cooking", said=("'cooking'", "extraction, geo")
    ),
    "a demo in a folder that is a file": Case(
        command="demo --dir queries.jsonl", said=("queries.jsonl/geo", "Not a directory")
    ),
    "two strong models for the demo": Case(
        command="demo --strong file:a.gguf --strong-url http://127.0.0.1:1/v1",
        said=("--strong", "--strong-url", "not both"),
    ),
    "weights that are not in the cache": Case(
        command="models rm pypi:nothing", said=("pypi:nothing",)
    ),
}

FINISHED = {
    "an unknown labeller": Case(
        command="label --domain toy --labeller vibes", said=("'vibes'", "json_field")
    ),
    "a field that no example has": Case(
        command="label --domain toy --labeller json_field --option field=country",
        said=("json_field:country", "reference"),
    ),
    "one class only": Case(
        command="train --domain toy", spoil=one_class, said=("none of the", "failures", "label")
    ),
    "several metrics and no choice": Case(
        command="train --domain toy", spoil=second_metric, said=("other, right", "metric")
    ),
    "an unknown metric": Case(
        command="evaluate --domain toy --metric taste",
        said=("not by 'taste' but by right", "metric"),
    ),
    "a probe made for other weights": Case(
        command="route hello", spoil=other_weights, said=("toy@1", "ffffffff")
    ),
    "tampered weights of a probe": Case(
        command="route hello", spoil=tampered_weights, said=("weights.safetensors",)
    ),
    "a goal of quality without strong labels": Case(
        command="route hello",
        spoil=no_strong_labels,
        said=("goal quality", "collect --with-strong", "strong_share"),
    ),
    "a budget without prices": Case(
        command="route hello",
        spoil=config(routes__auto__goal={"usd_per_1k": 1}, models__large__price=None),
        said=("usd_per_1k", "models.large.price"),
    ),
    "a report where none can be": Case(
        command="evaluate --domain toy --report nowhere/page.html",
        said=("no folder nowhere", "--report"),
    ),
    "a store where none can be": Case(
        command="data stats",
        spoil=config(store={"url": "sqlite:///queries.jsonl/foretell.db"}),
        said=("queries.jsonl",),
    ),
    "probes in a folder that is a file": Case(
        command="train --domain toy --no-nested",
        spoil=config(probes={"dir": "queries.jsonl"}),
        said=("queries.jsonl",),
    ),
    "a domain that leads out of the folder": Case(
        command="probes show ../toy", said=("'../toy'", "without '/'")
    ),
    "a probe that does not exist": Case(
        command="probes show toy@7", said=("toy@7", "there are toy@1")
    ),
    "a probe of an unknown domain": Case(
        command="probes show tea", said=("'tea'", "foretell train")
    ),
    "messages that are not a list": Case(
        command="route hello --messages before.json",
        spoil=text("before.json", "{}"),
        said=("before.json", "list of chat messages"),
    ),
    "a message without a role": Case(
        command="route hello --messages before.json",
        spoil=text("before.json", '[{"content": "a"}]'),
        said=("before.json", "role"),
    ),
    "a variable without its key": Case(
        command="chat 'Which town in the south is nr 1?'",
        spoil=config(
            models__large={
                "engine": "openai",
                "model": "big",
                "base_url": "http://127.0.0.1:9/v1",
                "api_key_env": "FORETELL_TEST_KEY_THAT_IS_NOT_SET",
            }
        ),
        said=("'large'", "FORETELL_TEST_KEY_THAT_IS_NOT_SET", "not set"),
    ),
}


@pytest.mark.parametrize("what", FRESH)
def test_before_anything_is_collected(what, fresh_project):
    case = FRESH[what]
    case.spoil(fresh_project)
    refused(foretell(fresh_project, case.command), *case.said)


@pytest.mark.parametrize("what", FINISHED)
def test_in_a_finished_project(what, project):
    case = FINISHED[what]
    case.spoil(project)
    refused(foretell(project, case.command), *case.said)
