"""What holds for every domain that comes with foretell."""

from collections import Counter

import pytest

import foretell.evaluation.domains
from foretell.errors import InputError
from foretell.evaluation.domains import DOMAIN_NAMES, Domain, load_domain
from foretell.records import Query

every_domain = pytest.mark.parametrize("name", DOMAIN_NAMES)


@pytest.fixture(scope="module")
def domains() -> dict[str, Domain]:
    return {name: load_domain(name, train=1500, test=500) for name in DOMAIN_NAMES}


def groups(queries: tuple[Query, ...], split: str) -> set[str]:
    return {query.group or query.id for query in queries if query.split == split}


@every_domain
def test_a_domain_has_as_many_queries_as_asked_training_first(domains, name):
    splits = [query.split for query in domains[name].queries]
    assert splits == ["train"] * 1500 + ["test"] * 500


@every_domain
def test_no_query_comes_twice(domains, name):
    queries = domains[name].queries
    assert len({query.id for query in queries}) == len(queries)
    assert len({query.text for query in queries}) == len(queries)


@every_domain
def test_no_group_straddles_training_and_test(domains, name):
    queries = domains[name].queries
    assert not groups(queries, "train") & groups(queries, "test")


@every_domain
def test_the_same_seed_gives_the_same_domain_and_another_seed_another(name):
    first = load_domain(name, train=30, test=10, seed=7)
    assert load_domain(name, train=30, test=10, seed=7) == first
    assert load_domain(name, train=30, test=10, seed=8).queries != first.queries


@every_domain
def test_an_id_means_the_same_question_whatever_the_seed_and_size(domains, name):
    large = {query.id: query for query in domains[name].queries}
    small = load_domain(name, train=300, test=100, seed=5).queries
    shared = [query for query in small if query.id in large]
    assert shared
    assert all(
        (query.messages, query.reference) == (large[query.id].messages, large[query.id].reference)
        for query in shared
    )


@every_domain
def test_all_queries_share_their_worked_examples_and_differ_in_the_last_question(domains, name):
    queries = domains[name].queries
    assert len({str(query.messages[:-2]) for query in queries}) == 1
    for query in queries:
        roles = [message["role"] for message in query.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert query.text == query.messages[-2]["content"]


@every_domain
def test_the_reference_finishes_the_answer_that_the_prompt_begins(domains, name):
    """As an earlier turn shows it: the beginning, the value, and the end of the JSON."""
    for query in domains[name].queries:
        ((field, value),) = query.reference.items()
        assert query.messages[-1]["content"] == f'{{"{field}": "'
        assert '"' not in value
        assert "\\" not in value


@every_domain
def test_a_right_answer_is_not_cut_short(domains, name):
    sampling = domains[name].sampling
    assert sampling.temperature == 0
    for query in domains[name].queries:
        (value,) = query.reference.values()
        # Words of English take at most a token for 2.5 letters; two tokens close the JSON.
        assert len(value) / 2.5 + 2 <= sampling.max_tokens
        assert not any(stop in f'{value}"}}' for stop in sampling.stop)


@every_domain
def test_no_alias_belongs_to_two_values(domains, name):
    aliases = domains[name].labeller_options["aliases"]
    owners = Counter(
        spelling.casefold()
        for value, others in aliases.items()
        for spelling in {value.casefold(), *(other.casefold() for other in others)}
    )
    assert [spelling for spelling, count in owners.items() if count > 1] == []


@every_domain
def test_either_split_may_be_left_out(name):
    assert {query.split for query in load_domain(name, train=20, test=0).queries} == {"train"}
    assert {query.split for query in load_domain(name, train=0, test=20).queries} == {"test"}


@every_domain
@pytest.mark.parametrize(("train", "test"), [(0, 0), (-1, 5), (5, -1)])
def test_sizes_that_make_no_domain_are_refused(name, train, test):
    with pytest.raises(InputError, match="wanted no negative number and at least one query"):
        load_domain(name, train=train, test=test)


@every_domain
def test_more_queries_than_there_are_is_refused_with_how_many_there_are(name):
    with pytest.raises(InputError, match=rf"{name} has .*ask for fewer"):
        load_domain(name, train=1_000_000, test=10)


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(InputError, match="unknown domain 'sports'; use one of: extraction, geo"):
        load_domain("sports", train=1, test=1)


def test_the_room_offers_what_it_lists():
    listed = foretell.evaluation.domains.__all__
    assert list(listed) == sorted(listed)
    assert all(hasattr(foretell.evaluation.domains, name) for name in listed)
