import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.policy import BudgetPacer, ShareController

WINDOW = 1000
DAY_S = 86_400.0
NOON = 20_000 * DAY_S + DAY_S / 2

usd = st.floats(0, 0.01)
requests = st.tuples(
    usd,  # the most it may cost
    st.floats(0, 1),  # the part of it that it costs
    st.integers(0, 4),  # requests until it is settled
    st.booleans(),  # whether its cost is known
)


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


def play(pacer, asked, *, tick=lambda: None):
    """What each allowed request cost (all that was reserved where nobody knows), in order."""
    costs, open_ = [], []
    for worst, part, later, known in asked:
        tick()
        held = pacer.reserve(worst, serve="strong")
        if held is None:
            # Turned down, so answered for nothing; a request all the same.
            pacer.settle(pacer.charge(0.0, serve="weak"), 0.0)
            costs.append(0.0)
            continue
        costs.append(worst * part if known else worst)
        open_.append((len(costs) + later, held, worst * part if known else None))
        for due, reservation, actual in [x for x in open_ if x[0] <= len(costs)]:
            pacer.settle(reservation, actual)
            open_.remove((due, reservation, actual))
    return costs


@settings(max_examples=40)
@given(st.floats(0, 0.05), st.lists(requests, min_size=1, max_size=20), st.integers(0, 2**32))
def test_no_thousand_requests_cost_more_than_the_budget(budget, kinds, seed):
    rng = np.random.default_rng(seed)
    # More than a window in all, of a few kinds of requests in blocks.
    asked = [kinds[at] for at in rng.integers(0, len(kinds), 25) for _ in range(60)]
    costs = play(BudgetPacer.per_1k(budget), asked)
    sums = np.concatenate([[0], np.cumsum(costs)])
    worst = (sums[WINDOW:] - sums[:-WINDOW]).max() if len(costs) >= WINDOW else sums[-1]
    assert worst <= budget + 1e-6


@given(st.floats(0, 0.05), st.floats(0, 0.05), st.lists(requests, min_size=1, max_size=60))
def test_no_day_costs_more_than_the_budget(budget, spent, asked):
    pacer = BudgetPacer.per_day(budget, clock=Clock(NOON), already_spent_usd=spent)
    costs = play(pacer, asked)
    assert sum(costs) <= max(0.0, budget - spent) + 1e-6


def test_reservations_of_requests_at_the_same_time_count():
    pacer = BudgetPacer.per_day(1.0, clock=Clock(NOON))
    first = pacer.reserve(0.6, serve="strong")
    assert pacer.reserve(0.6, serve="strong") is None
    assert not pacer.allows(0.6)
    pacer.settle(first, 0.3)
    assert pacer.left_usd() == pytest.approx(0.7)
    assert pacer.reserve(0.7, serve="strong") is not None
    assert not pacer.allows(1e-9)
    assert pacer.allows(0.0)


@pytest.mark.parametrize(
    "make", [BudgetPacer.per_1k, lambda usd: BudgetPacer.per_day(usd, clock=Clock(NOON))]
)
def test_a_cost_that_nobody_knows_counts_as_what_was_reserved(make):
    pacer = make(1.0)
    pacer.settle(pacer.reserve(0.4, serve="strong"), None)
    assert pacer.left_usd() == pytest.approx(0.6)


def test_a_cost_above_its_reservation_is_counted_in_full():
    pacer = BudgetPacer.per_1k(1.0)
    pacer.settle(pacer.reserve(0.4, serve="strong"), 1.5)
    assert pacer.left_usd() == pytest.approx(-0.5)
    assert pacer.reserve(0.0, serve="weak") is None
    pacer.charge(0.1, serve="weak")
    assert pacer.left_usd() == pytest.approx(-0.6)


def test_a_request_leaves_the_window_after_a_thousand():
    pacer = BudgetPacer.per_1k(1.0)
    early = pacer.reserve(1.0, serve="strong")
    for _ in range(999):
        assert pacer.reserve(0.5, serve="strong") is None or pacer.left_usd() < 1
        pacer.charge(0.0, serve="weak")
    assert pacer.left_usd() == 1.0
    pacer.reserve(0.7, serve="strong")
    pacer.settle(early, 0.0)  # its place in the window is gone
    assert pacer.left_usd() == pytest.approx(0.3)


def test_a_day_ends_at_midnight_utc_and_what_it_reserved_stays_with_it():
    clock = Clock(NOON)
    pacer = BudgetPacer.per_day(1.0, clock=clock, already_spent_usd=0.5)
    late = pacer.reserve(0.5, serve="strong")
    clock.now += DAY_S / 2 - 1
    assert not pacer.allows(0.1)
    clock.now += 1
    assert pacer.left_usd() == 1.0
    pacer.settle(late, 0.4)
    assert pacer.left_usd() == 1.0


def test_a_clock_that_is_put_back_over_midnight_brings_no_money_back():
    clock = Clock(NOON + DAY_S / 2 + 1)
    pacer = BudgetPacer.per_day(1.0, clock=clock)
    pacer.charge(0.9, serve="strong")
    clock.now -= 2
    assert pacer.left_usd() == pytest.approx(0.1)
    clock.now += 2
    assert pacer.left_usd() == pytest.approx(0.1)


def test_after_a_restart_the_window_goes_on_from_the_last_costs():
    pacer = BudgetPacer.per_1k(1.0, recent_usd=[5.0, *[0.0] * 500, *[0.0018] * 500])
    assert pacer.left_usd() == pytest.approx(0.1)


def test_the_share_is_what_the_budget_buys():
    # 95 % of 2.0 USD are 0.0019 a request; (0.0019 - 0.0002) / (0.0102 - 0.0002) = 0.17
    pacer = BudgetPacer.per_1k(2.0, weak_usd=0.0002, strong_usd=0.0102)
    assert pacer.share() == pytest.approx(0.17)


def test_the_share_of_a_day_spreads_what_is_left_over_the_requests_to_come():
    clock = Clock(NOON)
    pacer = BudgetPacer.per_day(10.0, clock=clock, weak_usd=0.0, strong_usd=0.01)
    assert pacer.share() is None
    for _ in range(11):
        pacer.charge(0.0, serve="weak")
        clock.now += 10
    # 10 requests in 110 s, and 43,090 s to go: 3917 requests for 10 USD at 0.01 USD a call
    assert pacer.share() == pytest.approx(10 / (10 / 110 * 43_090) / 0.01)


def test_without_costs_of_both_models_no_share_is_known():
    pacer = BudgetPacer.per_1k(1.0)
    assert pacer.share() is None
    pacer.settle(pacer.reserve(0.01, serve="strong"), 0.01)
    assert pacer.share() is None
    pacer.settle(pacer.reserve(0.01, serve="strong"), 0.001, serve="weak")
    assert pacer.share() is not None


@given(st.floats(0, 10), usd, usd)
def test_a_share_is_one_and_more_budget_never_lowers_it(budget, weak, strong):
    def share(budget_usd):
        return BudgetPacer.per_1k(budget_usd, weak_usd=weak, strong_usd=strong).share()

    assert 0 <= share(budget) <= share(budget * 1.5) <= 1


def test_a_strong_model_that_costs_no_more_gets_everything_that_the_budget_allows():
    assert BudgetPacer.per_1k(5.0, weak_usd=0.002, strong_usd=0.001).share() == 1.0
    assert BudgetPacer.per_1k(0.5, weak_usd=0.002, strong_usd=0.001).share() == 0.0


def test_pacing_spends_most_of_the_budget_and_seldom_meets_the_hard_stop():
    rng = np.random.default_rng(1)
    pacer = BudgetPacer.per_1k(3.0, weak_usd=0.0001, strong_usd=0.02)  # it costs half of that
    controller = ShareController(0.3)
    spent, stopped = [], 0
    for score, length in zip(rng.random(8000), rng.lognormal(0, 0.7, 8000), strict=True):
        controller.aim_at(pacer.share())
        escalates = score < controller.keep_at(rng.random())
        worst = 0.008 * length * 1.5
        held = pacer.reserve(worst, serve="strong") if escalates else None
        stopped += bool(escalates and held is None)
        controller.observe(score, escalated=held is not None)
        cost = 0.008 * length if held else 0.0001
        held = held or pacer.charge(0.0001, serve="weak")
        pacer.settle(held, cost)
        spent.append(cost)
    sums = np.concatenate([[0], np.cumsum(spent)])
    windows = sums[WINDOW:] - sums[:-WINDOW]
    assert windows.max() <= 3.0
    assert windows[2000:].mean() > 0.9 * 3.0
    assert stopped < 0.01 * len(spent)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: BudgetPacer.per_1k(-1), "usd_per_1k is -1"),
        (lambda: BudgetPacer.per_day(math.nan, clock=Clock(NOON)), "usd_per_day is nan"),
        (lambda: BudgetPacer.per_1k(1).allows(math.inf), "a cost is inf USD"),
        (lambda: BudgetPacer.per_1k(1).charge(-0.1, serve="weak"), "a cost is -0.1 USD"),
    ],
)
def test_money_that_is_none_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_a_reservation_is_settled_once():
    pacer = BudgetPacer.per_1k(1.0)
    held = pacer.reserve(0.1, serve="strong")
    pacer.settle(held, 0.1)
    with pytest.raises(InputError, match="settled before"):
        pacer.settle(held, 0.1)
