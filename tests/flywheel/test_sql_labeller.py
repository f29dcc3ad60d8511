from __future__ import annotations

import time

import pytest

from foretell.errors import EngineUnavailableError, InputError
from foretell.flywheel import Label, SandboxLimits, Sql, make_labeller
from foretell.records import Query

SETUP = (
    "CREATE TABLE town(name TEXT, country TEXT, people DOUBLE);"
    "INSERT INTO town VALUES ('Lyon', 'FR', 0.52), ('Bonn', 'DE', 0.33), ('Nice', 'FR', 0.34)"
)
REFERENCE = {
    "sql": "SELECT country, sum(people) AS people FROM town GROUP BY country ORDER BY country",
    "setup": SETUP,
}
QUICK = Sql(limits=SandboxLimits(seconds=3, memory_mb=128))
IMPATIENT = Sql(limits=SandboxLimits(seconds=1, memory_mb=128))


def test_another_way_to_the_same_result_is_right(judge):
    for sql in (
        "SELECT country, sum(people) FROM town GROUP BY ALL",
        "Sure:\n```sql\nSELECT 'FR' AS x, 0.86 UNION ALL SELECT 'DE', 0.33;\n```\nThat is it.",
        "CREATE TEMP TABLE a AS FROM town; SELECT country, 1 + sum(people) - 1 FROM a GROUP BY 1",
    ):
        assert judge(QUICK, sql, REFERENCE) == Label(1.0, "")


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT country, sum(people) FROM town WHERE people < 0.5 GROUP BY 1", "other rows"),
        ("SELECT country, max(people) FROM town GROUP BY 1", "other rows"),
        ("SELECT country, people FROM town", "other rows"),
        ("SELECT country, sum(people), 1 FROM town GROUP BY 1", "other columns"),
        ("SELECT name FROM people", "SQL: CatalogException"),
        ("SELECT population FROM town", "SQL: BinderException"),
        ("SELEKT 1", "SQL: ParserException"),
        ("DROP TABLE town", "other columns"),
        ("-- nothing", "SQL: "),
        (" ", "no SQL"),
    ],
)
def test_the_reason_is_what_differs_or_how_it_failed(judge, sql, reason):
    label = judge(QUICK, sql, REFERENCE)
    assert label.value == 0
    assert label.reason.startswith(reason)


def test_order_matters_when_asked(judge):
    turned = "SELECT country, sum(people) FROM town GROUP BY 1 ORDER BY 1 DESC"
    assert judge(make_labeller("sql", {"order": "no"}), turned, REFERENCE).value == 1
    ordered = make_labeller("sql", {"order": "yes", "seconds": "5"})
    assert judge(ordered, turned, REFERENCE) == Label(0.0, "other rows")
    assert judge(ordered, REFERENCE["sql"], REFERENCE).value == 1


def test_floats_are_compared_to_the_tolerance(judge):
    near = "SELECT country, sum(people) + 0.001 FROM town GROUP BY 1"
    assert judge(QUICK, near, REFERENCE).value == 0
    loose = make_labeller("sql", {"tolerance": "0.01", "memory_mb": "128"})
    assert judge(loose, near, REFERENCE).value == 1


def test_values_of_every_type_come_through(judge):
    every = (
        "SELECT NULL, TRUE, 170141183460469231731687303715884105727::HUGEINT, 1.50::DECIMAL(5, 2), "
        "'nan'::DOUBLE, 'ä', 'b'::BLOB, DATE '2020-01-01', TIMESTAMP '2020-01-01 10:00:00', "
        "TIMESTAMPTZ '2020-01-01 10:00:00+00', TIME '10:00', INTERVAL 3 DAY, "
        "uuid '00000000-0000-0000-0000-000000000001', [1, 2], {'a': [1.5]}, "
        "MAP {'k': 2}, 'inf'::FLOAT"
    )
    assert judge(QUICK, every, every) == Label(1.0, "")
    assert judge(QUICK, "SELECT 1.5::DOUBLE, '2020-01-01'", "SELECT 1.5, DATE '2020-01-01'").value


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/foretell-test.csv'",
        "ATTACH '/tmp/foretell-test.db'",
        "INSTALL httpfs",
        "SELECT * FROM 'http://127.0.0.1/a.parquet'",
        "SET enable_external_access = true",
        "SELECT * FROM sys",
    ],
)
def test_files_network_settings_and_our_own_variables_are_out_of_reach(judge, sql):
    label = judge(QUICK, sql, "SELECT 1")
    assert label.value == 0
    assert label.reason.startswith("SQL: ")
    assert "time limit" not in label.reason


def test_a_query_without_an_end_is_ended(judge):
    sql = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"
    started = time.monotonic()
    assert judge(IMPATIENT, sql, "SELECT 1") == Label(0.0, "SQL: time limit")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT list(range) FROM range(1000000000)",
        "SELECT range, random() FROM range(100000000) ORDER BY 2",
    ],
)
def test_a_query_that_wants_all_memory_fails(judge, sql):
    assert judge(QUICK, sql, "SELECT 1").value == 0


def test_a_result_that_goes_on_and_on_is_no_match(judge):
    assert judge(QUICK, "SELECT * FROM range(100000000)", "SELECT * FROM range(3)").value == 0
    many = "SELECT * FROM range(20000)"
    assert judge(QUICK, many, many) == Label(None, "too many rows")


def test_a_truncated_answer_is_a_success_or_untold(judge):
    block = "```sql\nSELECT country, sum(people) FROM town GROUP BY 1\n```\nThis"
    assert judge(QUICK, block, REFERENCE, cut=True) == Label(1.0, "")
    for text in ("SELECT country", "```sql\nSELECT 1", "```sql\nSELECT 1\n```\nNo", ""):
        assert judge(QUICK, text, REFERENCE, cut=True) == Label(None, "truncated")


@pytest.mark.parametrize(
    "reference",
    [{"sql": ""}, {"query": "SELECT 1"}, 3, {"sql": "SELECT 1", "setup": 3}],
)
def test_a_reference_without_sql_leaves_the_answer_unlabelled(judge, reference):
    assert judge(QUICK, "SELECT 1", reference) == Label(None, "unusable reference")
    query = Query(id="1", messages=({"role": "user", "content": "?"},), reference=reference)
    with pytest.raises(InputError, match="found no SQL in any reference"):
        QUICK.check([query])


@pytest.mark.parametrize(
    "reference", [{"sql": "SELEKT 1"}, {"sql": "SELECT 1", "setup": "CREATE TABEL a"}]
)
def test_a_reference_that_fails_itself_is_not_the_answers_fault(judge, reference):
    assert judge(QUICK, "SELECT 1", reference) == Label(None, "unusable reference")


def test_usable_queries_are_not_refused():
    query = Query(id="1", messages=({"role": "user", "content": "?"},), reference=REFERENCE)
    QUICK.check([query])


def test_a_missing_database_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr("foretell.flywheel._sql_labeller.find_spec", lambda _: None)
    query = Query(id="1", messages=({"role": "user", "content": "?"},), reference="SELECT 1")
    with pytest.raises(EngineUnavailableError, match=r"pip install 'foretell\[label\]'"):
        QUICK.check([query])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tolerance": "1"}, "tolerance is 1.0; wanted 0 or more, and below 1"),
        ({"tolerance": "a"}, "tolerance is 'a'; wanted a number"),
        ({"order": "asc"}, "option order is 'asc'; wanted yes or no"),
        ({"dialect": "x"}, "'sql' has no option 'dialect'"),
    ],
)
def test_options_that_cannot_be_used_say_why(options, problem):
    with pytest.raises(InputError, match=problem):
        make_labeller("sql", options)
