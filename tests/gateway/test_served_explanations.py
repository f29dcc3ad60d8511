"""``POST /v1/route``: the decision and all that stands behind it, with nothing generated."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from serving import ESCALATED, KEPT, Served, gateway_config, remote, serving, upstream

from upstreams.scripted_server import ScriptedServer, answers

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def large() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Generator[Served]:
    with serving(gateway_config(shared_toy, large.url)) as gateway:
        yield gateway


def explained(served: Served, messages: list[Any], **headers: str) -> dict[str, Any]:
    reply = served.post("/v1/route", {"model": "auto", "messages": messages}, **headers)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-foretell-decision"] == reply.json()["decision"]
    return reply.json()


@pytest.mark.parametrize(
    ("messages", "decision", "model"), [(KEPT, "keep", "small"), (ESCALATED, "escalate", "large")]
)
def test_a_decision_is_explained_whole(
    served: Served, large: ScriptedServer, messages: list[Any], decision: str, model: str
):
    asked = len(large.requests)
    told = explained(served, messages)
    assert (told["decision"], told["model"]) == (decision, model)
    assert len(large.requests) == asked
    explanation = told["explanation"]
    estimate = explanation["estimate"]
    assert estimate["n"] >= 50
    assert estimate["low"] <= estimate["rate"] <= estimate["high"]
    assert explanation["threshold"]["keep_at"] == told["threshold"] == 0.5
    assert explanation["threshold"]["reason"]
    assert explanation["probe"]["name"] == told["probe"] == "toy@1"
    assert explanation["probe"]["auroc"]["low"] <= explanation["probe"]["auroc"]["high"]
    near = explanation["neighbours"]
    assert len(near) == 10, "also where the prefill was stopped before its end"
    assert [one["similarity"] for one in near] == sorted(
        (one["similarity"] for one in near), reverse=True
    )
    assert {one["text"] for one in near} == {None}
    assert {one["weak"] for one in near} <= {0.0, 1.0}
    assert {change["name"] for change in explanation["changes"]} >= {"p_success"}
    assert "tokens" in explanation["missing"]  # this probe has no attention


def test_the_outcomes_of_the_neighbours_are_those_of_the_first_strong_model(toy: Path):
    """The store knows it by the name that its API knows it by."""
    with serving(gateway_config(toy, {"large": remote("http://127.0.0.1:1/v1", "big-1")})) as one:
        near = explained(one, KEPT)["explanation"]["neighbours"]
    assert {neighbour["strong"] for neighbour in near} <= {0.0, 1.0}
    with serving(gateway_config(toy, {"other": remote("http://127.0.0.1:1/v1", "other-1")})) as one:
        near = explained(one, KEPT)["explanation"]["neighbours"]
    assert {neighbour["strong"] for neighbour in near} == {None}


def test_what_was_decided_without_the_probe_is_explained_as_far_as_it_goes(served: Served):
    reply = served.post("/v1/route", {"model": "auto", "messages": KEPT, "tools": TOOLS})
    told = reply.json()
    assert (told["decision"], told["cause"]) == ("declined", "tools")
    assert told["explanation"]["estimate"] is None
    assert told["explanation"]["missing"]["estimate"]
    assert told["explanation"]["probe"]["name"] == "toy@1"
    strong = explained(served, KEPT, x_foretell_route="strong")
    assert strong["decision"] == "pinned"
    named = served.post("/v1/route", {"model": "large", "messages": KEPT}).json()
    assert (named["decision"], named["explanation"]) == ("bypass", None)


def test_a_look_is_kept_in_no_book(served: Served, large: ScriptedServer):
    records, asked = len(served.records()), len(large.requests)
    share = served.metric("foretell_strong_share", route="auto")
    for messages in (KEPT, ESCALATED):
        explained(served, messages)
    assert len(served.records()) == records
    assert len(large.requests) == asked
    assert served.metric("foretell_strong_share", route="auto") == share
    assert served.gateway.admission.in_flight == 0


def test_errors_of_a_look_are_told_like_any_other(served: Served):
    assert served.post("/v1/route", {"model": "nobody", "messages": KEPT}).status_code == 404
    refused = served.post("/v1/route", {"model": "auto", "messages": []})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages"
    unknown = served.post("/v1/route", {"model": "auto", "messages": KEPT}, x_foretell_x="1")
    assert unknown.json()["error"]["code"] == "invalid_header"
