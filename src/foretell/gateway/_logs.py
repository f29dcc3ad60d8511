"""The log: JSON, an object a line, without secrets and without what anybody asked or answered."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote

import structlog
from pydantic import BaseModel
from structlog.typing import EventDict

from foretell.config import Config
from foretell.records import RequestRecord

LogLevel = Literal["debug", "info", "warning", "error"]

MASK: Final = "[secret]"

_LONGEST_TEXT: Final = 16_384
_DEEPEST: Final = 8
_ALONE: Final = 8
"""A known secret of fewer characters is masked only where it stands alone: inside of longer words
it is there by chance."""

_KEY_SHAPES: Final = (r"\b[sf]k-[^\s\"',;&<>]{4,}", r"\bbearer\s+[^\s\"',;&<>]+")

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_logger = structlog.get_logger("foretell.gateway")


class TextStream(Protocol):
    """Where lines go: ``sys.stderr``, or anything else that can be written to."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def configure_logs(
    level: LogLevel = "info",
    stream: TextStream | None = None,
    *,
    secrets: Iterable[str] = (),
    clock: Callable[[], float] | None = None,
) -> None:
    """Send the log of the whole process to ``stream`` (``sys.stderr``), one JSON object a line.

    ``secrets`` are masked wherever they turn up, exceptions included; so is whatever looks like an
    API key. Control characters are escaped, so no value can forge a line. What libraries log goes
    the same way, but never below ``info``: some write the bodies of requests when debugging. A
    stream that cannot be written to is no reason to fail: its lines are lost.

    Call it again to change the level, or after secrets have changed.
    """
    lines = _Lines(stream or sys.stderr, Redaction(secrets), clock or _now)
    lowest = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            lines.render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=lines.logger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in root.handlers[:]:
        # Ours of before, and the plain one of logging.basicConfig, which would mask nothing.
        if isinstance(handler, _Handler) or type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    root.addHandler(_Handler(lines))
    root.setLevel(max(lowest, logging.INFO))
    logging.getLogger("foretell").setLevel(lowest)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp", "alembic"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # What they say of each start, step and request is said here, and once.
    for name in ("uvicorn.error", "uvicorn.access", "alembic"):
        logging.getLogger(name).setLevel(max(lowest, logging.WARNING))
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_thread_failure


def log_request(record: RequestRecord) -> None:
    """Write the one line of a request: who answered and why, how long it took and what it cost."""
    write = _logger.error if record.status >= 500 else _logger.info
    usage = record.usage
    write(
        "request",
        request_id=record.id,
        key_id=record.key_id,
        route=record.route,
        model=record.model,
        decision=record.action,
        cause=record.cause,
        status=record.status,
        streamed=record.streamed,
        ms=_milliseconds(record.seconds),
        first_byte_ms=_milliseconds(record.first_byte_s),
        prefill_ms=_milliseconds(record.prefill_s),
        overhead_ms=_milliseconds(record.overhead_s),
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        completion_tokens=None if usage is None else usage.completion_tokens,
        usd=record.cost_usd,
    )


def secret_values(config: Config, environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """What the variables hold that the settings ``…_env`` name: whole, and the parts of lists."""
    values: set[str] = set()
    for variable in _secret_variables(config):
        if value := environment.get(variable):
            parts = [part.strip() for part in value.split(",")]
            # An admin's token stands behind its role: "viewer:token".
            values.update((value, *parts, *(part.partition(":")[2] for part in parts)))
    return frozenset(values - {""})


class Redaction:
    """Masks secrets in whatever is to be logged."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
        # The longest first: one secret may begin another.
        patterns = [
            re.escape(secret)
            if len(secret) >= _ALONE
            else rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])"
            for secret in sorted(known, key=lambda spelling: (-len(spelling), spelling))
        ]
        self._secret = re.compile("|".join((*patterns, *_KEY_SHAPES)), re.IGNORECASE)

    def finds(self, text: str) -> bool:
        """Whether there is anything to mask."""
        return self._secret.search(text) is not None

    def text(self, text: str) -> str:
        """The text with each secret replaced, and cut where it is very long."""
        masked = self._secret.sub(MASK, text)
        return masked if len(masked) <= _LONGEST_TEXT else f"{masked[:_LONGEST_TEXT]}…"

    def value(self, value: Any, depth: int = 0) -> Any:
        """The value as JSON can hold it, secrets masked at any depth; NaN becomes ``None``."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if depth < _DEEPEST:
            if isinstance(value, Mapping):
                return {self._name(k): self.value(v, depth + 1) for k, v in value.items()}
            if isinstance(value, list | tuple | set | frozenset):
                return [self.value(item, depth + 1) for item in value]
        return self.text(_described(value))

    def _name(self, key: object) -> str:
        return self.text(key if isinstance(key, str) else _described(key))


class _Lines:
    """Writes lines, whole, from any thread."""

    def __init__(
        self, stream: TextStream, redaction: Redaction, clock: Callable[[], float]
    ) -> None:
        self._stream = stream
        self._redaction = redaction
        self._clock = clock
        self._lock = threading.Lock()

    def render(self, _logger: Any, _method: str, event: EventDict) -> str:
        """The last of structlog's processors."""
        return self.line(event)

    def line(self, event: Mapping[str, Any]) -> str:
        at = datetime.fromtimestamp(self._clock(), UTC)
        if "exc_info" not in event and (plain := self._plain(event, at)) is not None:
            return plain
        # Dictionaries keep their order, and readers like these first.
        fields: dict[str, Any] = {
            "timestamp": at.isoformat(timespec="milliseconds"),
            "level": None,
            "event": None,
        }
        for name, value in event.items():
            if name == "exc_info":
                if trace := _trace(value):
                    fields["exception"] = self._redaction.text(trace)
            else:
                fields[name] = self._redaction.value(value)
        # ASCII alone: some terminals and readers break lines at, or obey, what is beyond it.
        return _encode(fields)

    def _plain(self, event: Mapping[str, Any], at: datetime) -> str | None:
        """The line where nothing in it is secret, odd or long, which is nearly always."""
        try:
            line = _encode(
                {
                    "timestamp": at.isoformat(timespec="milliseconds"),
                    "level": None,
                    "event": None,
                    **event,
                }
            )
        except (TypeError, ValueError, RecursionError):
            return None
        # An escape may hide what a secret is looked for by.
        odd = len(line) > _LONGEST_TEXT or "\\" in line or self._redaction.finds(line)
        return None if odd else line

    def logger(self, *_names: object) -> _LineLogger:
        return _LineLogger(self)

    def write(self, line: str) -> None:
        with self._lock:
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):
                return  # nobody reads any more; the request goes on


class _LineLogger:
    """What structlog hands rendered lines to."""

    def __init__(self, lines: _Lines) -> None:
        self.msg = lines.write
        self.debug = self.info = self.warning = self.error = self.critical = self.msg


class _Handler(logging.Handler):
    """Takes what libraries log."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit their message may raise anything
            event = "a message that does not fit its arguments"
        self._lines.write(
            self._lines.line(
                {
                    "event": event,
                    "level": record.levelname.lower(),
                    "logger": record.name,
                    "exc_info": record.exc_info,
                }
            )
        )


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is not SystemExit:
        name = failure.thread.name if failure.thread is not None else None
        _logger.error("a thread failed", thread=name, exc_info=failure.exc_value)


def _trace(exc_info: Any) -> str | None:
    """The traceback of what ``exc_info`` may be; it shows lines of code, and no variables."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exception()
    return "".join(traceback.format_exception(exc_info)) if exc_info else None


def _described(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a value that cannot describe itself must not fail a request
        return f"<{type(value).__name__}>"


def _spellings(secret: str) -> Iterator[str]:
    """The secret as text, in Python's and JSON's quotes, and in a URL."""
    yield secret
    yield repr(secret)[1:-1]
    yield repr(secret.encode("utf-8", "surrogatepass"))[2:-1]
    yield json.dumps(secret)[1:-1]
    yield quote(secret, safe="", errors="replace")


def _secret_variables(section: BaseModel) -> Iterator[str]:
    for name, value in section:
        values = value.values() if isinstance(value, dict) else (value,)
        for item in values:
            if isinstance(item, BaseModel):
                yield from _secret_variables(item)
            elif name.endswith("_env") and isinstance(item, str):
                yield item


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _now() -> float:
    return datetime.now(UTC).timestamp()
