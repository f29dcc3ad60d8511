from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from foretell.errors import (
    InputError,
    StoreError,
    TrainingDataError,
    UnknownReadPointError,
)
from foretell.records import Outcome, ReadPoint
from foretell.store import DomainCounts, Store, model_key, split_of


def outcome(query_id, value, *, role="weak", metric="right", source="code", **others):
    return Outcome(
        domain="geo",
        query_id=query_id,
        role=role,
        metric=metric,
        value=value,
        source=source,
        **others,
    )


def test_an_observation_comes_back_as_it_was_but_for_its_vectors(store, observe, first_token):
    query = {
        "reference": {"country": "Côte d'Ivoire", "rank": [1, 2.5, None]},
        "group": "africa",
        "split": "test",
        "attributes": {"size": "small"},
    }
    given = observe(
        "1", query=query, first_token=first_token, own_tokens=7, seconds=0.25, rollout=2
    )
    store.append([given])
    (found,) = store.observations("geo")
    assert found.activations == {}
    for name in ("domain", "query", "role", "answer", "model", "rollout", "first_token"):
        assert getattr(found, name) == getattr(given, name)
    assert (found.own_tokens, found.seconds) == (7, 0.25)


def test_a_second_run_learns_what_it_may_skip(store, observe, identity):
    store.append([observe("1"), observe("2"), observe("2", rollout=1), observe("3", "strong")])
    assert store.observed("geo", "weak", model_key(identity)) == {"1", "2"}
    assert store.observed("geo", "weak", model_key(identity), rollout=1) == {"2"}
    assert store.observed("geo", "strong", "big-1") == {"3"}
    other_weights = replace(identity, weights_sha256="c" * 64)
    assert store.observed("geo", "weak", model_key(other_weights)) == set()
    assert store.observed("maths", "weak", model_key(identity)) == set()


def test_appending_again_changes_nothing_and_says_so(store, observe):
    assert store.append([observe("1"), observe("1", text="Rome")]) == 1
    assert store.append([observe("1", text="Rome"), observe("2")]) == 1
    assert [found.answer.text for found in store.observations("geo")] == ["Paris", "Paris"]
    assert store.append([]) == 0


def test_other_weights_make_another_observation_and_the_engine_does_not(store, observe, identity):
    store.append([observe("1")])
    assert store.append([observe("1", model=replace(identity, engine="vllm"))]) == 0
    assert store.append([observe("1", model=replace(identity, weights_sha256="c" * 64))]) == 1
    assert store.append([observe("1", model=replace(identity, chat_template_sha256="d"))]) == 1


def test_the_same_id_with_other_messages_is_refused_and_nothing_is_stored(store, observe):
    store.append([observe("1")])
    with pytest.raises(InputError, match=r"'1' of domain 'geo' was stored with other messages"):
        store.append([observe("2"), observe("1", prompt="another question", rollout=1)])
    with pytest.raises(InputError, match="other messages"):
        store.append([observe("3"), observe("3", "strong", prompt="another question")])
    assert [counts.queries for counts in store.domains()] == [1]


def test_a_corrected_reference_replaces_the_stored_one(store, observe):
    store.append([observe("1", query={"reference": "Pari"})])
    store.append([observe("1", "strong", query={"reference": "Paris", "group": "fr"})])
    (query,) = store.queries("geo")
    assert (query.reference, query.group) == ("Paris", "fr")


def test_routing_data_has_a_row_for_each_weakly_answered_query(store, observe, first_token):
    store.append(
        [
            observe("2", own_tokens=9, first_token=first_token),
            observe("3", "strong"),
            observe("1", "strong"),
            observe("1", query={"group": "g", "attributes": {"size": "small"}}),
        ]
    )
    store.put_outcomes(
        [outcome("2", 1), outcome("1", 0, role="strong"), outcome("3", 1, role="strong")]
    )
    data = store.load_routing_data("geo")
    assert data.ids == ("1", "2")
    assert data.domain == ("geo", "geo")
    assert data.texts == ("question 1", "question 2")
    assert data.groups == ("g", "2")
    assert data.attributes == ({"size": "small"}, {})
    assert data.lengths.tolist() == [30, 9]
    np.testing.assert_array_equal(data.first_entropy, [np.nan, 1.5])
    np.testing.assert_array_equal(data.answer_logprob, [-0.5, -0.5])
    np.testing.assert_array_equal(data.weak, [np.nan, 1])
    np.testing.assert_array_equal(data.strong, [0, np.nan])
    np.testing.assert_array_equal(
        data.activations[ReadPoint(1, "mean")], [[101, 102, 103, 104], [102, 103, 104, 105]]
    )
    assert set(data.activations) == {ReadPoint(0), ReadPoint(1, "mean")}


def test_rollouts_are_one_row_with_the_vectors_of_the_first_that_has_them(store, observe):
    store.append([observe("1", rollout=1), observe("1", points=()), observe("1", rollout=2)])
    data = store.load_routing_data("geo")
    assert data.ids == ("1",)
    assert set(data.activations) == {ReadPoint(0), ReadPoint(1, "mean")}


def test_an_outcome_replaces_the_earlier_one_of_its_key(store, observe):
    store.append([observe("1")])
    store.put_outcomes([outcome("1", 0), outcome("1", 1)])
    assert store.load_routing_data("geo").weak.tolist() == [1]
    store.put_outcomes([outcome("1", 0.25)])
    assert store.load_routing_data("geo").weak.tolist() == [0.25]
    store.put_outcomes([outcome("1", None, note="truncated")])
    assert np.isnan(store.load_routing_data("geo").weak).all()
    assert store.domains()[0].outcomes == 1


def test_people_are_believed_before_code_and_their_votes_averaged(store, observe):
    store.append([observe("1")])
    store.put_outcomes([outcome("1", 1), outcome("1", 1, source="judge")])
    assert store.load_routing_data("geo").weak.tolist() == [1]
    votes = {"ann": 0, "bob": 0, "cyd": 1}
    store.put_outcomes(
        [outcome("1", vote, source="human", author=name) for name, vote in votes.items()]
    )
    assert store.load_routing_data("geo").weak.tolist() == [pytest.approx(1 / 3)]


def test_labels_of_other_weights_are_not_taken_over(store, observe, identity):
    store.append([observe("1")])
    store.put_outcomes([outcome("1", 1)])
    new = replace(identity, weights_sha256="c" * 64)
    store.append([observe("1", model=new)])
    assert np.isnan(store.load_routing_data("geo", weak_model=model_key(new)).weak).all()
    store.put_outcomes([outcome("1", 0)])
    assert store.load_routing_data("geo", weak_model=model_key(new)).weak.tolist() == [0]
    assert store.load_routing_data("geo", weak_model=model_key(identity)).weak.tolist() == [1]


def test_labels_of_an_answer_that_was_made_elsewhere_count(store, observe):
    store.append([observe("1")])
    store.put_outcomes([outcome("1", 1, role="strong")])
    assert store.load_routing_data("geo").strong.tolist() == [1]


def test_outcomes_of_unknown_queries_are_refused_with_their_number(store, observe):
    store.append([observe("1")])
    with pytest.raises(InputError, match=r"2 outcomes are of queries that domain 'geo' does not"):
        store.put_outcomes([outcome("1", 1), outcome("8", 1), outcome("9", 1)])
    assert store.domains()[0].outcomes == 0
    store.put_outcomes([])


def test_mixed_weak_models_are_refused_with_their_counts(store, observe, identity):
    new = replace(identity, weights_sha256="c" * 64)
    store.append([observe("1"), observe("2"), observe("3", model=new)])
    with pytest.raises(TrainingDataError) as error:
        store.load_routing_data("geo")
    assert f"{model_key(identity)} (2)" in str(error.value)
    assert f"{model_key(new)} (1)" in str(error.value)
    data = store.load_routing_data("geo", weak_model=model_key(new))
    assert (data.ids, data.model) == (("3",), new)


def test_mixed_strong_models_are_refused_unless_one_is_chosen(store, observe):
    store.append([observe("1"), observe("1", "strong")])
    store.put_outcomes([outcome("1", 1, role="strong")])
    store.append([observe("1", "strong", api_model="big-2")])
    store.put_outcomes([outcome("1", 0, role="strong")])
    with pytest.raises(TrainingDataError, match=r"big-1 \(1\), big-2 \(1\)"):
        store.load_routing_data("geo")
    assert store.load_routing_data("geo", strong_model="big-1").strong.tolist() == [1]


def test_one_of_several_metrics_must_be_chosen(store, observe):
    store.append([observe("1")])
    store.put_outcomes([outcome("1", 1), outcome("1", 0, metric="polite")])
    with pytest.raises(TrainingDataError, match="several metrics: polite, right"):
        store.load_routing_data("geo")
    assert store.metrics("geo") == ["polite", "right"]
    assert store.load_routing_data("geo", metric="polite").weak.tolist() == [0]
    with pytest.raises(TrainingDataError, match="no outcomes by 'terse'; it has polite, right"):
        store.load_routing_data("geo", metric="terse")


def test_a_domain_without_weak_answers_is_refused(store, observe):
    store.append([observe("1", "strong")])
    for domain in ("geo", "maths"):
        with pytest.raises(TrainingDataError, match=f"{domain!r} has no observation of the weak"):
            store.load_routing_data(domain)


def test_read_points_are_those_of_every_query_or_the_ones_asked_for(store, observe, caplog):
    store.append([observe("1"), observe("2"), observe("3", points=(ReadPoint(0),))])
    data = store.load_routing_data("geo")
    assert (data.ids, set(data.activations)) == (("1", "2", "3"), {ReadPoint(0)})
    assert not caplog.records
    data = store.load_routing_data("geo", read_points=[ReadPoint(1, "mean")])
    assert (data.ids, set(data.activations)) == (("1", "2"), {ReadPoint(1, "mean")})
    assert "1 of 3 queries" in caplog.text
    assert store.load_routing_data("geo", read_points=[]).activations == {}
    with pytest.raises(UnknownReadPointError, match="has layer1_last; it has layer0_last, layer1"):
        store.load_routing_data("geo", read_points=[ReadPoint(1)])


def test_queries_without_a_common_read_point_are_refused_with_the_counts(store, observe):
    store.append([observe("1", points=(ReadPoint(0),)), observe("2", points=(ReadPoint(1),))])
    with pytest.raises(TrainingDataError, match=r"layer0_last \(1\), layer1_last \(1\)"):
        store.load_routing_data("geo")


def test_recordings_without_vectors_are_columns_all_the_same(store, observe):
    store.append([observe("1", api_model="small-1")])
    data = store.load_routing_data("geo")
    assert (data.ids, data.activations, data.model) == (("1",), {}, None)


def test_the_sides_of_the_split_share_nothing_and_miss_nothing(store, observe):
    store.append([observe(str(i), query={"group": f"g{i % 20}"}) for i in range(100)])
    train = store.load_routing_data("geo", split="train")
    test = store.load_routing_data("geo", split="test")
    assert not set(train.groups) & set(test.groups)
    assert sorted(train.ids + test.ids) == sorted(str(i) for i in range(100))
    by_id = {query.id: query for query in store.queries("geo")}
    assert {split_of(by_id[query_id]) for query_id in test.ids} == {"test"}


def test_a_group_on_both_sides_is_refused_when_a_side_is_wanted(store, observe):
    store.append(
        [
            observe("1", query={"group": "g", "split": "train"}),
            observe("2", query={"group": "g", "split": "test"}),
        ]
    )
    with pytest.raises(InputError, match="1 of 1 groups"):
        store.load_routing_data("geo", split="train")


def test_more_observations_than_a_page_come_in_order_and_only_once(store, observe):
    store.append([observe(str(i), "strong") for i in range(1203)])
    found = [one.query.id for one in store.observations("geo", "strong")]
    assert found == [str(i) for i in range(1203)]
    assert store.append([observe(str(i), "strong") for i in range(1204)]) == 1


def test_outcomes_can_be_stored_while_observations_are_read(store, observe):
    store.append([observe(str(i)) for i in range(3)])
    for found in store.observations("geo", "weak"):
        store.put_outcomes([outcome(found.query.id, 1)])
    assert store.load_routing_data("geo").weak.tolist() == [1, 1, 1]


def test_threads_share_a_store(store, observe):
    threads = [
        threading.Thread(target=lambda n=n: store.append([observe(str(n))])) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.load_routing_data("geo")) == 12


def test_domains_are_counted_apart(store, observe):
    assert store.domains() == []
    store.append([observe("1"), observe("1", "strong"), observe("2"), observe("1", domain="a/b")])
    store.put_outcomes([outcome("1", 1)])
    assert store.domains() == [
        DomainCounts(domain="a/b", queries=1, weak=1, strong=0, outcomes=0),
        DomainCounts(domain="geo", queries=2, weak=2, strong=1, outcomes=1),
    ]


def test_a_deleted_domain_leaves_no_rows_and_no_vectors_but_its_neighbour_stays(
    store, observe, tmp_path
):
    store.append([observe("1"), observe("1", domain="maths")])
    store.put_outcomes([outcome("1", 1)])
    geo_shard = next((tmp_path / "vectors").glob("geo-*.parquet"))
    geo_shard.with_name("geo-left-by-a-crash.parquet").write_bytes(geo_shard.read_bytes())
    geo_shard.with_name("geo-half.parquet.tmp").write_bytes(b"PAR1")
    assert store.delete_domain("geo") == 1
    assert store.delete_domain("geo") == 0
    assert [counts.domain for counts in store.domains()] == ["maths"]
    assert [path.name[:5] for path in (tmp_path / "vectors").glob("*.parquet")] == ["maths"]
    assert len(store.load_routing_data("maths").activations) == 2


def test_time_comes_from_the_clock(tmp_path, observe):
    url = f"sqlite:///{tmp_path}/a.db"
    with Store.open(url, tmp_path / "vectors", clock=lambda: 12.5) as store:
        store.append([observe("1")])
        store.put_outcomes([outcome("1", 1)])
        with store._database.transaction() as connection:
            for table in ("queries", "observations", "outcomes"):
                statement = f"SELECT recorded_at FROM {table}"  # noqa: S608
                assert connection.exec_driver_sql(statement).scalars().all() == [12.5]


def test_a_closed_store_says_so(store, observe):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed; open it again"):
        store.append([observe("1")])


def test_a_store_makes_its_folders(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/deep/er/a.db", tmp_path / "vec/tors") as store:
        assert store.domains() == []
    assert (tmp_path / "vec/tors").is_dir()


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "a.db").write_text("a diary\n" * 1000)
    with pytest.raises(StoreError, match=r"a\.db failed: file is not a database; the file is"):
        Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot keep vectors in .*file/vectors"):
        Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "file/vectors")
    with pytest.raises(StoreError, match=r"cannot open the store sqlite:///.*file/a\.db"):
        Store.open(f"sqlite:///{tmp_path}/file/a.db", tmp_path / "vectors")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("mysql://me:hunter2@host/db", "cannot be kept in 'mysql'"),
        ("hunter2", "cannot be read"),
        ("postgresql+nosuch://me:hunter2@host/db", r"me:\*\*\*@host/db"),
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url, message, tmp_path):
    with pytest.raises(StoreError, match=message) as error:
        Store.open(url, tmp_path / "vectors")
    assert "hunter2" not in str(error.value)


def test_text_that_is_not_unicode_is_refused_whole(store, observe):
    with pytest.raises(StoreError, match="failed"):
        store.append([observe("1"), observe("2", text="\ud800")])
    assert store.domains() == []


def test_tokens_are_kept_and_loaded_only_when_named(store, observe):
    tokens = ReadPoint(0, "tokens")
    rows = {"1": np.ones((3, 4), np.float32), "2": np.full((1, 4), 2, np.float32)}
    store.append(
        [
            observe(query_id, activations={tokens: row, ReadPoint(1): row[0]})
            for query_id, row in rows.items()
        ]
    )
    assert store.read_points("geo") == [tokens, ReadPoint(1)]
    assert not store.load_routing_data("geo").sequences
    data = store.load_routing_data("geo", read_points=[tokens, ReadPoint(1)])
    assert list(data.activations) == [ReadPoint(1)]
    np.testing.assert_array_equal(data.sequences[tokens].query(0), rows["1"])
    np.testing.assert_array_equal(data.take(np.array([1])).sequences[tokens].values, rows["2"])


@pytest.mark.parametrize(
    ("point", "shape"),
    [("layer0_tokens", (4,)), ("layer0_last", (3, 4)), ("layer0_tokens", (0, 4))],
)
def test_vectors_of_other_axes_are_refused(store, observe, point, shape):
    wrong = {ReadPoint.parse(point): np.zeros(shape, dtype=np.float32)}
    with pytest.raises(StoreError, match=rf"{point} of query '1' has axes"):
        store.append([observe("1", activations=wrong)])


def test_the_columns_tell_what_both_models_read_and_wrote(store, observe, first_token):
    store.append([observe("1", first_token=first_token), observe("1", "strong"), observe("2")])
    store.put_outcomes([outcome("1", 1.0), outcome("1", 1.0, role="strong")])
    data = store.load_routing_data("geo")
    np.testing.assert_array_equal(data.first_margin, [0.25, np.nan])
    np.testing.assert_array_equal(data.prompt_tokens, [30, 30])
    np.testing.assert_array_equal(data.weak_tokens, [5, 5])
    np.testing.assert_array_equal(data.strong_prompt_tokens, [30, np.nan])
    np.testing.assert_array_equal(data.strong_tokens, [5, np.nan])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_with_their_number(store, observe, bad):
    vector = np.array([0, bad, bad, 0], dtype=np.float32)
    with pytest.raises(StoreError, match="2 NaN or infinite values of 4"):
        store.append([observe("1"), observe("2", activations={ReadPoint(0): vector})])
    assert store.domains() == []


def test_a_missing_vector_file_is_named(store, observe, tmp_path):
    store.append([observe("1")])
    (shard,) = (tmp_path / "vectors").glob("*.parquet")
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"cannot read vectors from .*{shard.name}"):
        store.load_routing_data("geo")


def test_a_vector_file_of_other_queries_is_refused(store, observe, tmp_path):
    store.append([observe("1")])
    (first,) = (tmp_path / "vectors").glob("*.parquet")
    store.append([observe("2")])
    (second,) = set((tmp_path / "vectors").glob("*.parquet")) - {first}
    first.write_bytes(second.read_bytes())
    with pytest.raises(StoreError, match="vectors of other queries"):
        store.load_routing_data("geo")


def test_a_foreign_vector_file_is_refused(store, observe, tmp_path):
    store.append([observe("1")])
    (shard,) = (tmp_path / "vectors").glob("*.parquet")
    pq.write_table(pq.read_table(shard).replace_schema_metadata({}), shard)
    with pytest.raises(StoreError, match="format None, wanted 1"):
        store.load_routing_data("geo")


def test_all_vectors_of_one_call_are_in_one_file(store, observe, tmp_path: Path):
    store.append([observe(str(i)) for i in range(10)])
    assert len(list((tmp_path / "vectors").glob("*.parquet"))) == 1
