"""The breaker and the retry budget against models that are plainly right."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from foretell.upstreams import Breaker
from foretell.upstreams._retry_budget import RetryBudget

FAILURES = 3
OPEN_S = 10.0


@dataclass(eq=False)
class Call:
    epoch: int
    era: int
    probe: bool


class BreakerAgainstItsHistory(RuleBasedStateMachine):
    """The model keeps the whole story, and works out the state from it."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(failures=FAILURES, open_s=OPEN_S, clock=lambda: self.now)
        self.row: list[str] = []  # what the calls of this closed time have reported
        self.opened_at: float | None = None
        self.probe: Call | None = None
        self.era = 0  # one more with every change

    @rule(seconds=st.sampled_from([0.5, 4.0, OPEN_S, 2 * OPEN_S]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(target=calls)
    def a_call_is_asked_for(self):
        due = self.opened_at is not None and self.now >= self.opened_at + OPEN_S
        allowed = self.opened_at is None or (due and self.probe is None)
        assert self.breaker.allows() == allowed
        if not allowed:
            return None
        if due:
            self.era += 1
        call = Call(self.breaker.epoch, self.era, probe=due)
        if due:
            self.probe = call
        return call

    @rule(call=consumes(calls), outcome=st.sampled_from(["succeeded", "failed", "gave_up"]))
    def a_call_ends(self, call, outcome):
        if call is None:
            return
        getattr(self.breaker, outcome)(since=call.epoch)
        if call is self.probe:
            self.probe = None
            self.era += 1
            if outcome == "succeeded":
                self.opened_at, self.row = None, []
            elif outcome == "failed":
                self.opened_at = self.now
        elif call.era == self.era and self.opened_at is None:
            self.row.append(outcome)
            counted = [entry for entry in self.row if entry != "gave_up"]
            if counted[-FAILURES:] == ["failed"] * FAILURES:
                self.opened_at, self.row = self.now, []
                self.era += 1

    @invariant()
    def the_state_is_what_the_story_says(self):
        if self.opened_at is None:
            expected = "closed"
        elif self.probe is not None or self.now >= self.opened_at + OPEN_S:
            expected = "half_open"
        else:
            expected = "open"
        assert self.breaker.state == expected
        waits = self.opened_at is not None and self.now < self.opened_at + OPEN_S
        assert (self.breaker.opens_in_s > 0) == waits


class OneProbeAtATime(RuleBasedStateMachine):
    """However late and in whatever order calls report, no second probe is let out."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(failures=1, open_s=1.0, clock=lambda: self.now)
        self.probes = 0

    @rule()
    def time_passes(self):
        self.now += 1.0

    @rule(target=calls)
    def a_call_is_asked_for(self):
        if not self.breaker.allows():
            return None
        probe = self.breaker.state == "half_open"
        self.probes += probe
        assert self.probes <= 1
        return self.breaker.epoch, probe

    @rule(call=consumes(calls), outcome=st.sampled_from(["succeeded", "failed", "gave_up"]))
    def a_call_ends(self, call, outcome):
        if call is not None:
            epoch, probe = call
            getattr(self.breaker, outcome)(since=epoch)
            self.probes -= probe


TestBreakerAgainstItsHistory = BreakerAgainstItsHistory.TestCase
TestOneProbeAtATime = OneProbeAtATime.TestCase


def breaker_at(now: list[float], failures: int = FAILURES) -> Breaker:
    return Breaker(failures=failures, open_s=OPEN_S, clock=lambda: now[0])


@given(st.integers(1, 20))
def test_it_opens_with_the_last_of_its_failures_in_a_row_and_not_before(failures):
    breaker = breaker_at([0.0], failures)
    for _ in range(failures):
        assert breaker.state == "closed"
        assert breaker.allows()
        breaker.failed()
    assert breaker.state == "open"
    assert not breaker.allows()
    assert breaker.opens_in_s == OPEN_S


def test_a_caller_who_goes_away_counts_neither_way():
    breaker = breaker_at([0.0])
    for outcome in ("failed", "gave_up", "failed", "gave_up", "failed"):
        assert breaker.allows()
        getattr(breaker, outcome)()
    assert breaker.state == "open"


def test_a_probe_that_was_given_up_leaves_its_place_to_the_next():
    now = [0.0]
    breaker = breaker_at(now, failures=1)
    assert breaker.allows()
    breaker.failed()
    now[0] = OPEN_S
    assert breaker.allows()
    assert not breaker.allows()
    breaker.gave_up()
    assert breaker.state == "half_open"
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.state == "closed"


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "gave_up"])
def test_a_report_from_before_the_breaker_opened_says_nothing_now(outcome):
    now = [0.0]
    breaker = breaker_at(now, failures=1)
    assert breaker.allows()
    old = breaker.epoch
    breaker.failed()
    now[0] = OPEN_S
    assert breaker.allows()
    getattr(breaker, outcome)(since=old)
    assert breaker.state == "half_open"
    assert not breaker.allows()


@given(st.floats(0, 1), st.integers(0, 20), st.lists(st.integers(0, 3), max_size=60))
def test_retries_are_at_most_the_reserve_and_a_share_of_the_calls(share, reserve, wanted):
    budget = RetryBudget(share, reserve=reserve)
    granted = 0
    for calls, retries in enumerate(wanted, start=1):
        budget.called()
        granted += sum(budget.allows() for _ in range(retries))
        assert granted <= reserve + share * calls + 1e-6


def test_in_an_outage_a_tenth_of_the_calls_may_be_tried_again():
    budget = RetryBudget(0.1, reserve=1)
    granted: list[bool] = []
    for _ in range(101):
        budget.called()
        granted.append(budget.allows())
    assert sum(granted) == 11  # the reserve, and one of ten


def test_a_budget_of_nothing_allows_no_retry():
    budget = RetryBudget(0.0)
    budget.called()
    assert not budget.allows()
