"""A language model as a labeller."""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from foretell.errors import ContextOverflowError, EngineBusyError, InputError
from foretell.flywheel._judge_cache import JudgeCache, cache_key
from foretell.flywheel._judge_models import JudgeModel, worst_usage
from foretell.flywheel._judge_prompts import (
    DEFAULT_RUBRIC,
    Mode,
    Verdict,
    judge_messages,
    read_verdict,
    verdict_schema,
)
from foretell.flywheel._judge_purse import JudgePurse
from foretell.flywheel._labeller import TRUNCATED, Label, Source
from foretell.flywheel._options import (
    check_names,
    number,
    one_of,
    required,
    text_or_file,
    yes_or_no,
)
from foretell.flywheel._workshop import Workshop
from foretell.records import Answer, Message, Query, Sampling
from foretell.upstreams import UpstreamCallError

_REPLY_TOKENS: Final = 512
_PROMPT_VERSION: Final = 1
_REMINDER: Final[Message] = {
    "role": "user",
    "content": "Reply with the one JSON object alone, nothing before it and nothing after it.",
}
_FREE_FAILURES: Final = (
    *("refused", "unauthorised", "context_window", "busy", "unreachable", "breaker_open"),
)
"""Kinds of failure for which nobody is charged: nothing was generated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeUse:
    """What judging took: dollars, calls to the model, and verdicts that were there already."""

    usd: float
    calls: int
    cached: int


class Judge:
    """What a language model says of an answer; by the metric ``judge``.

    ``pointwise`` it says whether the answer succeeds by a rubric. ``pairwise`` (metric
    ``judge:pairwise``) it says whether the answer is at least as good as the strong model's, asked
    in both orders: where the order decides, the answer is not labelled.

    The material stands between lines with a random mark, so an answer cannot end its own block.
    Verdicts are JSON, shaped by a schema where the API can do that, at temperature 0; a reply that
    is none is asked for once more. Whatever brings no verdict (prose, a timeout, a refusal, the
    cap) leaves the answer unlabelled with that as the reason. Truncated answers are not judged, and
    empty ones fail unasked. May be called from several threads.

    How far to believe it: see ``judge_quality`` and ``try_canaries``.

    Args:
        model: Who judges.
        mode: ``pointwise`` or ``pairwise``.
        rubric: What makes an answer succeed.
        rivals: By query, the strong model's answers, for ``pairwise``.
        shows_reference: Whether the judge sees the query's reference, where there is one.
        max_usd: What all calls may cost together. A call is not made when it could pass this.
        cache: Verdicts of earlier calls.
        nonce: Makes the mark, a new one for each call.
    """

    source: Source = "judge"

    def __init__(
        self,
        model: JudgeModel,
        *,
        mode: Mode = "pointwise",
        rubric: str = DEFAULT_RUBRIC,
        rivals: Mapping[str, Answer] | None = None,
        shows_reference: bool = True,
        max_usd: float = 1.0,
        cache: JudgeCache | None = None,
        nonce: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        if not (math.isfinite(max_usd) and max_usd >= 0):
            raise InputError(f"max_usd is {max_usd}; wanted a number of at least 0")
        self._model = model
        self._mode: Mode = mode
        self._rubric = rubric
        self._rivals = rivals or {}
        self._shows_reference = shows_reference
        self._purse = JudgePurse(max_usd)
        self._cache = cache
        self._nonce = nonce
        self._counts = Counter[str]()
        self._counting = threading.Lock()

    @classmethod
    def from_options(cls, options: Mapping[str, str], workshop: Workshop | None) -> Self:
        """Make one from options.

        They are ``model`` (a configured one), ``mode``, ``rubric`` (a text or a file),
        ``show_reference`` (yes or no), ``max_usd``, and ``cache`` (a file).
        """
        known = ("model", "mode", "rubric", "show_reference", "max_usd", "cache")
        check_names("judge", options, *known)
        name = required("judge", options, "model")
        mode: Mode = (
            "pairwise"
            if one_of(options, "mode", "pointwise", "pairwise") == "pairwise"
            else "pointwise"
        )
        rubric = text_or_file(options, "rubric") or DEFAULT_RUBRIC
        shows_reference = yes_or_no(options, "show_reference", default=True)
        max_usd = number(options, "max_usd", default=1.0)
        if workshop is None:
            raise InputError("the labeller 'judge' needs a workshop, which lends it the model")
        path = options.get("cache")
        return cls(
            workshop.judge_model(name, verdict_schema(mode)),
            mode=mode,
            rubric=rubric,
            rivals=workshop.strong_answers() if mode == "pairwise" else None,
            shows_reference=shows_reference,
            max_usd=max_usd,
            cache=workshop.judge_cache(None if path is None else Path(path)),
        )

    @property
    def metric(self) -> str:
        """``judge``, or ``judge:pairwise``."""
        return "judge" if self._mode == "pointwise" else "judge:pairwise"

    @property
    def author(self) -> str:
        """The model that judges."""
        return self._model.source

    @property
    def used(self) -> JudgeUse:
        """What it has taken so far."""
        return JudgeUse(
            usd=self._purse.spent_usd, calls=self._counts["calls"], cached=self._counts["cached"]
        )

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse a model without a price, and to compare where there is nothing to compare with."""
        if self._worst_usd([], _REPLY_TOKENS) is None:
            raise InputError(
                f"no price is known for the model {self._model.name!r}, so what it costs cannot be "
                "capped; set its price in the configuration, 0 where it costs nothing"
            )
        if self._mode == "pairwise" and not any(query.id in self._rivals for query in queries):
            raise InputError(
                "the labeller 'judge' compares with the strong model's answers, but there are "
                "none; run foretell collect --with-strong first, or set mode=pointwise"
            )

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        if answer.finish_reason == "length":
            return TRUNCATED
        if not answer.text.strip():
            return Label(0.0, "no answer")
        if self._mode == "pairwise":
            return self._compare(query, answer)
        verdict = self._verdict(query, {"answer": answer.text})
        if isinstance(verdict, str):
            return Label(None, verdict)
        if verdict.word == "pass":
            return Label(1.0, "", verdict.confidence, verdict.why)
        return Label(0.0, "judged a failure", verdict.confidence, verdict.why)

    def _compare(self, query: Query, answer: Answer) -> Label:
        rival = self._rivals.get(query.id)
        if rival is None:
            return Label(None, "no strong answer")
        if rival.text.strip() == answer.text.strip():
            return Label(1.0, "", 1.0, "the same text")
        if rival.finish_reason == "length":
            return Label(None, "strong answer truncated")
        verdicts = list[Verdict]()
        for first, second in ((answer, rival), (rival, answer)):
            verdict = self._verdict(
                query, {"first answer": first.text, "second answer": second.text}
            )
            if isinstance(verdict, str):
                return Label(None, verdict)
            verdicts.append(verdict)
        as_good = verdicts[0].word != "second", verdicts[1].word != "first"
        detail = " / ".join(verdict.why for verdict in verdicts if verdict.why)
        if as_good[0] != as_good[1]:
            return Label(None, "judge: the order decides", None, detail)
        sure = [verdict.confidence for verdict in verdicts if verdict.confidence is not None]
        confidence = min(sure) if len(sure) == len(verdicts) else None
        if as_good[0]:
            return Label(1.0, "", confidence, detail)
        return Label(0.0, "judged worse", confidence, detail)

    def _verdict(self, query: Query, answers: Mapping[str, str]) -> Verdict | str:
        """The verdict on answers by what they are called, or why there is none."""

        def messages(nonce: str) -> list[Message]:
            return judge_messages(
                self._mode,
                self._rubric,
                query,
                answers,
                nonce=nonce,
                shown=self._shown(query),
            )

        key = cache_key(
            {"version": _PROMPT_VERSION, "model": self._model.source, "messages": messages("")}
        )
        if self._cache is not None and (kept := self._cache.reply(key)) is not None:
            self._count("cached")
            if verdict := read_verdict(self._mode, kept):
                return verdict
        for reminders in range(2):
            reply = self._ask([*messages(self._nonce()), *[_REMINDER] * reminders])
            if reply.problem:
                return reply.problem
            if verdict := read_verdict(self._mode, reply.text):
                if self._cache is not None:
                    self._cache.keep(key, reply.text, reply.usd)
                return verdict
        return "judge: no verdict in the reply"

    def _shown(self, query: Query) -> str:
        reference: Any = query.reference
        if reference is None or not self._shows_reference:
            return ""
        return reference if isinstance(reference, str) else json.dumps(reference)

    def _ask(self, messages: Sequence[Message]) -> _Reply:
        worst_usd = self._worst_usd(messages, _REPLY_TOKENS) or 0.0
        if not self._purse.hold(worst_usd):
            return _Reply(problem="judge: cost cap reached")
        usd = worst_usd
        try:
            self._count("calls")
            answer = self._model.ask(messages, Sampling(max_tokens=_REPLY_TOKENS))
            cost = self._model.cost_usd(answer.usage)
            usd = worst_usd if cost is None else cost
        except UpstreamCallError as error:
            usd = 0.0 if error.kind in _FREE_FAILURES else worst_usd
            if error.kind == "unauthorised":
                raise  # it would be so for every answer
            return _Reply(problem=f"judge: {error.kind.replace('_', ' ')}")
        except (ContextOverflowError, EngineBusyError) as error:
            usd = 0.0
            full = isinstance(error, ContextOverflowError)
            return _Reply(problem=f"judge: {'context window' if full else 'busy'}")
        finally:
            self._purse.settle(worst_usd, usd)
        if answer.finish_reason == "length":
            return _Reply(problem="judge: reply cut off")
        return _Reply(text=answer.text, usd=usd)

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1

    def _worst_usd(self, messages: Sequence[Message], tokens: int) -> float | None:
        return self._model.cost_usd(worst_usage(messages, tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    text: str = ""
    usd: float = 0.0
    problem: str = ""
