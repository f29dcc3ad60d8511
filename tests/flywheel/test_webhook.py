from __future__ import annotations

import logging

import pytest
from scripted_server import ScriptedServer, nobody_there, replies

from foretell.flywheel import Webhook
from foretell.records import Event

EVENT = Event(
    kind="drift",
    subject="geo",
    at=1_900_000_000.0,
    by="drift watch",
    details={"name": "scores", "alarm": True, "value": 0.31},
)
TOKEN = "secret-token-of-the-hook"  # noqa: S105


def hook(server: ScriptedServer, **options) -> Webhook:
    return Webhook(f"{server.url}/alarms", TOKEN, **{"first_wait_s": 0.01, **options})


def test_an_event_is_posted_as_json_with_the_token():
    with ScriptedServer([replies(204)]) as server:
        webhook = hook(server)
        assert webhook.tell(EVENT)
    assert (webhook.told, webhook.failed) == (1, 0)
    [body], [headers] = server.requests, server.headers
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["Idempotency-Key"] == body.pop("id")
    assert body == {
        "schema_version": 1,
        "kind": "drift",
        "subject": "geo",
        "at": 1_900_000_000.0,
        "by": "drift watch",
        "details": {"name": "scores", "alarm": True, "value": 0.31},
    }


def test_without_a_token_there_is_no_header():
    with ScriptedServer([replies(200)]) as server:
        assert Webhook(server.url).tell(EVENT)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again_with_the_same_id(status):
    with ScriptedServer([replies(status), replies(status), replies(200)]) as server:
        assert hook(server).tell(EVENT)
    assert len(server.requests) == 3
    assert len({body["id"] for body in server.requests}) == 1


def test_each_event_has_an_id_of_its_own_that_does_not_change():
    later = Event(kind="drift", subject="geo", at=EVENT.at + 1, by=EVENT.by, details=EVENT.details)
    with ScriptedServer(otherwise=replies(200)) as server:
        for event in (EVENT, later, EVENT):
            assert hook(server).tell(event)
    first, second, again = (body["id"] for body in server.requests)
    assert first == again != second


def test_it_gives_up_after_four_attempts_and_does_not_raise(caplog):
    with ScriptedServer(otherwise=replies(500)) as server, caplog.at_level(logging.DEBUG):
        webhook = hook(server)
        assert not webhook.tell(EVENT)
    assert len(server.requests) == 4
    assert (webhook.told, webhook.failed) == (0, 1)
    assert "status 500" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_what_will_not_pass_is_not_tried_again_and_no_redirect_takes_the_token_along(
    status, caplog
):
    with (
        ScriptedServer(otherwise=replies(200)) as elsewhere,
        ScriptedServer([replies(status, location=elsewhere.url)]) as server,
        caplog.at_level(logging.DEBUG),
    ):
        assert not hook(server).tell(EVENT)
    assert len(server.requests) == 1
    assert elsewhere.requests == []
    assert TOKEN not in caplog.text


def test_nobody_there_is_counted_and_told_without_the_token(caplog):
    webhook = Webhook(nobody_there(), TOKEN, first_wait_s=0.01)
    with caplog.at_level(logging.DEBUG):
        assert not webhook.tell(EVENT)
    assert webhook.failed == 1
    assert "cannot be reached" in caplog.text
    assert TOKEN not in caplog.text


def test_a_hook_that_never_answers_is_given_up():
    from scripted_server import never_answers

    with ScriptedServer(otherwise=never_answers) as server:
        webhook = hook(server, timeout_s=0.05)
        assert not webhook.tell(EVENT)
    assert webhook.failed == 1


def test_an_address_that_is_none_is_told_without_repeating_it(caplog):
    with caplog.at_level(logging.DEBUG):
        assert not Webhook("http://user:hidden@[broken", TOKEN, first_wait_s=0.01).tell(EVENT)
    assert "flywheel.webhook" in caplog.text
    assert "hidden" not in caplog.text
