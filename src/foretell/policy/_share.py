"""Holding the strong model's share by feedback, whatever the scores do."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from typing import Final

from foretell.calibration import ScoreRange
from foretell.errors import InputError

_MOST_DEBT: Final = 9.9
"""Requests. Twice this over 1,000 requests is within 2 points, with something left for rounding."""

_WINDOW: Final = 512
_SATURATED_FOR: Final = 1000

_NEWEST_COUNTS: Final = 0.005
"""Weight of the newest request in what share of requests others decide: about the last 200."""

_STEP: Final = 1e-9
"""From a bar that keeps its ties to one that escalates them: less than chances tell apart, more
than what a difference of two of them rounds to."""


class ShareController:
    r"""A bar that moves, so that the strong model serves a given share of a route's requests.

    A score says who should be kept: higher is better kept. It is ``p_success``, or the gain of a
    strong call with its sign turned, ``p_success - p_strong`` in -1 to 1.

    **The rule.** Let :math:`r` be the target, :math:`e_t` 1 for a request that the strong model
    served and 0 for another, and the debt :math:`D_t = D_{t-1} + r - e_t`, the strong calls
    still owed. The next request escalates when its rank among the last 512 scores is below
    :math:`r + \gamma D_t`. That is adaptive conformal inference (Gibbs and Candès, 2021, equation
    2: :math:`\alpha_{t+1} = \alpha_t + \gamma (\alpha - err_t)`) on ranks: a rank does not depend
    on how chances are spread, so that one :math:`\gamma` does for all. Besides, whatever its
    score, a request must escalate when keeping it would take the debt above 9.9, and must be kept
    when escalating it would take it below -9.9; as the two limits are more than one request apart,
    at most one of the two is so.

    **The bound.** So :math:`|D_t| \le 9.9` for every sequence of scores, also of somebody who sees
    the bar before choosing the next one. Over requests :math:`s+1 \dots s+1000` the share
    misses the target by :math:`|D_{s+1000} - D_s| / 1000 \le 19.8 / 1000`: less than 2 points. The
    bound of Gibbs and Candès (Proposition 4.1) alone would need a :math:`\gamma` of 0.056 for that.

    **The cost of it.** While scores are independent and of one distribution, ranks are uniform, and
    :math:`D_t` is autoregressive: :math:`E[D_{t+1} \mid D_t] = (1-\gamma) D_t`, of variance about
    :math:`r(1-r) / 2\gamma`. At :math:`\gamma = 0.02` its deviation is at most 2.5 requests, the
    limits are four deviations away, and the bar moves by some 0.05 in rank around the best one.
    What is escalated is then nearly the lowest-scored share: the mean rank of the escalated
    exceeds the best, :math:`r / 2`, by about :math:`\gamma (1-r) / 4`, half a point at most.

    **Ties.** A bar cannot split equal scores, so chance does: a draw puts the bar below or above
    the ties at it, in the proportion that makes up the share. Constant scores are escalated at
    random.

    **Requests that others decide** (declined, pinned) count: the share is that of the route. Where
    lately a share :math:`u` of all requests was decided by others, and :math:`a` of all escalated
    by them, the bar moves around :math:`(r - a) / (1 - u)` instead of :math:`r`. What others take
    beyond the limits of the debt cannot be made up for within 2 points; it is forgotten, and
    ``saturated`` says so for the next 1,000 requests. So it does for decisions against the bar,
    such as explored ones.

    ``keep_at`` and ``observe`` belong together: a bar that was asked for before others were
    observed is late, and each request in between loosens the bound by one. Nothing here is safe
    from other threads.

    Args:
        target: Share from 0 (keep everything) to 1 (escalate everything).
        scores: Of past queries, oldest first, such as those held out in training; without any,
            requests are escalated at random until some were observed.
        score_range: What a score can be.
        gamma: How far one strong call too many moves the bar, in rank.
    """

    def __init__(
        self,
        target: float,
        scores: Iterable[float] = (),
        *,
        score_range: ScoreRange = (0.0, 1.0),
        gamma: float = 0.02,
    ) -> None:
        if not 0 < gamma <= 1:
            raise InputError(f"gamma is {gamma}; wanted a number above 0, at most 1")
        self._gamma = gamma
        self._range = score_range
        self._debt = 0.0
        self._share_by_others = 0.0
        self._escalated_by_others = 0.0
        self._requests = 0
        self._saturated_at: int | None = None
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self.aim_at(target)
        for score in scores:
            self._remember(score)

    @property
    def target(self) -> float:
        """The share aimed at now."""
        return self._target

    @property
    def debt(self) -> float:
        """Strong calls still owed; below 0 there were more than asked for."""
        return self._debt

    @property
    def saturated(self) -> bool:
        """Whether the share could not be held at some time in the last 1,000 requests.

        Decisions made by others (declined, pinned) alone took more than the target, or left less.
        """
        return (
            self._saturated_at is not None and self._requests - self._saturated_at < _SATURATED_FOR
        )

    def aim_at(self, target: float) -> None:
        """Hold another share from here on; the bound is then about the mean of the targets."""
        if not 0 <= target <= 1:
            raise InputError(f"the share to hold is {target}; wanted a number from 0 to 1")
        self._target = target

    def keep_at(self, draw: float) -> float:
        """The bar for the next request: keep it iff its score is at least this.

        ``draw`` is uniform in [0, 1), drawn by the caller for this request. Nothing is remembered.
        """
        if not 0 <= draw < 1:
            raise InputError(f"draw is {draw}; wanted a number in [0, 1)")
        low, high = self._range
        everything, nothing = low, high + _STEP
        if self._debt + self._target > _MOST_DEBT:
            return nothing
        if self._debt + self._target - 1 < -_MOST_DEBT:
            return everything
        rank = self._left_to_us() + self._gamma * self._debt
        if rank <= 0:
            return everything
        if rank >= 1:
            return nothing
        n = len(self._sorted)
        if not n:
            return nothing if draw < rank else everything
        at = self._sorted[min(math.floor(rank * n), n - 1)]
        below, through = bisect_left(self._sorted, at), bisect_right(self._sorted, at)
        return at + _STEP if draw < (rank * n - below) / (through - below) else at

    def observe(self, score: float | None, *, escalated: bool) -> None:
        """Count a request when it is decided.

        ``score`` is ``None`` when somebody else decided (declined, pinned): it says nothing about
        what scores are like. An explored request keeps its score.
        """
        if score is not None:
            self._remember(score)
        by_others = score is None
        self._share_by_others += _NEWEST_COUNTS * (by_others - self._share_by_others)
        self._escalated_by_others += _NEWEST_COUNTS * (
            (by_others and escalated) - self._escalated_by_others
        )
        self._requests += 1
        debt = self._debt + self._target - escalated
        self._debt = max(-_MOST_DEBT, min(_MOST_DEBT, debt))
        # More than rounding: a decision of this controller never leaves the limits.
        if abs(debt - self._debt) > _STEP:
            self._saturated_at = self._requests

    def _left_to_us(self) -> float:
        """The share of the requests decided here that makes up the target."""
        ours = 1 - self._share_by_others
        share = (self._target - self._escalated_by_others) / ours if ours > 0 else 0.0
        return min(1.0, max(0.0, share))

    def _remember(self, score: float) -> None:
        low, high = self._range
        if not low <= score <= high:
            raise InputError(f"a score is {score}; wanted a number from {low:g} to {high:g}")
        if len(self._recent) == _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(score)
        insort(self._sorted, score)
