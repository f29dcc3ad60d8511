"""Routes with several domains: named by the caller, or found by what the model sees in a query."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from serving import KEPT, Served, gateway_config, serving, upstream

from toy_project import foretell, write_lines

SUM = [{"role": "user", "content": "17 + 18 = ? 35 - 17 = ?"}]
FOREIGN = [{"role": "user", "content": "zzz !!! ### qqq ~~~ @@@ zzz"}]


@pytest.fixture(scope="module")
def two_domains(shared_toy: Path) -> Path:
    """Besides the towns, sums, at which the weak model counts as right in one of three."""
    queries = [
        {
            "id": f"s{i:03}",
            "messages": [{"role": "user", "content": f"{i} + {i + 1} = ? {2 * i + 1} - {i} = ?"}],
            "split": "train" if i < 120 else "test",
        }
        for i in range(150)
    ]
    write_lines(shared_toy / "sums.jsonl", queries)
    outcomes = [
        {"id": query["id"], "role": role, "metric": "right", "value": value, "source": "code"}
        for i, query in enumerate(queries)
        for role, value in (("weak", int(i % 3 == 0)), ("strong", 1))
    ]
    write_lines(shared_toy / "sum_outcomes.jsonl", outcomes)
    for command in (
        "collect --domain sums --input sums.jsonl --max-tokens 4",
        "label --domain sums --labeller import --option file=sum_outcomes.jsonl",
        "train --domain sums --no-nested --kind linear --json",
    ):
        finished = foretell(shared_toy, command)
        assert finished.code == 0, finished.err
    return shared_toy


@pytest.fixture(scope="module")
def served(two_domains: Path) -> Generator[Served]:
    with upstream() as server:
        config = gateway_config(two_domains, server.url, domain=None)
        with serving(config) as gateway:
            yield gateway


def test_a_request_that_names_no_domain_is_foretold_by_the_nearest(served: Served):
    assert served.chat(KEPT).headers["x-foretell-probe"] == "toy@1"
    assert served.last().domain == "toy"
    assert served.chat(SUM).headers["x-foretell-probe"] == "sums@1"
    assert served.last().domain == "sums"


def test_the_explanation_is_the_nearest_domains(served: Served):
    explained = served.post("/v1/route", {"model": "auto", "messages": SUM}).json()
    assert explained["explanation"]["probe"]["domain"] == "sums"
    assert explained["explanation"]["neighbours"][0]["id"].startswith("s")


def test_a_request_that_is_near_to_none_is_declined(served: Served):
    answer = served.chat(FOREIGN)
    assert (answer.status_code, answer.headers["x-foretell-cause"]) == (200, "outside")


def test_a_domain_may_be_named(served: Served):
    named = served.chat(KEPT, headers={"x_foretell_domain": "sums"})
    assert named.headers["x-foretell-probe"] == "sums@1"
    unknown = served.chat(KEPT, headers={"x_foretell_domain": "poems"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "x-foretell-domain")
    assert json.dumps(unknown.json()).count("poems") == 1
