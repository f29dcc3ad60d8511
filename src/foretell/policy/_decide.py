"""Estimate, bar and chance in; decision out."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

from foretell.errors import InputError
from foretell.policy._exploration import Exploration
from foretell.policy._turns import TurnRule
from foretell.records import Action, Decision, Estimate, Role


def decide(
    estimate: Estimate | None,
    *,
    keep_at: float,
    least_gain: float | None = None,
    on_decline: Role = "strong",
    override: Role | None = None,
    explore: float | Exploration = 0.0,
    draw: float | None = None,
    turn: TurnRule | None = None,
    rival: str = "the strong model",
) -> Decision:
    """Which model serves one query, and why.

    In this order: an ``override`` is followed (``pinned``), then the pin of a conversation's
    ``turn`` (``pinned``, with its model as the ``target``); without an estimate, or with one of a
    query that is outside of what the router knows, ``on_decline`` serves (``declined``, with
    ``no_estimate`` or ``outside`` as the ``cause``); the weak model keeps the query iff ``p_success
    >= keep_at``, else it escalates; a share ``explore`` of these goes the other way (``explore``),
    so that outcomes are known on both sides of the bar. ``keep_at`` may lie above 1, where nothing
    is kept.

    With ``least_gain``, and an estimate that foretells the strong model too, the bar is about the
    gain: a query escalates iff ``p_strong - p_success > least_gain``, that is, its own
    ``keep_at`` is ``p_strong - least_gain``.

    ``draw`` is uniform in [0, 1), drawn by the caller for this query, and flips the decision when
    below ``explore``, or what that is for this query and its bar; it is needed when anything is
    explored. ``propensity``, the chance of the decision taken, is then that rate for a flipped one,
    else 1 less the rate; chance has no part in what is pinned or declined, nor in a ``turn`` that
    does not explore.

    ``p_weak``, the chance that the weak model serves a query like this one at this bar, is 1 less
    the rate above the bar and the rate below it; 1 or 0 where chance has no part in it, also for
    what is declined, and ``None`` for what is pinned.

    A ``turn`` moves the bar in favour of the model that served the conversation before. ``rival``
    is what the reason calls the model whose chance is ``p_strong``.

    Raises ``InputError`` for numbers that are none of these.
    """
    explore = Exploration.of(explore)
    _check(estimate, keep_at=keep_at, explore=explore, draw=draw)
    if override is not None:
        return _decision(
            "pinned", override, f"the caller asked for the {override} model", keep_at, estimate
        )
    if turn is not None and turn.pin is not None and turn.pin_role is not None:
        pinned = _decision("pinned", turn.pin_role, turn.reason, keep_at, estimate)
        return replace(pinned, target=turn.pin)
    if estimate is None:
        reason = f"there is no estimate for this query, so the {on_decline} model serves it"
        declined = _decision("declined", on_decline, reason, keep_at)
        return replace(declined, cause="no_estimate", p_weak=_as_served(on_decline))
    if estimate.outside:
        reason = f"the query looks like nothing in training, so the {on_decline} model serves it"
        declined = _decision("declined", on_decline, reason, keep_at, estimate)
        return replace(declined, cause="outside", p_weak=_as_served(on_decline))
    turn = turn or TurnRule()
    keep_at, compared = _compared(estimate, keep_at, least_gain, turn, rival)
    kept = estimate.p_success >= keep_at
    rate = explore.rate_at(estimate.p_success, keep_at) if turn.explores else 0.0
    p_weak = 1 - rate if kept else rate
    if draw is not None and draw < rate:
        served: Role = "strong" if kept else "weak"
        reason = f"{compared}, but one query in {1 / rate:.3g} explores the other side"
        explored = _decision("explore", served, reason, keep_at, estimate)
        return replace(explored, propensity=rate, p_weak=p_weak)
    decision = (
        _decision("keep", "weak", compared, keep_at, estimate)
        if kept
        else _decision("escalate", "strong", compared, keep_at, estimate)
    )
    return replace(decision, propensity=1 - rate if rate else None, p_weak=p_weak)


def _as_served(role: Role) -> float:
    """``p_weak`` of what chance has no part in."""
    return 1.0 if role == "weak" else 0.0


def _compared(
    estimate: Estimate, keep_at: float, least_gain: float | None, turn: TurnRule, rival: str
) -> tuple[float, str]:
    """The bar of this query, and in words how its chance compares."""
    unmoved, by_gain = keep_at, ""
    if least_gain is not None and estimate.p_strong is not None:
        unmoved = max(0.0, estimate.p_strong - least_gain)
        least_gain = turn.least_gain(least_gain)
        keep_at = max(0.0, estimate.p_strong - least_gain)
        by_gain = (
            f" ({rival}'s {estimate.p_strong:.2f}, less the {least_gain:.2f} that a call must gain)"
        )
    else:
        keep_at = turn.keep_at(keep_at)
    moved = f", {turn.reason}" if keep_at != unmoved else ""
    side = "at least" if estimate.p_success >= keep_at else "below"
    chance, bar = _told_apart(estimate.p_success, keep_at)
    return keep_at, f"p_success {chance} is {side} the bar of {bar}{by_gain}{moved}"


def _decision(
    action: Action, serve: Role, reason: str, keep_at: float, estimate: Estimate | None = None
) -> Decision:
    if estimate is None:
        return Decision(action=action, serve=serve, reason=reason, keep_at=keep_at)
    return Decision(
        action=action,
        serve=serve,
        reason=reason,
        keep_at=keep_at,
        p_success=estimate.p_success,
        p_strong=estimate.p_strong,
        gain=estimate.gain,
        familiarity=estimate.familiarity,
        router=estimate.router,
        p_pool=estimate.p_pool,
    )


def _told_apart(first: float, second: float) -> tuple[str, str]:
    """Both numbers with two decimals, or as many as show that they differ."""
    if first == second:
        return f"{first:.2f}", f"{second:.2f}"
    for digits in count(2):
        pair = f"{first:.{digits}f}", f"{second:.{digits}f}"
        if pair[0] != pair[1]:
            return pair
    raise AssertionError("unequal numbers differ in some digit")


def _check(
    estimate: Estimate | None, *, keep_at: float, explore: Exploration, draw: float | None
) -> None:
    if not (math.isfinite(keep_at) and keep_at >= 0):
        raise InputError(f"keep_at is {keep_at}; wanted a chance, or a number above 1 to keep none")
    if explore.rate > 0 and draw is None:
        raise InputError("exploring needs chance: pass draw, uniform in [0, 1)")
    if draw is not None and not 0 <= draw < 1:
        raise InputError(f"draw is {draw}; wanted a number in [0, 1)")
    if estimate is not None and not 0 <= estimate.p_success <= 1:
        raise InputError(
            f"{estimate.router} gave p_success {estimate.p_success}; wanted a chance between 0 and "
            "1; the router or its calibration is broken"
        )
