"""What a gateway served: kept, found, summed and erased."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretell.errors import InputError, StoreError
from foretell.records import Feedback, LedgerLine, MeteredUsage, RequestRecord
from foretell.store import Store

NEW_YEAR = 1_767_225_600.0  # 2026-01-01 00:00 UTC
DAY = 86_400.0

# What every database takes: no half surrogates, no NUL.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
chances = st.none() | st.floats(0, 1)
dollars = st.none() | st.floats(0, 1e3)
seconds = st.floats(0, 1e4)
usages = st.builds(MeteredUsage, **dict.fromkeys(MeteredUsage.__slots__, st.integers(0, 2**40)))
records = st.builds(
    RequestRecord,
    id=st.uuids().map(str),
    at=st.floats(NEW_YEAR - DAY, NEW_YEAR + DAY),
    key_id=st.sampled_from(["", "key-1", "key-2"]),
    route=st.sampled_from([None, "auto", "other"]),
    domain=st.none() | texts,
    model=texts,
    serve=st.sampled_from([None, "weak", "strong"]),
    action=st.sampled_from(
        ["keep", "escalate", "fallback", "pinned", "declined", "bypass", "explore"]
    ),
    cause=st.none() | texts,
    status=st.integers(100, 599),
    streamed=st.booleans(),
    p_success=chances,
    p_strong=chances,
    keep_at=chances,
    propensity=chances,
    explored=st.booleans(),
    probe=st.none() | texts,
    session=st.none() | texts,
    usage=st.none() | usages,
    weak_usd=dollars,
    strong_usd=dollars,
    cost_usd=dollars,
    always_strong_usd=dollars,
    seconds=seconds,
    first_byte_s=st.none() | seconds,
    prefill_s=st.none() | seconds,
    overhead_s=st.none() | seconds,
    finish_reason=st.none() | texts,
)
# `any_store` is emptied by hand for each example.
example_by_example = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_these_tests_run_on_postgresql_too(request):
    if not request.getfixturevalue("postgresql_url"):
        pytest.skip("no PostgreSQL here; 'make test-postgresql' brings one")


@example_by_example
@given(st.lists(records, max_size=5))
def test_records_come_back_as_they_were(any_store, given_records):
    any_store.delete_requests(before=math.inf)
    any_store.append_requests(given_records)
    for record in given_records:
        assert any_store.request(record.id) == record
    newest_first = sorted(given_records, key=lambda record: record.at, reverse=True)
    found = any_store.requests(since=None)
    assert [record.at for record in found] == [record.at for record in newest_first]
    assert {record.id for record in found} == {record.id for record in given_records}


def test_a_record_that_is_stored_stays_as_it_was(any_store, served):
    any_store.append_requests([served("a"), served("a", model="large")])
    any_store.append_requests([served("a", model="large"), served("b")])
    any_store.append_requests([])
    assert [any_store.request(name).model for name in "ab"] == ["small", "small"]
    assert any_store.request("c") is None


def test_one_record_that_cannot_be_stored_keeps_all_of_them_out(any_store, served):
    with pytest.raises(StoreError, match="failed") as raised:
        any_store.append_requests([served("a"), served("b", session="\ud800 secret")])
    assert "secret" not in str(raised.value)
    assert any_store.requests() == []


def test_requests_are_found_by_time_key_and_route(any_store, served):
    any_store.append_requests(
        [
            served("old", at=NEW_YEAR - 1),
            served("theirs", at=NEW_YEAR, key_id="key-2"),
            served("by name", at=NEW_YEAR + 1, route=None),
            served("new", at=NEW_YEAR + 2),
        ]
    )

    def ids(**wanted):
        return [record.id for record in any_store.requests(**wanted)]

    assert ids() == ["new", "by name", "theirs", "old"]
    assert ids(since=NEW_YEAR) == ["new", "by name", "theirs"]
    assert ids(since=NEW_YEAR, key_id="key-1") == ["new", "by name"]
    assert ids(route="auto") == ["new", "theirs", "old"]
    assert ids(limit=2) == ["new", "by name"]
    assert ids(key_id="") == []


def day_of(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%d")


def naive_lines(given_records: list[RequestRecord]) -> Iterator[LedgerLine]:
    groups: defaultdict[tuple[str, str, str], list[RequestRecord]] = defaultdict(list)
    for record in given_records:
        day = day_of(record.at)
        groups[day, record.key_id, record.route or ""].append(record)
    for (day, key_id, route), rows in sorted(groups.items()):
        priced = [row for row in rows if row.cost_usd is not None]
        comparable = [row for row in priced if row.always_strong_usd is not None]
        saving = math.fsum(row.always_strong_usd - row.cost_usd for row in comparable)
        cost = math.fsum(row.cost_usd for row in priced)
        yield LedgerLine(
            day=day,
            key_id=key_id,
            route=route or None,
            requests=len(rows),
            kept=sum(taken(row) == "keep" for row in rows),
            escalated=sum(taken(row) == "escalate" for row in rows),
            declined=sum(row.action == "declined" for row in rows),
            unpriced=len(rows) - len(priced),
            prompt_tokens=sum(row.usage.prompt_tokens for row in rows if row.usage),
            completion_tokens=sum(row.usage.completion_tokens for row in rows if row.usage),
            cost_usd=cost,
            weak_usd=math.fsum(row.weak_usd for row in rows if row.weak_usd is not None),
            always_strong_usd=cost + saving,
        )


def taken(record: RequestRecord) -> str:
    explored = {"weak": "keep", "strong": "escalate", None: "explore"}[record.serve]
    return explored if record.action == "explore" else record.action


def rounded(line: LedgerLine) -> LedgerLine:
    """Sums in another order differ in their last places."""
    names = ("cost_usd", "weak_usd", "always_strong_usd")
    return replace(line, **{name: round(getattr(line, name), 6) + 0.0 for name in names})


@example_by_example
@given(st.lists(records, max_size=12))
def test_the_ledger_is_what_a_loop_over_all_records_adds_up_to(any_store, given_records):
    any_store.delete_requests(before=math.inf)
    any_store.append_requests(given_records)
    found, expected = any_store.ledger(), list(naive_lines(given_records))
    assert list(map(rounded, found)) == list(map(rounded, expected))
    assert any_store.ledger(since_day="2026-01-01") == [
        line for line in found if line.day >= "2026-01-01"
    ]


@example_by_example
@given(
    st.lists(records, max_size=12),
    st.floats(NEW_YEAR - DAY, NEW_YEAR + DAY),
    st.sampled_from([None, "", "key-1"]),
    st.sampled_from([None, "auto"]),
)
def test_what_was_spent_today_agrees_with_the_ledger(any_store, given_records, now, key_id, route):
    any_store.delete_requests(before=math.inf)
    any_store.append_requests(given_records)
    today = day_of(now)
    lines = [
        line
        for line in any_store.ledger()
        if line.day == today and key_id in (None, line.key_id) and route in (None, line.route)
    ]
    usd, escalations = any_store.spent_today(key_id, now, route=route)
    assert usd == pytest.approx(sum(line.cost_usd for line in lines))
    assert escalations == sum(line.escalated for line in lines)


def test_a_day_ends_at_midnight_utc(any_store, served):
    any_store.append_requests(
        [
            served("last", at=math.nextafter(NEW_YEAR, 0), cost_usd=1.0, action="escalate"),
            served("first", at=NEW_YEAR, cost_usd=2.0),
        ]
    )
    assert [line.day for line in any_store.ledger()] == ["2025-12-31", "2026-01-01"]
    assert any_store.spent_today(None, NEW_YEAR - 1) == (1.0, 1)
    assert any_store.spent_today("key-1", NEW_YEAR) == (2.0, 0)
    assert any_store.spent_today().usd == 2.0  # the store's clock says 1 January
    assert any_store.spent_today("nobody").usd == 0.0


def test_an_unknown_cost_is_counted_and_neither_saves_nor_loses(any_store, served):
    any_store.append_requests(
        [
            served("both", cost_usd=1.0, always_strong_usd=4.0),
            served("no counterfactual", cost_usd=10.0),
            served("no cost", always_strong_usd=100.0),
            served("dearer", cost_usd=3.0, always_strong_usd=2.0),
        ]
    )
    (line,) = any_store.ledger()
    assert (line.requests, line.unpriced) == (4, 1)
    assert line.cost_usd == 14.0
    assert line.net_saving_usd == (4.0 - 1.0) + (2.0 - 3.0)


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", ""])
def test_a_ledger_since_what_is_no_day_is_refused(any_store, day):
    with pytest.raises(InputError, match="is not a day; wanted one such as '2026-03-01'"):
        any_store.ledger(since_day=day)


def test_erasure_takes_the_feedback_along(any_store, served):
    any_store.append_requests(
        [
            served("old", at=1.0),
            served("theirs", at=1.0, key_id="key-2"),
            served("new", at=2.0),
        ]
    )
    for name in ("old", "theirs", "new"):
        any_store.put_feedback(
            Feedback(request_id=name, metric="good", value=1, source="human"), key_id=""
        )
    assert any_store.delete_requests(before=2.0, key_id="key-1") == 1
    assert [any_store.feedback(name) != [] for name in ("old", "theirs", "new")] == [
        False,
        True,
        True,
    ]
    assert any_store.delete_requests(before=2.0) == 1
    assert any_store.delete_requests(key_id="key-1") == 1
    assert any_store.requests() == []
    with pytest.raises(InputError, match="say which requests to erase"):
        any_store.delete_requests()


def test_days_keys_and_times_are_looked_up_by_an_index(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path):
        pass
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db")
    plan = "EXPLAIN QUERY PLAN SELECT * FROM requests WHERE "
    with engine.connect() as connection:
        by_time = connection.exec_driver_sql(plan + "at >= 1").first()[-1]
        by_key = connection.exec_driver_sql(plan + "key_id = 'a' AND at >= 1").first()[-1]
    engine.dispose()
    assert "requests_at" in by_time
    assert "requests_key_id_at" in by_key
