"""Estimate, bar and chance in; decision out."""

from __future__ import annotations

import math
from itertools import count

from foretell.errors import InputError
from foretell.records import Action, Decision, Estimate, Role


def decide(
    estimate: Estimate | None,
    *,
    keep_at: float,
    least_gain: float | None = None,
    on_decline: Role = "strong",
    override: Role | None = None,
    explore: float = 0.0,
    draw: float | None = None,
) -> Decision:
    """Which model serves one query, and why.

    In this order: an ``override`` is followed (``pinned``); without an estimate, or with one of a
    query that is outside of what the router knows, ``on_decline`` serves (``declined``); the weak
    model keeps the query iff ``p_success >= keep_at``, else it escalates; a share ``explore`` of
    these goes the other way (``explore``), so that outcomes are known on both sides of the bar.
    ``keep_at`` may lie above 1, where nothing is kept.

    With ``least_gain``, and an estimate that foretells the strong model too, the bar is about the
    gain: a query escalates iff ``p_strong - p_success > least_gain``, that is, its own
    ``keep_at`` is ``p_strong - least_gain``.

    ``draw`` is uniform in [0, 1), drawn by the caller for this query, and flips the decision when
    below ``explore``; it is needed when ``explore`` is above 0. Chance of the decision taken:
    ``explore`` for a flipped one, else ``1 - explore``.

    Raises ``InputError`` for numbers that are none of these.
    """
    _check(estimate, keep_at=keep_at, explore=explore, draw=draw)
    if override is not None:
        return _decision(
            "pinned", override, f"the caller asked for the {override} model", keep_at, estimate
        )
    if estimate is None:
        return _decision(
            "declined",
            on_decline,
            f"there is no estimate for this query, so the {on_decline} model serves it",
            keep_at,
        )
    if estimate.outside:
        return _decision(
            "declined",
            on_decline,
            f"the query looks like nothing in training, so the {on_decline} model serves it",
            keep_at,
            estimate,
        )
    if least_gain is not None and estimate.p_strong is not None:
        keep_at = max(0.0, estimate.p_strong - least_gain)
    kept = estimate.p_success >= keep_at
    chance, bar = _told_apart(estimate.p_success, keep_at)
    compared = f"p_success {chance} is {'at least' if kept else 'below'} the bar of {bar}"
    if least_gain is not None and estimate.p_strong is not None:
        compared += (
            f" (the strong model's {estimate.p_strong:.2f}, less the {least_gain:.2f} that a call "
            "must gain)"
        )
    if draw is not None and draw < explore:
        served: Role = "strong" if kept else "weak"
        reason = f"{compared}, but one query in {1 / explore:.3g} explores the other side"
        return _decision("explore", served, reason, keep_at, estimate)
    if kept:
        return _decision("keep", "weak", compared, keep_at, estimate)
    return _decision("escalate", "strong", compared, keep_at, estimate)


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
    estimate: Estimate | None, *, keep_at: float, explore: float, draw: float | None
) -> None:
    if not (math.isfinite(keep_at) and keep_at >= 0):
        raise InputError(f"keep_at is {keep_at}; wanted a chance, or a number above 1 to keep none")
    if not 0 <= explore <= 1:
        raise InputError(f"explore is {explore}; wanted a share between 0 and 1")
    if explore > 0 and draw is None:
        raise InputError("exploring needs chance: pass draw, uniform in [0, 1)")
    if draw is not None and not 0 <= draw < 1:
        raise InputError(f"draw is {draw}; wanted a number in [0, 1)")
    if estimate is not None and not 0 <= estimate.p_success <= 1:
        raise InputError(
            f"{estimate.router} gave p_success {estimate.p_success}; wanted a chance between 0 and "
            "1; the router or its calibration is broken"
        )
