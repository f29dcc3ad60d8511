"""The OpenAPI document, and every operation of it driven with data of its own making."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckContext
from schemathesis.generation import GenerationMode
from serving import Served, gateway_config, serving, upstream

from foretell.gateway import Gateway, make_app
from foretell.gateway._openapi import openapi_document
from upstreams.scripted_server import answers

DOCUMENT = openapi_document(make_app(cast("Gateway", None)))
MODELS = ["auto", "large", "small", "nobody"]


def _with_names_that_mean_something(document: dict[str, Any]) -> dict[str, Any]:
    document = copy.deepcopy(document)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "model" in body.get("schema", {}).get("properties", {}):
                body["schema"]["properties"]["model"] = {"enum": MODELS}
            if path == "/v1/route":  # the same body as that of a chat completion, read the same way
                names = ["model", "messages"]
                properties = {name: body["schema"]["properties"][name] for name in names}
                body["schema"] = {"type": "object", "required": names, "properties": properties}
            if path == "/v1/models/{model}":
                operation["parameters"][0]["schema"] = {"type": "string", "pattern": "^[a-z]{1,9}$"}
            operation["parameters"] = [
                parameter
                for parameter in operation["parameters"]
                if parameter["name"] != "x-foretell-domain"
            ]
    return document


schema = schemathesis.openapi.from_dict(_with_names_that_mean_something(DOCUMENT))
schema.config.generation.update(deterministic=True)
schema.config.phases.coverage.unexpected_methods = {"PUT", "OPTIONS"}
schema.config.checks.update(
    excluded_check_names=[
        "positive_data_acceptance",  # what JSON Schema cannot say is refused, too; see below
        "ignored_auth",  # this gateway asks for no keys
    ]
)


@pytest.fixture(scope="module")
def served(shared_toy: Path) -> Iterator[Served]:
    with (
        upstream(otherwise=answers) as large,
        serving(gateway_config(shared_toy, large.url)) as gateway,
    ):
        yield gateway


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@schemathesis.check
def refuses_only_what_json_schema_cannot_say(
    _: CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """That a tool's result answers a call, that 1.0 is no whole number, what a model can take."""
    assert case.meta is not None
    if case.meta.generation.mode is not GenerationMode.POSITIVE or response.status_code != 400:
        return
    error = response.json()["error"]
    message = error["message"]
    assert (
        (error.get("param") or message).startswith(("tool", "function", "messages", "input"))
        or (" whole number, got " in message and message.endswith(".0"))
        or error.get("code") == "unsupported_request"
        or " cannot take this request: " in message
        or " messages is the user's" in message
    ), error


@pytest.mark.slow
@schema.parametrize()
@settings(
    max_examples=5,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_every_operation_keeps_to_the_document(
    case: schemathesis.Case, served: Served, session: requests.Session
) -> None:
    case.call_and_validate(base_url=served.url, session=session)


def test_the_document_is_served(served: Served) -> None:
    response = httpx2.get(f"{served.url}/openapi.json")
    assert response.json() == DOCUMENT


def test_nothing_is_left_over_after_all_that(served: Served) -> None:
    served.at_rest()
