"""What a duty of the flywheel is, and the task it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from foretell.config import Config
from foretell.flywheel._duty_state import DomainState
from foretell.flywheel._queue import Progress
from foretell.store import Store

_COOL_DOWN: Final = 60
"""Looks of the worker until a duty is tried again whose last job failed for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to do: for which domain (``""``: the whole store), with what, and by whom."""

    store: Store
    config: Config
    domain: str
    by: str
    clock: Callable[[], float]
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def folder(self) -> Path:
        """Of all probes."""
        return self.config.probes.dir

    @property
    def now(self) -> datetime:
        """What the clock says."""
        return datetime.fromtimestamp(self.clock(), UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """Something that is done for a domain again and again, as a job of its own.

    Attributes:
        name: Kind of its jobs.
        pause: How many looks of the worker pass between two of its jobs at least.
        due: Why it is to be done now, in words; ``None`` when it is not. Pure.
        run: Does it; returns what came of it, as plain JSON with the words to show as ``words``.
    """

    name: str
    pause: int
    due: Callable[[DomainState], str | None]
    run: Callable[[Task, Progress], Mapping[str, Any]]

    def reason(self, state: DomainState) -> str | None:
        """Why it is due, unless its last job is not over yet or has only just been."""
        last = state.jobs.get(self.name)
        if last is not None:
            if last.state in ("waiting", "running"):
                return None
            looks = self.pause if last.state == "done" else max(self.pause, _COOL_DOWN)
            if state.now < (last.finished_at or last.created_at) + looks * state.every_s:
                return None
        return self.due(state)
