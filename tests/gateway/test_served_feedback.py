"""Feedback over HTTP: taken once, changed, taken back, each caller's own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from serving import KEPT, Served, gateway_config, serving, upstream

from foretell.errors import StoreError
from upstreams.scripted_server import ScriptedServer, answers

KEYS = ("key-one", "key-two")


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T_FEEDBACK_KEYS", ",".join(KEYS))
        server = {"api_keys_env": "T_FEEDBACK_KEYS"}
        with serving(gateway_config(shared_toy, large.url, server=server)) as gateway:
            yield gateway


@pytest.fixture
def answered(served: Served) -> str:
    """The id of a request of the first key."""
    return served.chat(headers=_key(0), max_tokens=2).headers["x-request-id"]


def _key(number: int) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[number]}"}


def give(served: Served, answered: str, /, *, key: int = 0, **given: Any) -> httpx2.Response:
    body = {"request_id": answered, "metric": "right", "value": 1, "source": "human", **given}
    return httpx2.post(f"{served.url}/v1/feedback", json=body, headers=_key(key))


def shown(served: Served, request_id: str, *, key: int = 0) -> Any:
    response = httpx2.get(
        f"{served.url}/v1/feedback", params={"request_id": request_id}, headers=_key(key)
    )
    return response.json()["data"] if response.status_code == 200 else response


def take_back(served: Served, request_id: str, *, key: int = 0, **named: str) -> httpx2.Response:
    params = {"request_id": request_id, "metric": "right", "source": "human", **named}
    return httpx2.delete(f"{served.url}/v1/feedback", params=params, headers=_key(key))


def test_feedback_is_kept_once_and_the_last_word_counts(served: Served, answered: str) -> None:
    first = give(served, answered)
    assert (first.status_code, first.json()["status"]) == (200, "created")
    again = give(served, answered)
    assert again.json()["status"] == "replaced"
    changed = give(served, answered, value=0.25, note="on reflection")
    assert changed.json()["status"] == "replaced"
    assert shown(served, answered) == [
        {
            "request_id": answered,
            "metric": "right",
            "value": 0.25,
            "source": "human",
            "author": "",
            "note": "on reflection",
        }
    ]


def test_metric_source_and_author_tell_pieces_apart(served: Served, answered: str) -> None:
    different: list[dict[str, Any]] = [
        {},
        {"metric": "polite"},
        {"source": "code"},
        {"author": "ann"},
        {"author": "bob", "value": False},
    ]
    for given in different:
        assert give(served, answered, **given).json()["status"] == "created"
    assert len(shown(served, answered)) == len(different)
    assert [one["value"] for one in shown(served, answered) if one["author"] == "bob"] == [0.0]


def test_feedback_can_be_taken_back(served: Served, answered: str) -> None:
    give(served, answered)
    give(served, answered, author="ann")
    assert take_back(served, answered).json() == {"object": "feedback.deleted", "deleted": True}
    assert [one["author"] for one in shown(served, answered)] == ["ann"]
    gone = take_back(served, answered)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "feedback_not_found")
    assert take_back(served, answered, author="ann").status_code == 200
    assert shown(served, answered) == []


def test_a_dry_run_checks_and_keeps_nothing(served: Served, answered: str) -> None:
    tried = give(served, answered, dryrun=True)
    assert (tried.status_code, tried.json()["status"]) == (200, "dryrun")
    assert shown(served, answered) == []
    assert give(served, "req-nobody", dryrun=True).status_code == 404
    assert give(served, answered, dryrun=True, value=2).status_code == 400


def test_other_callers_requests_look_like_none_at_all(served: Served, answered: str) -> None:
    give(served, answered)
    for ask in (give, shown, take_back):
        theirs = ask(served, answered, key=1)
        nobodys = ask(served, "req-nobody", key=1)
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.text.replace(answered, "…") == nobodys.text.replace("req-nobody", "…")
    assert len(shown(served, answered)) == 1


def test_feedback_may_come_as_soon_as_the_last_byte_is_read(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEYS[0], max_retries=0) as client:
        for route in ("off", "weak"):
            stream = client.chat.completions.create(
                model="auto",
                messages=KEPT,
                max_tokens=4,
                stream=True,
                extra_headers={"x-foretell-route": route},
            )
            for chunk in stream:
                block = (chunk.model_extra or {}).get("foretell")
                if block:
                    # In the midst of the last event, even.
                    assert give(served, block["request_id"]).status_code == 200
            request_id = stream.response.headers["x-request-id"]
            assert give(served, request_id).json()["status"] == "replaced"


def test_feedback_may_come_from_many_at_once(served: Served, answered: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        given = [threads.submit(give, served, answered, value=i / 40) for i in range(40)]
        statuses = [one.result().json()["status"] for one in given]
    assert sorted(statuses) == ["created", *["replaced"] * 39]
    assert len(shown(served, answered)) == 1


def test_feedback_is_counted(served: Served, answered: str) -> None:
    before = served.metric("foretell_feedback_total", source="judge")
    give(served, answered, source="judge")
    assert served.metric("foretell_feedback_total", source="judge") == before + 1


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"request_id": ""}, "request_id"),
        ({"request_id": 3}, "request_id"),
        ({"request_id": "a" * 129}, "request_id"),
        ({"request_id": "a\0b"}, "request_id"),
        ({"metric": None}, "metric"),
        ({"metric": "\0"}, "metric"),
        ({"author": "a\0"}, "author"),
        ({"author": 1}, "author"),
        ({"note": "\0"}, "note"),
        ({"note": "a" * 4097}, "note"),
        ({"value": None}, "value"),
        ({"value": "1"}, "value"),
        ({"value": 1.01}, "value"),
        ({"value": -1e-9}, "value"),
        ({"value": 10**400}, "value"),
        ({"source": "oracle"}, "source"),
        ({"dryrun": "no"}, "dryrun"),
        ({"rating": 5}, "rating"),
    ],
)
def test_bad_feedback_is_refused_with_the_field(
    served: Served, answered: str, given: dict[str, Any], param: str
) -> None:
    response = give(served, answered, **given)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert shown(served, answered) == []


def test_half_a_surrogate_pair_is_refused(served: Served) -> None:
    body = b'{"request_id": "a", "metric": "m", "value": 1, "source": "code", "note": "\\ud800"}'
    response = httpx2.post(f"{served.url}/v1/feedback", content=body, headers=_key(0))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "note"


@pytest.mark.parametrize(
    ("method", "query", "param"),
    [
        ("GET", "", "request_id"),
        ("GET", "request_id=", "request_id"),
        ("GET", "request_id=%00", "request_id"),
        ("GET", "request_id=" + "a" * 129, "request_id"),
        ("DELETE", "request_id=a", "metric"),
        ("DELETE", "request_id=a&metric=b&source=oracle", "source"),
        ("DELETE", "request_id=a&metric=b&source=code&author=%00", "author"),
    ],
)
def test_a_query_that_names_nothing_is_refused(
    served: Served, method: str, query: str, param: str
) -> None:
    response = httpx2.request(method, f"{served.url}/v1/feedback?{query}", headers=_key(0))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_feedback_needs_a_key(served: Served, answered: str) -> None:
    response = httpx2.post(f"{served.url}/v1/feedback", json={"request_id": answered})
    assert response.status_code == 401


def test_a_store_that_fails_is_told_and_not_taken_for_an_unknown_request(
    served: Served, answered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert give(served, answered).status_code == 200
    store = served.gateway.store
    assert store is not None

    def fails(*_: Any, **__: Any) -> Any:
        raise StoreError("the disk is full")

    monkeypatch.setattr(type(store), "append_traffic", fails)
    unwritten = served.chat(headers=_key(0), max_tokens=2)
    assert unwritten.status_code == 200
    response = give(served, unwritten.headers["x-request-id"])
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "store_unavailable"
    monkeypatch.undo()
    assert give(served, unwritten.headers["x-request-id"]).status_code == 200
