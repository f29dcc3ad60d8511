from __future__ import annotations

import json
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from foretell.errors import InputError
from foretell.flywheel import (
    Contains,
    Exact,
    JsonField,
    JsonFields,
    JsonValid,
    Label,
    Labeller,
    Numeric,
    Regex,
    labeller_names,
    make_labeller,
)
from foretell.records import Query

GEO = {"country": "Germany"}
ALIASES = {"Germany": ["Deutschland"], "DR Congo": ["Congo"], "Republic of the Congo": ["Congo"]}


def queries(*references):
    return [
        Query(id=str(i), messages=({"role": "user", "content": "?"},), reference=reference)
        for i, reference in enumerate(references)
    ]


EVERY_LABELLER = [
    Contains(),
    Exact(),
    JsonField("country"),
    JsonFields(),
    JsonValid(),
    Numeric(),
    Regex("a"),
]


@pytest.mark.parametrize("labeller", EVERY_LABELLER, ids=lambda one: one.metric)
@pytest.mark.parametrize("reference", [None, "a", 3, True, ["a"], GEO], ids=repr)
@pytest.mark.parametrize(
    "text", ["", "{", "[" * 50_000, '{"a":' * 2000, "12", "¿qué? 你好 🙂", "\ud800"]
)
@pytest.mark.parametrize("cut", [False, True])
def test_a_labeller_judges_any_text_the_same_way_twice(judge, labeller, reference, text, cut):
    assert isinstance(labeller, Labeller)
    label = judge(labeller, text, reference, cut=cut)
    assert label == judge(labeller, text, reference, cut=cut)
    assert label.value is not None or label.reason
    if labeller.metric not in ("json_valid", "regex") and reference is None:
        assert label == Label(None, "no reference")


@pytest.mark.parametrize(
    ("text", "cut", "value", "reason"),
    [
        ('{"a": 1}', False, 1, ""),
        (' \n[1, "b", null]\n', False, 1, ""),
        ("12", False, 1, ""),
        ('{"a": 1,}', False, 0, "no valid JSON"),
        ("{'a': 1}", False, 0, "no valid JSON"),
        ('{"a": NaN}', False, 0, "no valid JSON"),
        ('```json\n{"a": 1}\n```', False, 0, "no valid JSON"),
        ('{"a": 1} Done.', False, 0, "text after the JSON"),
        ("", False, 0, "no valid JSON"),
        ('{"a": 1}', True, 1, ""),
        ('{"a": 1}\n\nIn which', True, 0, "text after the JSON"),
        ('{"a": "Fr', True, None, "truncated"),
        ("12", True, None, "truncated"),
    ],
)
def test_json_is_valid_when_the_whole_answer_is(judge, text, cut, value, reason):
    assert judge(JsonValid(), text, cut=cut) == Label(value, reason)


@pytest.mark.parametrize(
    ("text", "cut", "value", "reason"),
    [
        ('{"country": "Germany"}', False, 1, ""),
        ('Sure {really}: {"country": " germany."} Done.', False, 1, ""),
        ('first {"country": "x"}\n```json\n{"country": "Germany"}\n```', False, 1, ""),
        ('```\nno\n``` {"country": "Germany"}', False, 1, ""),
        ('{"country": "Deutschland", "more": []}', False, 1, ""),
        ('{"country": "France"} {"country": "Germany"}', False, 0, "wrong country"),
        ('{"country": ["Germany"]}', False, 0, "wrong country"),
        ('{"Country": "Germany"}', False, 0, "no field country"),
        ('["Germany"]', False, 0, "no JSON object"),
        ("Germany", False, 0, "no JSON object"),
        ('{"country": "Germany"}\n\nIn which {', True, 1, ""),
        ('{"country": "Fr', True, None, "truncated"),
        ('{"why": {"a": 1}, "country": "Ger', True, None, "truncated"),
    ],
)
def test_a_json_field_is_that_of_the_first_object(judge, text, cut, value, reason):
    labeller = JsonField("country", ALIASES)
    assert judge(labeller, text, GEO, cut=cut) == Label(value, reason)
    assert judge(labeller, text, "Germany", cut=cut) == Label(value, reason)


def test_an_alias_of_several_names_is_as_good_as_each(judge):
    labeller = JsonField("country", ALIASES)
    for reference in ("DR Congo", "Republic of the Congo", ["Gabon", "DR Congo"]):
        assert judge(labeller, '{"country": "Congo"}', reference).value == 1
    assert judge(labeller, '{"country": "DR Congo"}', "Republic of the Congo").value == 0


def test_a_query_whose_reference_lacks_the_field_is_left_unlabelled(judge):
    label = judge(JsonField("capital"), '{"capital": "Berlin"}', GEO)
    assert label == Label(None, "no reference")


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ('{"country": "Deutschland", "rank": "1", "x": 0}', 1, ""),
        ('{"country": "Germany", "rank": 2}', 0, "wrong rank"),
        ('{"country": "Germany"}', 0, "no field rank"),
        ("none", 0, "no JSON object"),
    ],
)
def test_json_fields_must_all_be_right(judge, text, value, reason):
    reference = {"country": "Germany", "rank": 1}
    assert judge(JsonFields(ALIASES), text, reference) == Label(value, reason)
    assert judge(JsonFields(), text, "Germany") == Label(None, "no reference")


@pytest.mark.parametrize(
    ("text", "folded", "cut", "value"),
    [
        (" yes\n", False, False, 1),
        ("Yes.", False, False, 0),
        ("Yes.", True, False, 1),
        ("maybe", False, False, 1),
        ("yes", False, True, 1),
        ("ye", False, True, None),
        ("yeah", False, True, 0),
    ],
)
def test_an_exact_answer_is_one_of_the_references(judge, text, folded, cut, value):
    assert judge(Exact(folded=folded), text, ["yes", "maybe"], cut=cut).value == value


def test_scalar_references_are_compared_as_json_writes_them(judge):
    assert judge(Exact(), "true", True).value == 1
    assert judge(Exact(), "3", 3).value == 1


@pytest.mark.parametrize(
    ("text", "whole_words", "cut", "value"),
    [
        ("It is NIGER, I think", True, False, 1),
        ("Nigeria", True, False, 0),
        ("Nigeria", False, False, 1),
        ("Niger and then", True, True, 1),
        ("It is", True, True, None),
    ],
)
def test_an_answer_contains_its_reference(judge, text, whole_words, cut, value):
    assert judge(Contains(whole_words=whole_words), text, "Niger", cut=cut).value == value


@pytest.mark.parametrize(
    ("text", "cut", "value"),
    [("a7", False, 1), ("a", False, 0), ("a", True, None), ("a7", True, 1)],
)
def test_a_pattern_is_found_anywhere(judge, text, cut, value):
    assert judge(Regex(r"\d"), text, cut=cut).value == value


@pytest.mark.parametrize(
    ("text", "reference", "tolerance", "value"),
    [
        ("3 + 4 = 7", 7, 0, 1),
        ("about 7.004", 7, 0.005, 1),
        ("about 7.006", 7, 0.005, 0),
        ("about 7.004", 7, 0, 0),
        ("0.1", 0.1, 0, 1),
        ("1,000", "so #### 1000", 0, 1),
        ("9" * 40, int("9" * 40), 0, 1),
        ("9" * 40, int("9" * 39 + "8"), 0, 0),
        ("1e999", 1, 0.5, 0),
        ("seven", 7, 0, 0),
        ("7", True, 0, None),
        ("7", "seven", 0, None),
    ],
)
def test_the_last_number_counts(judge, text, reference, tolerance, value):
    assert judge(Numeric(tolerance=tolerance), text, reference).value == value


def test_the_last_number_of_a_truncated_answer_may_be_yet_to_come(judge):
    assert judge(Numeric(), "3 + 4", 7, cut=True) == Label(None, "truncated")


@pytest.mark.parametrize(
    "labeller", [Contains(), Exact(), JsonField("country"), JsonFields(), Numeric()]
)
def test_queries_without_any_reference_are_refused(labeller):
    with pytest.raises(InputError, match="compares answers with references, but no query has one"):
        labeller.check(queries(None, None))


def test_some_queries_without_a_reference_are_no_reason_to_refuse():
    for labeller in (*EVERY_LABELLER, JsonField("country")):
        labeller.check(queries(None, {"country": "3"}, 3))


def test_a_field_that_no_example_has_is_refused_with_the_fields_that_there_are():
    with pytest.raises(InputError, match="has the field 'county'; the fields are capital, country"):
        JsonField("county").check(queries(GEO, {"capital": "Berlin"}, None))


def test_references_of_another_kind_are_refused():
    with pytest.raises(InputError, match="wants references that are objects"):
        JsonFields().check(queries("a", None))
    with pytest.raises(InputError, match="found no number in any reference"):
        Numeric().check(queries("seven", True))


def test_labellers_are_made_by_name(tmp_path, judge):
    aliases = tmp_path / "aliases.json"
    aliases.write_text(json.dumps(ALIASES), encoding="utf-8")
    made = {
        "contains": make_labeller("contains", {"whole_words": "no"}),
        "exact": make_labeller("exact", {"folded": "yes"}),
        "json_field": make_labeller("json_field", {"field": "country", "aliases": str(aliases)}),
        "json_fields": make_labeller("json_fields", {"aliases": str(aliases)}),
        "json_valid": make_labeller("json_valid"),
        "numeric": make_labeller("numeric", {"tolerance": "0.5"}),
        "regex": make_labeller("regex", {"pattern": "^a"}),
    }
    assert {*made} < {*labeller_names()}
    assert labeller_names() == sorted({*made, "code", "ensemble", "json_schema", "judge", "sql"})
    assert [one.metric for one in made.values()] == [
        "contains",
        "exact",
        "json_field:country",
        "json_fields",
        "json_valid",
        "numeric",
        "regex",
    ]
    assert judge(made["contains"], "Nigeria", "Niger").value == 1
    assert judge(made["exact"], "Yes.", "yes").value == 1
    assert judge(made["json_field"], '{"country": "Deutschland"}', GEO).value == 1
    assert judge(made["json_fields"], '{"country": "Deutschland"}', GEO).value == 1
    assert judge(made["numeric"], "7.5", 7).value == 1
    assert judge(made["regex"], "ba").value == 0


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        (
            "exactly",
            {},
            "no labeller is called 'exactly'; there are code, contains, ensemble, exact",
        ),
        ("exact", {"case": "no"}, "'exact' has no option 'case'; it has folded"),
        ("json_valid", {"case": "no"}, "'json_valid' has no option 'case'; it has none"),
        ("exact", {"folded": "1"}, "option folded is '1'; wanted yes or no"),
        ("json_field", {}, "'json_field' needs the option 'field'"),
        ("regex", {"pattern": ""}, "'regex' needs the option 'pattern'"),
        ("regex", {"pattern": "("}, r"the pattern '\(' cannot be used: missing \)"),
        ("numeric", {"tolerance": "1%"}, "tolerance is '1%'; wanted a number"),
        ("numeric", {"tolerance": "-1"}, "tolerance is -1.0; wanted a number of at least 0"),
        ("numeric", {"tolerance": "nan"}, "tolerance is nan; wanted"),
        ("json_fields", {"aliases": "/no/such"}, "cannot read the aliases /no/such: No such file"),
    ],
)
def test_a_labeller_that_cannot_be_made_says_why(name, options, problem):
    with pytest.raises(InputError, match=problem):
        make_labeller(name, options)


@pytest.mark.parametrize("content", ["[]", '{"a": "b"}', '{"a": [1]}', "{", "\xff"])
def test_aliases_of_another_shape_are_refused(tmp_path, content):
    (tmp_path / "aliases.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"the aliases .*aliases\.json (must be|are not)"):
        make_labeller("json_fields", {"aliases": str(tmp_path / "aliases.json")})


def test_a_package_adds_a_labeller_but_cannot_replace_ours(monkeypatch):
    here = EntryPoint("always", f"{__name__}:Always", "foretell.labellers")
    ours = EntryPoint("exact", f"{__name__}:Always", "foretell.labellers")

    def installed(**wanted):
        return EntryPoints([here, ours]).select(**wanted)

    monkeypatch.setattr("foretell.flywheel._registry.entry_points", installed)
    assert make_labeller("always", {"value": "1"}).metric == "always"
    assert isinstance(make_labeller("exact"), Exact)
    assert "always" in labeller_names()


class Always:
    metric = "always"

    def __init__(self, options):
        self.value = float(options["value"])
