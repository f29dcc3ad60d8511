"""Whatever a caller gets wrong: refused with a 4xx in the API's own shape, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raw_http import connection, head, post, talk
from serving import KEPT, Served, gateway_config, serving, until, upstream

from upstreams.scripted_server import ScriptedServer, answers, chunk, streams

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "auto", "messages": KEPT, "max_tokens": 2}
TIMEOUT_S = 0.6
MOST_BYTES = 1 << 17


@pytest.fixture(scope="module")
def large() -> Iterator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


@pytest.fixture(scope="module")
def served(shared_toy: Path, large: ScriptedServer) -> Iterator[Served]:
    limits = {
        "api_keys_env": "T_BAD_REQUESTS_KEYS",
        "header_timeout_s": TIMEOUT_S,
        "max_body_mb": MOST_BYTES / 2**20,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T_BAD_REQUESTS_KEYS", "key-one, key-two")
        with serving(gateway_config(shared_toy, large.url, server=limits)) as gateway:
            yield gateway


def messages(*given: Any) -> dict[str, Any]:
    return {**GOOD, "messages": list(given)}


def content(*parts: Any) -> dict[str, Any]:
    return messages({"role": "user", "content": list(parts)})


BODIES: list[tuple[bytes | dict[str, Any], str | None]] = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b'"auto"', None),
    (b"null", None),
    (b"nonsense", None),
    (b'{"model": NaN}', None),
    (b'{"model": 1e999}', None),
    (b'{"seed": ' + b"9" * 5000 + b"}", None),
    (b'{"model": "\xff\xfe"}', None),
    (b"\xef\xbb\xbf{}", None),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, None),
    (b"[" * 100_000, None),
    (b'{"messages": ' + b"[" * 70 + b"]" * 70 + b"}", None),
    (b'{"messages": [{"content": "\\ud800"}]}', "messages.0.content"),
    (b'{"model": "auto", "\\udfff": 1}', None),
    ({}, "model"),
    ({**GOOD, "model": 3}, "model"),
    ({**GOOD, "model": ""}, "model"),
    ({**GOOD, "model": None}, "model"),
    ({**GOOD, "model": "a" * 257}, "model"),
    ({"model": "auto"}, "messages"),
    ({**GOOD, "messages": {}}, "messages"),
    ({**GOOD, "messages": []}, "messages"),
    ({**GOOD, "messages": ["hello"]}, "messages.0"),
    (messages({}), "messages.0.role"),
    (messages({"role": "user"}), "messages.0.content"),
    (messages({"role": "wizard", "content": "a"}), "messages.0.role"),
    (messages({"role": "user", "content": 3}), "messages.0.content"),
    (content(), "messages.0.content"),
    (content({"type": "text"}), "messages.0.content.0.text"),
    (content({"type": "text", "text": 1}), "messages.0.content.0.text"),
    (content({"text": "a"}), "messages.0.content.0.type"),
    (content({"type": "image_url", "image_url": {}}), "messages.0.content.0.image_url.url"),
    (messages({"role": "tool", "content": "a"}), "messages.0.tool_call_id"),
    (messages({"role": "tool", "content": "a", "tool_call_id": "x"}), "messages.0.tool_call_id"),
    (messages({"role": "assistant", "content": None}), "messages.0.content"),
    ({**GOOD, "stream": "yes"}, "stream"),
    ({**GOOD, "stream_options": {"include_usage": True}}, "stream_options"),
    ({**GOOD, "stream": True, "stream_options": {"include_usage": 1}}, None),
    ({**GOOD, "max_tokens": 0}, "max_tokens"),
    ({**GOOD, "max_tokens": True}, "max_tokens"),
    ({**GOOD, "max_tokens": "4"}, "max_tokens"),
    ({**GOOD, "max_tokens": 10**400}, "max_tokens"),
    ({**GOOD, "temperature": -1}, "temperature"),
    ({**GOOD, "temperature": "hot"}, "temperature"),
    ({**GOOD, "top_p": 2}, "top_p"),
    ({**GOOD, "n": 0}, "n"),
    ({**GOOD, "n": 10**9}, "n"),
    ({**GOOD, "stop": [1]}, "stop.0"),
    ({**GOOD, "tools": {}}, "tools"),
    ({**GOOD, "tools": [{"type": "function"}]}, "tools.0.function"),
    ({**GOOD, "tool_choice": 1}, "tool_choice"),
    ({**GOOD, "response_format": "json"}, "response_format"),
    ({**GOOD, "logit_bias": []}, "logit_bias"),
    ({**GOOD, "seed": 1.5}, "seed"),
]


def _name(value: object) -> str | None:
    return repr(value)[:48].replace("/", "|") if isinstance(value, bytes | dict) else str(value)


@pytest.mark.parametrize(("body", "param"), BODIES, ids=_name)
def test_a_bad_body_is_refused_with_the_path_of_the_field(
    served: Served, body: bytes | dict[str, Any], param: str | None
) -> None:
    answer = talk(served.url, post(CHAT, body))
    error = answer.error()
    assert answer.status == 400
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/messages", {**GOOD, "max_tokens": 0}, "max_tokens"),
        ("/v1/messages", {**GOOD, "messages": [{"role": "tool"}]}, "messages.0.role"),
        ("/v1/messages", b"{", "the body is not JSON"),
    ],
)
def test_an_error_of_the_messages_api_has_its_shape(
    served: Served, path: str, body: Any, message: str
) -> None:
    answer = talk(served.url, post(path, body))
    document = json.loads(answer.body)
    assert answer.status == 400
    assert document["type"] == "error"
    assert document["error"]["type"] == "invalid_request_error"
    assert document["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("request_bytes", "status", "kind"),
    [
        (head("GET", "/v1/messages"), 405, "invalid_request_error"),
        (post("/v1/messages", GOOD, "Authorization: Bearer no"), 401, "authentication_error"),
        (post("/v1/messages", {**GOOD, "model": "no"}), 404, "not_found_error"),
        (post("/v1/messages", b"x" * (MOST_BYTES + 1)), 413, "request_too_large"),
    ],
)
def test_other_errors_of_the_messages_api_have_its_shape_too(
    served: Served, request_bytes: bytes, status: int, kind: str
) -> None:
    answer = talk(served.url, request_bytes)
    assert answer.status == status
    assert json.loads(answer.body)["error"]["type"] == kind


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer nope",
        "Bearer key-on",
        "Bearer key-one,key-two",
        "bearer  key-one x",
        "Basic key-one",
        "key-one",
        "Bearer k\xe9y",
        "Bearer " + "a" * 10_000,
    ],
)
def test_a_key_that_is_none_of_ours_is_refused_without_a_word_of_it(
    served: Served, authorization: str
) -> None:
    answer = talk(served.url, post(CHAT, GOOD, f"Authorization: {authorization}"))
    error = answer.error()
    assert answer.status == 401
    assert error["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "key-one" not in error["message"]


def test_either_header_carries_the_key(served: Served) -> None:
    both = "Authorization: bearer key-two", "X-Api-Key: wrong"
    assert talk(served.url, post(CHAT, GOOD, *both)).status == 200
    # Anthropic's clients send this one alone.
    lines = post(CHAT, GOOD, "x-api-key: key-one").replace(
        b"Authorization: Bearer key-one\r\n", b""
    )
    assert talk(served.url, lines).status == 200


@pytest.mark.parametrize(
    ("lines", "param"),
    [
        (("x-foretell-route: sideways",), "x-foretell-route"),
        (("x-foretell-route: WEAK",), "x-foretell-route"),
        (("x-foretell-route:",), "x-foretell-route"),
        (("x-foretell-route: weak", "X-Foretell-Route: weak"), "x-foretell-route"),
        (("x-foretell-session: " + "a" * 257,), "x-foretell-session"),
        (("x-foretell-session: \xe9",), "x-foretell-session"),
        (("x-foretell-domain: nowhere",), "x-foretell-domain"),
        (("x-foretell-threshold: 0.5",), "x-foretell-threshold"),
        (("x-foretell-" + "a" * 200 + ": 1",), None),
    ],
)
def test_a_header_that_nothing_heeds_is_refused(
    served: Served, lines: tuple[str, ...], param: str | None
) -> None:
    answer = talk(served.url, post(CHAT, GOOD, *lines))
    assert answer.status == 400
    assert answer.error()["param"] == param or (param is None and answer.error()["param"])


@pytest.mark.parametrize("name", ["nobody", "AUTO", "auto ", "../auto", "a\0b", "größe", "'; --"])
def test_a_model_that_nobody_has_is_not_found(served: Served, name: str) -> None:
    answer = talk(served.url, post(CHAT, {**GOOD, "model": name}))
    assert answer.status == 404
    assert (answer.error()["code"], answer.error()["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("HEAD", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("TRACE", "/healthz", "GET"),
        ("PATCH", "/v1/feedback", "DELETE, GET, POST"),
        ("DELETE", "/v1/models/auto", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_refused(
    served: Served, method: str, path: str, allowed: str
) -> None:
    answer = talk(served.url, head(method, path))
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        assert answer.error()["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1/models/",
        "//v1/models",
        "/v1/models/../models",
        "/v1/models/%2e%2e%2fmodels",
        "/v1/models/%00",
        "/v1/models/%ff",
        "/v1/models/a%2fb",
        "/%",
        "/docs",
        "/admin/config",
        "/static/../../etc/passwd",
        "*",
    ],
)
def test_a_path_that_is_not_there_is_not_found_and_leads_nowhere(served: Served, path: str) -> None:
    answer = talk(served.url, head("GET", path, headers=["Host: evil.example"]))
    assert answer.status == 404
    assert answer.error()["type"] == "invalid_request_error"
    assert "evil" not in f"{answer.headers} {answer.body!r}"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 32,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"FROB /healthz HTTP/1.1\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
        head("GET", b"/v1/models/\xff"),
        head("GET", b"/healthz?\xff=1"),
        head("GET", "/healthz", headers=[b"X-A: a\0b"]),
        head("GET", "/healthz", headers=[b"X\0A: ab"]),
        head("GET", "/healthz", headers=["X A: ab"]),
        head("GET", "/healthz", headers=["no colon"]),
        head("POST", CHAT, headers=["Content-Length: -1"]),
        head("POST", CHAT, headers=["Content-Length: " + "9" * 5000]),
        head("POST", CHAT, headers=["Content-Length: 1", "Content-Length: 2"]),
        head("POST", CHAT, headers=["Content-Length: 1", "Transfer-Encoding: chunked"]),
        head("POST", CHAT, headers=["Transfer-Encoding: chunked"]) + b"no length\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_the_same_shape(served: Served, request_bytes: bytes) -> None:
    with connection(served.url) as wire:
        wire.send(request_bytes)
        answer = wire.answer()
        assert answer.status == 400
        assert answer.error()["code"] == "invalid_http"
        assert wire.is_closed()


@pytest.mark.parametrize("n_bytes", [70_000, 5_000_000])
@pytest.mark.parametrize("what", ["one", "many"])
def test_headers_beyond_a_limit_are_refused(served: Served, n_bytes: int, what: str) -> None:
    lines = (
        ["X-Long: " + "a" * n_bytes]
        if what == "one"
        else [f"X-{i}: " + "a" * 50 for i in range(n_bytes // 50)]
    )
    with connection(served.url) as wire:
        wire.send(head("GET", "/healthz", headers=lines))
        answer = wire.answer()
        assert answer.status == 431
        assert answer.error()["code"] == "headers_too_large"
        assert wire.is_closed()


def test_headers_below_the_limit_pass(served: Served) -> None:
    many = [f"X-{i}: " + "a" * 50 for i in range(900)]
    assert talk(served.url, head("GET", "/healthz", headers=many)).status == 200


@pytest.mark.parametrize("size", [MOST_BYTES + 1, 10 * MOST_BYTES])
def test_a_body_beyond_the_limit_is_refused_by_its_stated_length(served: Served, size: int) -> None:
    answer = talk(served.url, head("POST", CHAT, length=size))
    assert answer.status == 413
    assert answer.error()["code"] == "body_too_large"


def test_a_body_beyond_the_limit_is_refused_without_a_stated_length(served: Served) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with connection(served.url) as wire:
        wire.send(head("POST", CHAT, headers=["Transfer-Encoding: chunked"]))
        wire.send(chunk * (MOST_BYTES // 0x4000 + 2))
        answer = wire.answer()
        assert answer.status == 413
        # Its end never comes.
        assert wire.is_closed()


def test_the_connection_goes_on_once_a_refused_body_has_come(served: Served) -> None:
    size = 2 * MOST_BYTES
    with connection(served.url) as wire:
        wire.send(head("POST", CHAT, length=size))
        assert wire.answer().status == 413
        wire.send(b"x" * size)
        wire.send(head("GET", "/healthz"))
        assert wire.answer().status == 200


def test_a_body_just_within_the_limit_is_read(served: Served) -> None:
    padding = MOST_BYTES - len(json.dumps({**GOOD, "user": ""}))
    body = json.dumps({**GOOD, "user": "a" * padding}).encode()
    assert len(body) == MOST_BYTES
    assert talk(served.url, post(CHAT, body)).status == 200
    assert talk(served.url, post(CHAT, body + b" ")).status == 413


def test_a_body_that_does_not_come_ends_in_a_timeout(served: Served) -> None:
    began = time.monotonic()
    with connection(served.url) as wire:
        wire.send(head("POST", CHAT, length=10) + b"{")
        answer = wire.answer()
        assert answer.status == 408
        assert answer.error()["code"] == "timeout"
        # The rest does not come either; a byte now and then keeps nothing open.
        assert wire.is_closed()
    assert time.monotonic() - began > 2 * TIMEOUT_S * 0.9


def test_a_body_that_trickles_ends_in_a_timeout(served: Served) -> None:
    with connection(served.url) as wire:
        wire.send(head("POST", CHAT, headers=["Transfer-Encoding: chunked"]))
        while wire.is_silent(0.05):
            wire.send(b"1\r\n \r\n")
        assert wire.answer().status == 408


@pytest.mark.parametrize(
    "beginning", [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"\r\n"]
)
def test_whoever_does_not_send_whole_headers_is_hung_up_on(
    served: Served, beginning: bytes
) -> None:
    began = time.monotonic()
    with connection(served.url) as wire:
        wire.send(beginning)
        assert wire.is_closed()
    assert time.monotonic() - began > TIMEOUT_S * 0.9


def test_an_idle_connection_that_sends_what_is_no_request_is_hung_up_on(served: Served) -> None:
    with connection(served.url) as wire:
        wire.send(head("GET", "/healthz"))
        assert wire.answer().status == 200
        wire.send(b"\r\n")
        assert wire.is_closed()


def test_a_connection_between_requests_stays_open_for_longer(served: Served) -> None:
    with connection(served.url) as wire:
        wire.send(head("GET", "/healthz"))
        assert wire.answer().status == 200
        assert wire.is_silent(2 * TIMEOUT_S)
        wire.send(head("GET", "/healthz"))
        assert wire.answer().status == 200


def test_requests_that_are_sent_at_once_are_answered_in_order(served: Served) -> None:
    models = ["small", "nobody", "large", "auto"]
    with connection(served.url) as wire:
        wire.send(b"".join(post(CHAT, {**GOOD, "model": name}) for name in models))
        seen = [wire.answer() for _ in models]
    assert [answer.status for answer in seen] == [200, 404, 200, 200]
    assert [answer.headers.get("x-foretell-model") for answer in seen] == [
        "small",
        None,
        "large",
        "small",
    ]


def test_whoever_leaves_is_noticed_though_more_requests_of_theirs_wait(
    served: Served, large: ScriptedServer
) -> None:
    endless = streams(*(part for _ in range(1000) for part in (chunk("la "), 0.02)))
    large.script(endless)
    before = large.given_up
    request = post(CHAT, {**GOOD, "model": "large", "stream": True})
    with connection(served.url) as wire:
        wire.send(request + request)
        until(lambda: not large.scripts)
        assert not wire.is_silent(20)
    until(lambda: large.given_up == before + 1)
    served.at_rest()


def test_headers_after_the_body_change_nothing(served: Served) -> None:
    lines = ["Authorization: none", "Transfer-Encoding: chunked", "Trailer: Authorization"]
    body = b"2\r\n{}\r\n0\r\nAuthorization: Bearer key-one\r\n\r\n"
    assert talk(served.url, head("POST", CHAT, headers=lines) + body).status == 401


@pytest.mark.parametrize(
    "line",
    [
        "Content-Type: text/plain",
        'Content-Type: \xff; boundary="',
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Encoding: gzip",
        "Accept: image/png",
        "Upgrade: websocket",
        "Expect: something",
    ],
)
def test_other_headers_do_not_matter(served: Served, line: str) -> None:
    assert talk(served.url, post(CHAT, GOOD, line)).status == 200


def test_a_prompt_too_long_for_the_weak_model_goes_to_another(served: Served) -> None:
    long = {**GOOD, "messages": [{"role": "user", "content": "word " * 20_000}]}
    answer = talk(served.url, post(CHAT, long))
    assert answer.status == 200
    assert answer.headers["x-foretell-decision"] == "declined"
    assert answer.headers["x-foretell-cause"] == "context"


def test_without_keys_pages_from_elsewhere_are_refused(
    shared_toy: Path, large: ScriptedServer
) -> None:
    with serving(gateway_config(shared_toy, large.url), wait=False) as open_to_all:
        for line in ("Host: evil.example", "Origin: https://evil.example", "Origin: null"):
            answer = talk(open_to_all.url, post(CHAT, GOOD, line))
            assert (answer.status, answer.error()["code"]) == (403, "host_not_allowed")
        assert (
            talk(open_to_all.url, post(CHAT, GOOD, "Origin: http://localhost:3000")).status == 200
        )


def test_nothing_of_all_that_is_left(served: Served) -> None:
    served.at_rest()
    until(lambda: served.gateway.admission.in_flight == 0)
    assert served.metric("foretell_rejected_total", reason="invalid_json") > 0
    assert served.metric("foretell_rejected_total", reason="invalid_api_key") > 0
    assert served.metric("foretell_requests_total", status_class="5xx") == 0
