from __future__ import annotations

import threading

import pytest

from foretell.errors import InputError, StoreError
from foretell.flywheel import Exact, Label, LabelCounts, Numeric, label_domain
from foretell.records import Answer, ModelIdentity, Observation, Query, Usage
from foretell.store import Store, model_key


@pytest.fixture
def store(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as opened:
        yield opened


def weights(letter):
    return ModelIdentity(
        source="tiny",
        weights_sha256=letter * 64,
        chat_template_sha256="t" * 64,
        engine="tiny",
        n_layers=1,
        width=2,
    )


def answered(query_id, text, role="weak", *, reference="yes", rollout=0, cut=False, model="a"):
    return Observation(
        domain="geo",
        query=Query(id=query_id, messages=({"role": "user", "content": "?"},), reference=reference),
        role=role,
        rollout=rollout,
        model=weights(model) if role == "weak" else None,
        answer=Answer(
            text=text,
            model="m",
            finish_reason="length" if cut else "stop",
            usage=Usage(prompt_tokens=1, completion_tokens=1),
        ),
    )


def test_each_role_is_labelled_and_counted(store):
    store.append(
        [
            answered("1", "yes"),
            answered("2", "no"),
            answered("3", "y", cut=True),
            answered("4", "yes", reference=None),
            answered("2", "yes", "strong"),
        ]
    )
    assert label_domain(store, "geo", Exact()) == {
        "weak": LabelCounts(
            queries=4,
            labelled=2,
            success_rate=0.5,
            reasons={"another text": 1, "truncated": 1, "no reference": 1},
        ),
        "strong": LabelCounts(queries=1, labelled=1, success_rate=1.0, reasons={}),
    }
    data = store.load_routing_data("geo")
    assert [None if value != value else value for value in data.weak.tolist()] == [1, 0, None, None]
    assert data.strong[1] == 1


def test_rollouts_become_a_rate_over_those_that_could_be_told(store):
    texts = ["yes", "no", "no", "yes", "yes"]
    store.append([answered("1", text, rollout=i) for i, text in enumerate(texts)])
    store.append([answered("1", "y", cut=True, rollout=5)])
    counts = label_domain(store, "geo", Exact(), ["weak"])
    assert counts["weak"].success_rate == pytest.approx(3 / 5)
    assert (counts["weak"].queries, counts["weak"].labelled) == (1, 1)
    assert store.load_routing_data("geo").weak.tolist() == [pytest.approx(3 / 5)]


def test_a_role_without_answers_has_no_rate(store):
    store.append([answered("1", "yes")])
    assert label_domain(store, "geo", Exact(), ["strong"])["strong"] == LabelCounts(
        queries=0, labelled=0, success_rate=None, reasons={}
    )


def test_labelling_again_replaces_the_labels(store):
    store.append([answered("1", "Yes")])
    label_domain(store, "geo", Exact())
    label_domain(store, "geo", Exact(folded=True))
    assert store.load_routing_data("geo").weak.tolist() == [1]
    assert store.domains()[0].outcomes == 1


def test_answers_of_other_weights_keep_labels_of_their_own(store):
    store.append([answered("1", "yes", model="a"), answered("1", "no", model="b")])
    assert label_domain(store, "geo", Exact())["weak"].queries == 2
    for letter, value in (("a", 1), ("b", 0)):
        key = model_key(weights(letter))
        assert store.load_routing_data("geo", weak_model=key).weak.tolist() == [value]


def test_a_domain_that_is_not_stored_is_refused_with_those_that_are(store):
    with pytest.raises(InputError, match="'maths'; run 'foretell collect' first"):
        label_domain(store, "maths", Exact())
    store.append([answered("1", "yes")])
    with pytest.raises(InputError, match="nothing is stored for domain 'maths'; there are geo"):
        label_domain(store, "maths", Exact())


def test_a_labeller_that_fits_no_query_writes_nothing(store):
    store.append([answered("1", "yes")])
    with pytest.raises(InputError, match="found no number"):
        label_domain(store, "geo", Numeric())
    assert store.domains()[0].outcomes == 0


class Opinion:
    """Says what it is told to, by the answer's text."""

    metric = "opinion"
    source = "judge"
    author = "big-1"

    def __init__(self, says):
        self._says = says

    def check(self, queries):
        pass

    def label(self, query, answer):  # noqa: ARG002
        said = self._says[answer.text]
        if isinstance(said, Exception):
            raise said
        return said


def test_source_author_confidence_and_detail_are_stored(store):
    store.append([answered("1", "a"), answered("1", "b", rollout=1), answered("2", "c")])
    says = {
        "a": Label(1.0, "", 0.9, "fine"),
        "b": Label(0.0, "judged a failure", 0.5, "no \ud800"),
        "c": Label(None, "cut"),
        "d": Label(1.0, ""),
    }
    store.append([answered("3", "d")])
    counts = label_domain(store, "geo", Opinion(says), ["weak"])
    assert counts["weak"].reasons == {"judged a failure": 1, "cut": 1}
    (stored,) = store.outcomes("geo").values()
    assert {(one.source, one.author, one.metric) for one in stored} == {
        ("judge", "big-1", "opinion")
    }
    assert [(one.query_id, one.value, one.note) for one in stored] == [
        ("1", 0.5, "judged a failure; confidence 0.70; fine / no ?"),
        ("2", None, "cut"),
        ("3", 1.0, ""),
    ]


def test_an_answer_at_which_the_labeller_crashes_is_left_unlabelled(store, caplog):
    store.append([answered("1", "a"), answered("2", "b")])
    labeller = Opinion({"a": Label(1.0, ""), "b": ValueError("a bug")})
    counts = label_domain(store, "geo", labeller, ["weak"])["weak"]
    assert (counts.labelled, counts.queries) == (1, 2)
    assert counts.reasons == {"labeller crashed: ValueError": 1}
    assert "a bug" in caplog.text


@pytest.mark.parametrize("parallel", [1, 3])
def test_an_error_that_would_come_for_every_answer_ends_it(store, parallel):
    store.append([answered(str(i), "a") for i in range(10)])
    with pytest.raises(StoreError, match="disk full"):
        label_domain(store, "geo", Opinion({"a": StoreError("disk full")}), parallel=parallel)
    assert store.domains()[0].outcomes == 0


def test_several_answers_at_once_are_labelled_as_one_by_one(store):
    store.append(
        [answered(str(i), "yes" if i % 3 else "no", rollout=r) for i in range(90) for r in (0, 1)]
    )
    one_by_one = label_domain(store, "geo", Exact())
    before = store.outcomes("geo")
    seen = []
    assert label_domain(store, "geo", Exact(), parallel=4, on_done=lambda: seen.append(1)) == (
        one_by_one
    )
    assert store.outcomes("geo") == before
    assert len(seen) == 180


def test_answers_are_labelled_at_the_same_time(store):
    store.append([answered(str(i), "a") for i in range(3)])
    meeting = threading.Barrier(3, timeout=10)

    class Waits(Opinion):
        def label(self, query, answer):
            meeting.wait()
            return super().label(query, answer)

    counts = label_domain(store, "geo", Waits({"a": Label(1.0, "")}), ["weak"], parallel=3)
    assert counts["weak"].labelled == 3
