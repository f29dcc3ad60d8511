"""What the terminal sees: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """One JSON object on stdout; undefined numbers are ``null``, never NaN."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2))


def print_drawing(drawing: str) -> None:
    """Lines with ANSI colours on stdout; without them where colours are not wanted."""
    out.print(Text.from_ansi(drawing), no_wrap=True, overflow="crop")


def between(value: Mapping[str, Any]) -> str:
    """A number with its interval in brackets, where it has one, as JSON holds the two."""
    if value["value"] is None:
        return "undefined"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


@contextmanager
def counting(what: str, total: int) -> Generator[Callable[[], None]]:
    """A progress bar with time left; call what it yields once for each thing done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def tracking(what: str) -> Generator[Callable[..., None]]:
    """A progress bar for work that reports ``(done, total)`` itself, and perhaps what begins."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(what, total=None)

        def show(done: int, total: int, now: str = what) -> None:
            progress.update(task, completed=done, total=total, description=now)

        yield show


@contextmanager
def waiting(what: str) -> Generator[Callable[[str], None]]:
    """A spinner for something whose length nobody knows; call it to say what goes on now."""
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=err
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda text: progress.update(task, description=text)
