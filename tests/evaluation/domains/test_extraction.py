import re
from collections import Counter
from itertools import product

import pytest

from foretell.evaluation.domains import load_domain
from foretell.evaluation.domains._extraction import _EXAMPLES, load_source

SOURCE = load_source()
KINDS = {"plain", "indirect", "rivals", "corrected", "negated", "long_winded"}


@pytest.fixture(scope="module")
def extraction():
    return load_domain("extraction", train=1500, test=500)


def test_there_are_six_intents_of_forty_different_templates():
    assert set(Counter(template.intent for template in SOURCE.templates).values()) == {40}
    assert len({template.intent for template in SOURCE.templates}) == 6
    assert len({template.text for template in SOURCE.templates}) == 240


def test_every_intent_has_every_kind_of_difficulty():
    kinds = {t.group.rpartition("-")[0] for t in SOURCE.templates}
    assert kinds == {
        f"{intent}/{kind}" for intent, kind in product({t.intent for t in SOURCE.templates}, KINDS)
    }


@pytest.mark.parametrize("template", SOURCE.templates, ids=lambda template: template.group)
def test_a_template_has_slots_that_values_fit_and_a_sentence_around_them(template):
    assert template.slots
    assert len(set(template.slots)) == len(template.slots)
    for slot in template.slots:
        assert slot.removeprefix("other_") in SOURCE.values
    for field in template.fields:
        assert field in template.slots, "a distraction from something that is not there"
    assert template.text[-1] in ".?!"
    assert "  " not in template.text


def test_a_template_with_a_distraction_is_asked_only_for_what_it_distracts_from():
    kinds = {"rivals": True, "corrected": True, "plain": False, "indirect": False}
    for template in SOURCE.templates:
        kind = template.group.partition("/")[2].rpartition("-")[0]
        has_distraction = any(slot.startswith("other_") for slot in template.slots)
        assert has_distraction == kinds.get(kind, has_distraction), template.group
        if has_distraction:
            assert all(f"other_{field}" in template.slots for field in template.fields)


def test_a_query_says_its_value_once_and_leaves_no_slot_open(extraction):
    for query in extraction.queries:
        ((field, value),) = query.reference.items()
        said, _, question = query.text.rpartition("\n")
        request = said.removeprefix("Request: ")
        assert question == f"Which {field} does the request name?"
        assert len(re.findall(rf"(?i)(?<!\w){re.escape(value)}(?!\w)", request)) == 1, request
        assert "{" not in query.text
        assert request[0].isupper() or not request[0].isalpha()


def test_attributes_say_what_anyone_can_see(extraction):
    for query in extraction.queries:
        assert query.attributes == {
            "intent": query.group.partition("/")[0],
            "field": next(iter(query.reference)),
        }


def test_the_test_split_has_a_quarter_of_the_templates_of_every_intent(extraction):
    groups = {query.group for query in extraction.queries if query.split == "test"}
    assert set(Counter(group.partition("/")[0] for group in groups).values()) == {10}
    everywhere = {query.group for query in extraction.queries}
    assert everywhere == {template.group for template in SOURCE.templates}


def test_templates_are_used_about_equally_often(extraction):
    uses = Counter(query.group for query in extraction.queries)
    assert max(uses.values()) - min(uses.values()) <= 2


@pytest.mark.parametrize("name", SOURCE.values)
def test_no_value_is_part_of_another_of_its_name(name):
    folded = [re.sub(r"\W", "", value.casefold()) for value in SOURCE.values[name]]
    assert len(folded) >= 10
    assert [
        (a, b) for i, a in enumerate(folded) for j, b in enumerate(folded) if i != j and a in b
    ] == []


def test_every_value_is_reached(extraction):
    reached = {(field, value) for q in extraction.queries for field, value in q.reference.items()}
    assert reached == {(name, value) for name, values in SOURCE.values.items() for value in values}


def test_other_spellings_are_of_values_that_exist():
    values = {value for values in SOURCE.values.values() for value in values}
    assert SOURCE.also_written.keys() <= values


def test_the_worked_examples_are_of_no_intent_and_no_field_of_the_data():
    texts = {template.text for template in SOURCE.templates}
    for request, field, value in _EXAMPLES:
        assert request not in texts
        assert field not in SOURCE.values
        assert value.casefold() in request.casefold()
