"""A model as the judge of difficulty: it is asked how hard a query is, and costs a call each."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedPlatt, Platt
from foretell.errors import InputError, TrainingDataError, UpstreamError
from foretell.records import Message, RoutingData
from foretell.routers._protocol import Sees
from foretell.routers._training import labelled_rows

Ask = Callable[[Sequence[Message]], str]
"""Chat messages to the model's reply; may raise ``UpstreamError``. At temperature 0, please."""

_INSTRUCTIONS = """\
You judge how hard a query is for one small language model, which answers {share:.0%} of queries \
like these well. Do not answer the query yourself. Reply with one number from 1 (the small model \
surely answers it well) to 10 (it surely does not), and nothing else."""

_MOST_CHARACTERS = 4_000
"""Of a query; the rest is cut off, since a budget counts calls and not tokens."""

_REMEMBERED = 20_000
"""Replies kept, so that no query is asked about twice soon."""

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_LEADING = re.compile(rf"\W*(?:difficulty\W*)?({_NUMBER})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCounts:
    """Calls made, replies without a number, calls that failed, and queries past the budget."""

    asked: int = 0
    unparsable: int = 0
    failed: int = 0
    over_budget: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedLlmRouter:
    """``score`` is the log-odds of the calibrated chance; the base rate's where none is told.

    Unlike with other routers, a score can depend on what was asked before: once the budget is
    spent, new queries get the base rate. Safe to call from several threads; two that ask about the
    same new query at once make two calls.
    """

    name: str
    calibration: FittedPlatt
    base_rate: float
    difficulties: _Difficulties

    @property
    def counts(self) -> LlmCounts:
        """What became of the queries so far, those of training left out."""
        return self.difficulties.counts

    def score(self, data: RoutingData) -> NDArray[np.float64]:
        """Log-odds of success, one per query; asks about texts that are new."""
        ease = -self.difficulties.of(data.texts)
        told = self.calibration.slope * ease + self.calibration.intercept
        base = np.log(self.base_rate / (1 - self.base_rate))
        return np.where(np.isfinite(ease), told, base)

    def p_success(self, data: RoutingData) -> NDArray[np.float64]:
        """Calibrated chance of success, one per query; asks about texts that are new."""
        return np.exp(-np.logaddexp(0.0, -self.score(data)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmRouter:
    """Asks a model for each query's difficulty, then calibrates on labelled queries asked about.

    Args:
        ask: Makes one call.
        training_calls: Labelled queries asked about, drawn from the training rows.
        budget: Calls in all while scoring; ``None`` sets no end.
        examples: Labelled queries shown in every prompt, half of them successes as far as there
            are any; their groups are left out of calibration.
    """

    ask: Ask
    training_calls: int = 200
    budget: int | None = None
    examples: int = 4
    name: str = "llm"
    sees: Sees = field(default="query", init=False)

    def __post_init__(self) -> None:
        if self.training_calls < 1 or (self.budget or 0) < 0 or self.examples < 0:
            raise InputError(
                f"an LLM router with {self.training_calls} training calls, a budget of "
                f"{self.budget} and {self.examples} examples cannot work; wanted at least 1 "
                "training call, and a budget and examples of 0 or more"
            )

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedLlmRouter:
        """Asks about at most ``training_calls`` of the rows whose ``weak`` is known.

        Raises:
            TrainingDataError: See ``Router.fit``; also when no reply holds a difficulty.
        """
        labelled = labelled_rows(data)
        order = rng.permutation(len(labelled))
        shown = _shown(labelled, order, self.examples)
        hidden = {labelled.groups[row] for row in shown}
        asked = [row for row in order if labelled.groups[row] not in hidden]
        asked = np.array(asked[: self.training_calls], dtype=np.int64)
        weights = labelled.row_weights()
        base_rate = float(np.average(labelled.weak, weights=weights))
        prompt = _Prompt.of(labelled.take(np.array(shown, dtype=np.int64)), base_rate)

        difficulties = _Difficulties(ask=self.ask, prompt=prompt)
        difficulty = difficulties.of([labelled.texts[row] for row in asked])
        told = np.isfinite(difficulty)
        if not told.any():
            raise TrainingDataError(
                f"the model told no difficulty for {len(asked)} labelled queries "
                f"({difficulties.counts}); look at its replies, or label more queries"
            )
        rows = asked[told]
        calibration = Platt().fit(-difficulty[told], labelled.weak[rows], weights[rows])
        return FittedLlmRouter(
            name=self.name,
            calibration=calibration,
            base_rate=base_rate,
            difficulties=difficulties.with_budget(self.budget),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """Messages before the query's own: what is asked for, and examples."""

    beginning: tuple[Message, ...]

    @classmethod
    def of(cls, examples: RoutingData, base_rate: float) -> _Prompt:
        lines = [_INSTRUCTIONS.format(share=base_rate)]
        for text, weak in zip(examples.texts, examples.weak, strict=True):
            fared = "answered well" if weak >= 0.5 else "not answered well"
            lines.append(f"An example that was {fared}:\n{_plain(text)}")
        return cls(beginning=({"role": "system", "content": "\n\n".join(lines)},))

    def about(self, text: str) -> tuple[Message, ...]:
        return (*self.beginning, {"role": "user", "content": f"The query:\n{_plain(text)}"})


class _Difficulties:
    """Asks within a budget, remembers by text, and counts what became of it."""

    def __init__(
        self,
        *,
        ask: Ask,
        prompt: _Prompt,
        budget: int | None = None,
        told: OrderedDict[str, float] | None = None,
    ) -> None:
        self._ask = ask
        self._prompt = prompt
        self._budget = budget
        self._told = OrderedDict[str, float]() if told is None else told
        self._lock = Lock()
        self.counts = LlmCounts()

    def with_budget(self, budget: int | None) -> _Difficulties:
        """The same memory under a new budget, with nothing counted yet."""
        return _Difficulties(ask=self._ask, prompt=self._prompt, budget=budget, told=self._told)

    def of(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Difficulty from 1 to 10 of each text; NaN where the model did not tell."""
        return np.array([self._one(text) for text in texts], dtype=np.float64)

    def _one(self, text: str) -> float:
        with self._lock:
            if text in self._told:
                return self._told[text]
            if self._budget is not None and self.counts.asked >= self._budget:
                self._count(over_budget=1)
                return np.nan
            self._count(asked=1)
        try:
            reply = self._ask(self._prompt.about(text))
        except UpstreamError:
            # No answer is no verdict: the next time the query comes it is asked about again.
            with self._lock:
                self._count(failed=1)
            return np.nan
        parsed = parse_difficulty(reply)
        difficulty = np.nan if parsed is None else parsed
        with self._lock:
            self._told[text] = difficulty
            self._count(unparsable=parsed is None)
            if len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
        return difficulty

    def _count(self, **more: int) -> None:
        counted = {name: getattr(self.counts, name) + by for name, by in more.items()}
        self.counts = replace(self.counts, **counted)


def parse_difficulty(reply: str) -> float | None:
    """The number from 1 to 10 that a reply begins with, or the only one in it; else ``None``."""
    numbers = re.findall(_NUMBER, reply)
    leading = _LEADING.match(reply)
    if leading or len(numbers) == 1:
        difficulty = float(leading[1] if leading else numbers[0])
        return difficulty if 1 <= difficulty <= 10 else None
    return None


def _shown(labelled: RoutingData, order: NDArray[np.int64], examples: int) -> list[int]:
    """Rows to show as examples: the first in ``order``, half of each outcome; few of few rows."""
    count = min(examples, len(labelled) // 10)
    succeeded = labelled.weak >= 0.5
    successes = [int(row) for row in order if succeeded[row]][: count // 2]
    return successes + [int(row) for row in order if not succeeded[row]][: count - len(successes)]


def _plain(text: str) -> str:
    # A lone surrogate is no Unicode text, and no call could carry it.
    return text[:_MOST_CHARACTERS].encode(errors="replace").decode()
