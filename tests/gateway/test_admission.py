from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from foretell.errors import InputError, StoreError
from foretell.gateway._admission import Admission, SpentToday, Ticket
from foretell.gateway._callers import ANYBODY, Caller, KeySource
from foretell.gateway._errors import ApiError
from foretell.records import ApiKey, KeyLimits

DAY_S = 86_400
NOON = 20_000 * DAY_S + DAY_S / 2


class Clock:
    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def admission_at(clock: Clock | None = None, **options: Any) -> Admission:
    clock = clock or Clock()
    return Admission(KeySource(clock=clock), clock, **options)


def caller(key_id: str = "k", **limits: Any) -> Caller:
    return Caller(key_id=key_id, limits=KeyLimits(**limits))


def refused(act: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        act()
    return caught.value


def fits(act: Callable[[], object]) -> bool:
    try:
        act()
    except ApiError:
        return False
    return True


# Models


def test_a_key_may_ask_for_its_routes_alone() -> None:
    admission = admission_at()
    limited = caller(routes=("auto",))
    admission.enter(limited, "auto").release()
    error = refused(lambda: admission.enter(limited, "secret-model"))
    assert (error.status, error.code, error.param) == (403, "model_not_allowed", "model")
    assert "secret-model" not in error.message
    assert admission.in_flight == 0


def test_no_routes_at_all_is_another_thing_than_no_limit() -> None:
    admission = admission_at()
    assert refused(lambda: admission.enter(caller(routes=()), "auto")).status == 403
    admission.enter(caller(routes=None), "anything").release()


# How many at a time


def test_the_gateway_takes_so_many_at_a_time_and_no_more() -> None:
    admission = admission_at(max_concurrent=2)
    first, _second = admission.enter(ANYBODY, "auto"), admission.enter(caller(), "auto")
    error = refused(lambda: admission.enter(ANYBODY, "auto"))
    assert (error.status, error.code, error.headers) == (503, "overloaded", {"Retry-After": "1"})
    first.release()
    admission.enter(ANYBODY, "auto")


def test_a_key_has_so_many_under_way_and_others_do_not_mind() -> None:
    admission = admission_at()
    limited = caller("a", concurrent=1)
    ticket = admission.enter(limited, "auto")
    error = refused(lambda: admission.enter(limited, "auto"))
    assert (error.status, error.code) == (429, "concurrency_limit_exceeded")
    assert error.headers == {"Retry-After": "1"}
    admission.enter(caller("b", concurrent=1), "auto")
    ticket.release()
    admission.enter(limited, "auto")


def test_a_ticket_leaves_once_however_it_ends() -> None:
    admission = admission_at()
    with suppress(RuntimeError), admission.enter(caller(), "auto") as ticket:
        assert admission.in_flight == 1
        raise RuntimeError
    assert admission.in_flight == 0
    ticket.release()
    with ticket:
        pass
    assert admission.in_flight == 0


def test_a_request_that_is_refused_counts_for_nothing() -> None:
    admission = admission_at()
    limited = caller(concurrent=1, requests_per_minute=2)
    ticket = admission.enter(limited, "auto")
    for _ in range(10):
        assert refused(lambda: admission.enter(limited, "auto")).code == (
            "concurrency_limit_exceeded"
        )
    ticket.release()
    admission.enter(limited, "auto").release()
    assert refused(lambda: admission.enter(limited, "auto")).code == "rate_limit_exceeded"


# How often


def test_a_minutes_worth_may_come_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    admission = admission_at(clock)
    limited = caller(requests_per_minute=30)
    for _ in range(30):
        admission.enter(limited, "auto").release()
    error = refused(lambda: admission.enter(limited, "auto"))
    # One request every 2 s.
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.headers == {"Retry-After": "2"}
    clock.at += 2
    admission.enter(limited, "auto").release()
    assert not fits(lambda: admission.enter(limited, "auto"))


@pytest.mark.parametrize(
    ("per_minute", "after_s"), [(0.5, 120), (1, 60), (7, 9), (6000, 1), (0, 60)]
)
def test_who_waits_as_told_is_let_in(per_minute: float, after_s: int) -> None:
    clock = Clock()
    admission = admission_at(clock)
    limited = caller(requests_per_minute=per_minute)
    while fits(lambda: admission.enter(limited, "auto").release()):
        pass
    error = refused(lambda: admission.enter(limited, "auto"))
    assert error.headers == {"Retry-After": str(after_s)}
    clock.at += after_s
    assert fits(lambda: admission.enter(limited, "auto")) == (per_minute > 0)


@given(
    per_minute=st.floats(0.1, 100),
    waits=st.lists(st.floats(0, 30) | st.just(0.0), min_size=1, max_size=200),
)
def test_no_stretch_of_time_sees_more_than_the_rate_and_one_burst(
    per_minute: float, waits: list[float]
) -> None:
    clock = Clock()
    admission = admission_at(clock)
    limited = caller(requests_per_minute=per_minute)
    entered: list[float] = []
    for wait in waits:
        clock.at += wait
        if fits(lambda: admission.enter(limited, "auto").release()):
            entered.append(clock.at)
    burst = max(1.0, per_minute)
    for i, begin in enumerate(entered):
        for j in range(i, len(entered)):
            allowed = burst + (entered[j] - begin) * per_minute / 60
            assert j - i + 1 <= allowed + 1e-3


def test_a_clock_that_is_set_back_shuts_nobody_out_for_long() -> None:
    clock = Clock()
    admission = admission_at(clock)
    limited = caller(requests_per_minute=1)
    admission.enter(limited, "auto").release()
    clock.at -= 3600
    assert not fits(lambda: admission.enter(limited, "auto"))
    clock.at += 60
    admission.enter(limited, "auto").release()


# Money


def test_money_is_put_aside_before_a_call_and_booked_after() -> None:
    clock = Clock()
    admission = admission_at(clock)
    limited = caller(usd_per_day=1.0)
    first, second = admission.enter(limited, "auto"), admission.enter(limited, "auto")
    first.reserve(0.7)
    error = refused(lambda: second.reserve(0.4))
    assert (error.status, error.code, error.type) == (
        *(429, "insufficient_quota"),
        "insufficient_quota",
    )
    assert error.headers == {"Retry-After": str(DAY_S // 2)}
    first.settle(0.1)
    second.reserve(0.9)
    assert not fits(lambda: first.reserve(0.000_001))


@pytest.mark.parametrize("settled", [None, "not at all"])
def test_a_cost_that_is_not_known_is_booked_as_it_was_reserved(settled: Any) -> None:
    admission = admission_at()
    limited = caller(usd_per_day=1.0)
    with admission.enter(limited, "auto") as ticket:
        ticket.reserve(0.6)
        if settled is None:
            ticket.settle(None)
    with admission.enter(limited, "auto") as ticket:
        assert not fits(lambda: ticket.reserve(0.5))
        ticket.reserve(0.4)
        ticket.settle(0.0)
        ticket.reserve(0.4)


def test_each_of_several_targets_is_reserved_for() -> None:
    admission = admission_at()
    ticket = admission.enter(caller(usd_per_day=1.0), "auto")
    ticket.reserve(0.6)
    assert not fits(lambda: ticket.reserve(0.6))
    ticket.reserve(0.4)
    ticket.settle(0.2)
    ticket.reserve(0.8)


def test_the_budget_to_the_last_cent_may_be_spent() -> None:
    admission = admission_at()
    limited = caller(usd_per_day=0.3)
    for _ in range(3):  # 0.1 + 0.1 + 0.1 > 0.3 in floating point
        with admission.enter(limited, "auto") as ticket:
            ticket.reserve(0.1)
            ticket.settle(0.1)
    with admission.enter(limited, "auto") as ticket:
        assert not fits(lambda: ticket.reserve(1e-9))
        ticket.reserve(0.0)


def test_the_smallest_cost_is_not_none() -> None:
    ticket = admission_at().enter(caller(usd_per_day=1e-9), "auto")
    ticket.reserve(1e-10)
    assert not fits(lambda: ticket.reserve(1e-10))


def test_what_cannot_be_priced_is_not_for_keys_with_a_budget() -> None:
    admission = admission_at()
    error = refused(lambda: admission.enter(caller(usd_per_day=1.0), "auto").reserve(None))
    assert (error.status, error.code) == (403, "price_not_known")
    with admission.enter(caller("free"), "auto") as ticket:
        ticket.reserve(None)
        ticket.settle(None)


@pytest.mark.parametrize("usd", [-0.1, float("nan"), float("inf")])
def test_a_cost_that_makes_no_sense_is_refused(usd: float) -> None:
    ticket = admission_at().enter(caller(), "auto")
    with pytest.raises(InputError, match="wanted a number from 0"):
        ticket.reserve(usd)
    with pytest.raises(InputError):
        ticket.settle(usd)


# Days


def test_midnight_utc_gives_a_new_budget_and_tickets_stay_on_their_day() -> None:
    clock = Clock(20_001 * DAY_S - 1)
    admission = admission_at(clock)
    limited = caller(usd_per_day=1.0, escalations_per_day=1)
    late = admission.enter(limited, "auto")
    late.reserve(1.0)
    late.escalate()
    clock.at += 1
    with admission.enter(limited, "auto") as early:
        assert early.may_escalate()
        early.reserve(1.0)
        late.settle(0.9)
        assert not fits(lambda: early.reserve(0.1))
        assert not fits(lambda: late.reserve(0.2))
        late.reserve(0.1)


def test_a_clock_that_is_set_back_over_midnight_gives_no_budget_twice() -> None:
    clock = Clock(20_000 * DAY_S + 1)
    admission = admission_at(clock)
    limited = caller(usd_per_day=1.0)
    with admission.enter(limited, "auto") as ticket:
        ticket.reserve(1.0)
    for step in (-2, 2):
        clock.at += step
        with admission.enter(limited, "auto") as ticket:
            assert not fits(lambda ticket=ticket: ticket.reserve(0.1))


def test_the_wait_for_a_new_budget_ends_at_midnight() -> None:
    clock = Clock(20_000 * DAY_S + 1)
    ticket = admission_at(clock).enter(caller(usd_per_day=0.0), "auto")
    error = refused(lambda: ticket.reserve(0.1))
    assert error.headers == {"Retry-After": str(DAY_S - 1)}


# Escalations


def test_escalations_are_counted_once_a_request_and_end() -> None:
    admission = admission_at()
    limited = caller(escalations_per_day=2)
    first, second, third = (admission.enter(limited, "auto") for _ in range(3))
    assert third.may_escalate()
    first.escalate()
    first.escalate()
    second.escalate()
    assert not third.may_escalate()
    assert first.may_escalate()
    error = refused(third.escalate)
    assert (error.status, error.code) == (429, "insufficient_quota")
    assert error.headers == {"Retry-After": str(DAY_S // 2)}
    first.escalate()


def test_without_a_limit_everything_may_escalate() -> None:
    admission = admission_at()
    for _ in range(100):
        with admission.enter(caller(), "auto") as ticket:
            assert ticket.may_escalate()
            ticket.escalate()


# Restarts and reloads


def with_key(spent_today: SpentToday | None, clock: Clock, **limits: Any) -> Admission:
    def stored(sha256: str) -> ApiKey:
        return ApiKey(
            id="k", name="tests", sha256=sha256, limits=KeyLimits(**limits), created_at=0.0
        )

    return Admission(KeySource(stored=stored, clock=clock), clock, spent_today=spent_today)


def test_what_was_spent_before_a_restart_counts() -> None:
    clock = Clock()
    asked: list[tuple[str, float]] = []

    def spent_today(key_id: str, at: float) -> tuple[float, int]:
        asked.append((key_id, at))
        return 0.75, 2

    async def work() -> None:
        admission = with_key(spent_today, clock, usd_per_day=1.0, escalations_per_day=3)
        found = [await admission.authenticate("Bearer fk-1", None) for _ in range(3)]
        with admission.enter(found[0], "auto") as ticket:
            assert not fits(lambda: ticket.reserve(0.3))
            ticket.reserve(0.25)
            ticket.settle(0.0)
            ticket.escalate()
        with admission.enter(found[2], "auto") as ticket:
            assert not ticket.may_escalate()
            clock.at += DAY_S
        with admission.enter(found[2], "auto") as ticket:
            assert ticket.may_escalate()
            ticket.reserve(1.0)

    asyncio.run(work())
    assert asked == [("k", NOON)]


def test_many_first_requests_at_once_do_not_forget_what_they_spend() -> None:
    clock = Clock()

    async def work() -> None:
        admission = with_key(lambda *_: (0.5, 0), clock, usd_per_day=1.0)

        async def request() -> bool:
            found = await admission.authenticate("Bearer fk-1", None)
            with admission.enter(found, "auto") as ticket:
                return fits(lambda: ticket.reserve(0.25))

        assert sum(await asyncio.gather(*(request() for _ in range(8)))) == 2

    asyncio.run(work())


def test_while_it_is_not_known_what_was_spent_a_key_with_a_budget_waits() -> None:
    down = True

    def spent_today(key_id: str, at: float) -> tuple[float, int]:
        if down:
            raise StoreError(f"database of {key_id} is down at {at}")
        return 0.0, 0

    async def work() -> None:
        nonlocal down
        admission = with_key(spent_today, Clock(), usd_per_day=1.0)
        with pytest.raises(ApiError) as caught:
            await admission.authenticate("Bearer fk-1", None)
        assert (caught.value.status, caught.value.code) == (503, "keys_unavailable")
        assert caught.value.headers == {"Retry-After": "1"}
        assert "database" not in caught.value.message
        free = with_key(spent_today, Clock(), concurrent=5)
        assert (await free.authenticate("Bearer fk-1", None)).key_id == "k"
        down = False
        assert (await admission.authenticate("Bearer fk-1", None)).key_id == "k"

    asyncio.run(work())


def test_without_a_ledger_a_key_starts_with_its_whole_budget() -> None:
    async def work() -> None:
        admission = with_key(None, Clock(), usd_per_day=1.0)
        found = await admission.authenticate("Bearer fk-1", None)
        admission.enter(found, "auto").reserve(1.0)

    asyncio.run(work())


def test_a_reload_changes_the_limits_and_keeps_the_books() -> None:
    clock = Clock()
    admission = admission_at(clock, max_concurrent=1)
    limited = caller(usd_per_day=1.0)
    ticket = admission.enter(limited, "auto")
    ticket.reserve(0.75)
    admission.reload(keys=KeySource(configured=["one-key"], clock=clock), max_concurrent=2)
    with admission.enter(limited, "auto") as second:
        assert not fits(lambda: second.reserve(0.5))
        assert not fits(lambda: admission.enter(limited, "auto"))
    with pytest.raises(ApiError):
        asyncio.run(admission.authenticate(None, None))
    ticket.release()
    assert admission.in_flight == 0


# All of it, in any order

BUDGETS = {"a": 1.0, "b": 0.05, "c": None}
USD = st.floats(0, 0.6) | st.sampled_from([0.0, 0.05, 0.1, 1.0])


class Interleaved(RuleBasedStateMachine):
    """Requests of several keys, interleaved in any way, against a naive account of them."""

    tickets = Bundle("tickets")

    @initialize(most=st.integers(1, 6))
    def start(self, most: int) -> None:
        self.clock = Clock(20_001 * DAY_S - 100)
        self.most = most
        self.admission = admission_at(self.clock, max_concurrent=most)
        self.owner: dict[Ticket, tuple[str, int]] = {}
        self.reserved: dict[Ticket, float] = {}
        self.spent: dict[tuple[str, int], float] = {}
        self.escalated: dict[tuple[str, int], set[Ticket]] = {}

    @rule(target=tickets, key=st.sampled_from(sorted(BUDGETS)))
    def enter(self, key: str) -> Any:
        who = caller(key, usd_per_day=BUDGETS[key], concurrent=3, escalations_per_day=2)
        mine = sum(owner == key for owner, _ in self.owner.values())
        if len(self.owner) >= self.most or mine >= 3:
            refused(lambda: self.admission.enter(who, "auto"))
            return None
        ticket = self.admission.enter(who, "auto")
        self.owner[ticket] = (key, int(self.clock.at // DAY_S))
        self.reserved[ticket] = 0.0
        return ticket

    @rule(ticket=tickets, usd=USD | st.none())
    def reserve(self, ticket: Ticket | None, usd: float | None) -> None:
        if ticket not in self.owner:
            return
        budget = BUDGETS[self.owner[ticket][0]]
        fitted = fits(lambda: ticket.reserve(usd))
        if budget is None:
            assert fitted
        elif usd is None:
            assert not fitted
        else:
            left = budget - self.used(self.owner[ticket])
            assert fitted or usd > left - 1e-6
            assert not fitted or usd < left + 1e-6
        if fitted:
            self.reserved[ticket] += usd or 0.0

    @rule(ticket=tickets, share=st.floats(0, 1) | st.none())
    def settle(self, ticket: Ticket | None, share: float | None) -> None:
        if ticket in self.owner:
            usd = self.reserved[ticket] * (1 if share is None else share)
            ticket.settle(None if share is None else usd)
            self.book(ticket, usd)

    @rule(ticket=tickets)
    def escalate(self, ticket: Ticket | None) -> None:
        if ticket in self.owner:
            done = self.escalated.setdefault(self.owner[ticket], set())
            may = ticket in done or len(done) < 2
            assert ticket.may_escalate() == may
            assert fits(ticket.escalate) == may
            if may:
                done.add(ticket)

    @rule(ticket=consumes(tickets), again=st.booleans())
    def release(self, ticket: Ticket | None, again: bool) -> None:
        if ticket in self.owner:
            self.book(ticket, self.reserved[ticket])
            del self.owner[ticket], self.reserved[ticket]
            for _ in range(1 + again):
                ticket.release()

    @rule(seconds=st.sampled_from([0.5, 30, 100, DAY_S]))
    def wait(self, seconds: float) -> None:
        self.clock.at += seconds

    @invariant()
    def no_slot_is_lost_and_no_budget_overrun(self) -> None:
        if not hasattr(self, "admission"):
            return
        assert self.admission.in_flight == len(self.owner) <= self.most
        for (key, _), spent in self.spent.items():
            budget = BUDGETS[key]
            # Each booking is rounded up to a billionth of a USD.
            assert budget is None or spent <= budget + 1e-6

    def teardown(self) -> None:
        if not hasattr(self, "admission"):
            return
        for ticket in list(self.owner):
            ticket.release()
        assert self.admission.in_flight == 0
        for account in self.admission._accounts.values():
            assert (account.in_flight, account.day.reserved) == (0, 0)

    def used(self, owner: tuple[str, int]) -> float:
        aside = sum(usd for ticket, usd in self.reserved.items() if self.owner[ticket] == owner)
        return self.spent.get(owner, 0.0) + aside

    def book(self, ticket: Ticket, usd: float) -> None:
        owner = self.owner[ticket]
        self.spent[owner] = self.spent.get(owner, 0.0) + usd
        self.reserved[ticket] = 0.0


TestInterleaved = Interleaved.TestCase
TestInterleaved.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
