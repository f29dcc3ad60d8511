from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import Config
from foretell.gateway._logs import (
    MASK,
    Redaction,
    TextStream,
    _Handler,
    configure_logs,
    log_request,
    secret_values,
)
from foretell.records import MeteredUsage, RequestRecord

PLANTED = 'canary"key\\0123 é/4567'
RECORD = RequestRecord(
    id="r1",
    at=0.0,
    key_id="env-12345678",
    route="auto",
    domain=None,
    model="big",
    serve="strong",
    action="escalate",
    cause=None,
    status=200,
    streamed=True,
    usage=MeteredUsage(prompt_tokens=11, completion_tokens=7),
    cost_usd=0.002,
    seconds=0.25,
    first_byte_s=0.1,
)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    names = ("foretell", "uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp", "alembic")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Log(io.StringIO):
    """What was written, line by line."""

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def log() -> Log:
    stream = Log()
    configure_logs("info", stream, secrets=[PLANTED], clock=lambda: 1.5)
    return stream


def test_a_request_is_one_line_with_what_it_took(log: Log) -> None:
    log_request(RECORD)
    assert log.objects == [
        {
            "timestamp": "1970-01-01T00:00:01.500+00:00",
            "level": "info",
            "event": "request",
            "request_id": "r1",
            "key_id": "env-12345678",
            "route": "auto",
            "model": "big",
            "decision": "escalate",
            "cause": None,
            "status": 200,
            "streamed": True,
            "ms": 250.0,
            "first_byte_ms": 100.0,
            "prefill_ms": None,
            "overhead_ms": None,
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "usd": 0.002,
        }
    ]


def test_a_request_that_failed_is_an_error(log: Log) -> None:
    log_request(RequestRecord(**{**fields(RECORD), "status": 502}))
    assert log.objects[0]["level"] == "error"


def fields(record: RequestRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


class Quoting:
    def __repr__(self) -> str:
        return f"<quoting {PLANTED!r}>"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError(PLANTED)


@pytest.mark.parametrize(
    "value",
    [
        PLANTED,
        f"before {PLANTED} after",
        {"key": PLANTED},
        {PLANTED: 1},
        {("a", PLANTED): 1},
        [[PLANTED], (PLANTED,), {PLANTED}],
        [[[[[[[[[[PLANTED]]]]]]]]]],
        PLANTED.encode(),
        json.dumps({"key": PLANTED}),
        f"https://host/v1?key={'canary%22key%5C0123%20%C3%A9%2F4567'}",
        ValueError(PLANTED),
        Quoting(),
        PLANTED.upper(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_known_secret_is_masked_wherever_it_stands(log: Log, value: object) -> None:
    structlog.get_logger().info("event", value=value)
    logging.getLogger("aiohttp.client").warning("%s", value)
    assert_no_canary(log)


def test_a_value_that_cannot_describe_itself_fails_nothing(log: Log) -> None:
    structlog.get_logger().info("event", value=Broken())
    assert log.objects[0]["value"] == "<Broken>"


def assert_no_canary(log: Log) -> None:
    assert len(log.objects) == len(log.getvalue().splitlines()) > 0
    written = log.getvalue().lower()
    assert "canary" not in written
    assert "4567" not in written


def test_a_known_secret_is_masked_in_tracebacks(log: Log) -> None:
    try:
        try:
            raise KeyError(PLANTED)
        except KeyError as error:
            raise ExceptionGroup(f"of {PLANTED}", [ValueError(PLANTED), error]) from error
    except ExceptionGroup as group:
        structlog.get_logger().exception("failed")
        structlog.get_logger().error("failed", exc_info=True)
        structlog.get_logger().error("failed", exc_info=group)
        logging.getLogger("uvicorn.error").exception("failed")
        logging.getLogger("asyncio").error("failed", exc_info=group)
    assert_no_canary(log)
    assert all("ExceptionGroup" in line["exception"] for line in log.objects)
    assert all("test_logs.py" in line["exception"] for line in log.objects)


def test_a_thread_that_fails_is_logged_without_its_secrets(log: Log) -> None:
    def fail() -> None:
        raise ValueError(PLANTED)

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    assert_no_canary(log)
    assert log.objects[0]["thread"] == "worker"
    assert "ValueError" in log.objects[0]["exception"]


def test_warnings_go_to_the_log(log: Log) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn(f"mind {PLANTED}", stacklevel=1)
    assert_no_canary(log)
    assert log.objects[0]["logger"] == "py.warnings"


@pytest.mark.parametrize(
    "text",
    [
        "sk-abcdefgh",
        "sk-proj-Ab_9-xyz",
        "sk-abcd****wxyz",
        "fk-0123456789_abcdef-ABCDEF",
        "Authorization: Bearer abc.def~1+/=",
        "bearer   tokenvalue",
        "{'authorization': 'Bearer tokenvalue'}",
    ],
)
def test_what_looks_like_a_key_is_masked_though_nobody_knows_it(text: str) -> None:
    masked = Redaction().text(f"got {text} here")
    assert masked.startswith("got ")
    assert masked.endswith(" here")
    assert MASK in masked
    assert not any(part in masked for part in ("abc", "xyz", "0123", "tokenvalue", "Ab_9"))


@pytest.mark.parametrize("text", ["task-based", "risk-adjusted share", "the bearer", "disk-full"])
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert Redaction().text(text) == text


def test_a_short_secret_is_masked_where_it_stands_alone() -> None:
    redaction = Redaction(["k1"])
    assert redaction.text("key k1, 'k1'") == f"key {MASK}, '{MASK}'"
    assert redaction.text("link1 k12") == "link1 k12"


def test_of_two_secrets_that_begin_alike_the_whole_longer_one_is_masked() -> None:
    redaction = Redaction(["common-start", "common-start-and-more"])
    assert redaction.text("a common-start-and-more b") == f"a {MASK} b"


@given(st.text(min_size=8, max_size=40).filter(str.strip), st.text(), st.text())
def test_any_secret_is_masked_in_any_text(secret: str, before: str, after: str) -> None:
    masked = Redaction([secret]).text(f"{before}{secret}{after}")
    assert secret not in masked.replace(MASK, "\N{WHITE SQUARE}" * 50)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON_LIKE, st.text())
def test_no_value_can_forge_a_line(value: Any, event: str) -> None:
    stream = Log()
    configure_logs("info", stream)
    structlog.get_logger().info(event, value=value)
    logging.getLogger("aiohttp").info("%s", event)
    written = stream.getvalue()
    assert written.isascii()
    assert [c for c in written if not c.isprintable()] == ["\n", "\n"]
    assert len(stream.objects) == 2


def test_separators_and_escapes_of_terminals_are_escaped(log: Log) -> None:
    structlog.get_logger().info("a\r\n{}\x1b[2J\u2028\u0085\udc80\x7f", value=float("nan"))
    [line] = log.objects
    assert line["value"] is None
    assert log.getvalue().count("\n") == 1
    assert "\x1b" not in log.getvalue()


def test_very_long_texts_are_cut(log: Log) -> None:
    structlog.get_logger().info("x" * 100_000)
    assert len(log.objects[0]["event"]) < 20_000


def test_a_value_that_holds_itself_is_written(log: Log) -> None:
    endless: list[Any] = []
    endless.append(endless)
    structlog.get_logger().info("endless", value=endless)
    assert log.objects[0]["event"] == "endless"


@pytest.mark.parametrize("name", ["uvicorn.error", "aiohttp.client", "alembic.runtime", "anyone"])
def test_what_libraries_log_looks_the_same(log: Log, name: str) -> None:
    logging.getLogger(name).warning("started %s", "late")
    assert log.objects == [
        {
            "timestamp": "1970-01-01T00:00:01.500+00:00",
            "level": "warning",
            "event": "started late",
            "logger": name,
        }
    ]


@pytest.mark.parametrize("name", ["uvicorn.error", "uvicorn.access", "alembic.runtime"])
def test_what_libraries_say_of_their_every_step_is_left_out(log: Log, name: str) -> None:
    logging.getLogger(name).info("started well")
    assert log.objects == []


def test_a_message_that_does_not_fit_its_arguments_shows_neither(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = [h for h in logging.getLogger().handlers if type(h) is _Handler]
    monkeypatch.setattr(logging.getLogger(), "handlers", ours)  # pytest's own would raise
    logging.getLogger("anyone").info("%d of %d", PLANTED)
    assert_no_canary(log)


def test_debugging_does_not_reach_libraries_which_write_bodies_then() -> None:
    stream = Log()
    configure_logs("debug", stream)
    structlog.get_logger().debug("ours")
    logging.getLogger("foretell.store").debug("ours, too")
    logging.getLogger("openai").debug("a whole request")
    assert [line["event"] for line in stream.objects] == ["ours", "ours, too"]


def test_what_is_below_the_level_is_left_out() -> None:
    stream = Log()
    configure_logs("warning", stream)
    log_request(RECORD)
    logging.getLogger("foretell.store").info("no")
    logging.getLogger("uvicorn").info("no")
    structlog.get_logger().warning("yes")
    assert [line["event"] for line in stream.objects] == ["yes"]


def test_configuring_again_goes_by_the_new_settings_alone(log: Log) -> None:
    second = Log()
    configure_logs("info", second, secrets=["another-secret"])
    logging.getLogger("uvicorn").info("another-secret")
    assert log.objects == []
    assert [line["event"] for line in second.objects] == [MASK]


def test_plain_handlers_of_others_which_mask_nothing_are_removed() -> None:
    plain = Log()
    logging.getLogger().addHandler(logging.StreamHandler(plain))
    configure_logs("info", Log())
    logging.getLogger("anyone").warning("text")
    assert plain.getvalue() == ""


class Gone:
    def write(self, text: str, /) -> object:
        raise BrokenPipeError(text)

    def flush(self) -> object:
        raise AssertionError("nothing was written")


def closed() -> TextStream:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Gone(), closed()], ids=["gone", "closed"])
def test_a_log_that_nobody_reads_fails_no_request(stream: TextStream) -> None:
    configure_logs("info", stream)
    log_request(RECORD)
    logging.getLogger("uvicorn").info("text")


def test_lines_of_many_threads_stay_whole(log: Log) -> None:
    def write() -> None:
        for _ in range(100):
            log_request(RECORD)
            logging.getLogger("aiohttp").info("text")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.objects) == 800


def test_what_a_task_has_bound_is_on_its_lines(log: Log) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r7"):
        structlog.get_logger().info("inside")
    structlog.get_logger().info("outside")
    assert [line.get("request_id") for line in log.objects] == ["r7", None]


def test_the_secrets_of_a_configuration_are_what_its_variables_hold() -> None:
    config = Config(
        models={  # type: ignore[arg-type]
            "big": {
                "engine": "openai",
                "model": "m",
                "base_url": "http://host/v1",
                "api_key_env": "BIG_KEY",
            },
            "other": {
                "engine": "openai",
                "model": "m",
                "base_url": "http://host/v1",
                "api_key_env": "UNSET_KEY",
            },
        },
        server={  # type: ignore[arg-type]
            "api_keys_env": "CALLERS",
            "admin": {"port": 0, "token_env": "ADMINS"},
        },
    )
    environment = {
        "BIG_KEY": "big-secret",
        "CALLERS": "one, two",
        "ADMINS": "viewer:v,admin:a",
        "HOME": "/home/me",
    }
    assert secret_values(config, environment) == {
        *("big-secret", "one, two", "one", "two"),
        *("viewer:v,admin:a", "viewer:v", "admin:a", "v", "a"),
    }
