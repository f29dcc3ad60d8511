"""People's queue, their labels, and how far they agree."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from foretell.errors import InputError
from foretell.flywheel import (
    Agreement,
    PeopleLabel,
    QueueItem,
    people_agreement,
    people_queue,
    put_people_labels,
    read_queue,
    take_back_people_labels,
    write_queue,
)
from foretell.flywheel._people_agreement import agreement
from foretell.flywheel._people_files import _shielded, _unshielded
from foretell.records import Answer, Observation, Outcome, Query, Usage
from foretell.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as opened:
        opened.append([answered(f"q{i}", split="test" if i == 5 else "train") for i in range(6)])
        yield opened


def answered(query_id, *, text=None, cut=False, role="weak", question=None, split=None, model="m"):
    content = f"Where is {query_id}?" if question is None else question
    return Observation(
        domain="geo",
        query=Query(
            id=query_id,
            messages=({"role": "user", "content": content},),
            reference={"country": "Chad"},
            split=split,
        ),
        role=role,
        answer=Answer(
            text=f"answer {query_id}" if text is None else text,
            model=model,
            finish_reason="length" if cut else "stop",
            usage=Usage(prompt_tokens=1, completion_tokens=1),
        ),
    )


def queue(store, author="ann", limit=10, **options):
    return people_queue(store, "geo", "right", limit, author=author, now=0.0, **options)


def keys(store, author="somebody else"):
    return {item.id: item.key for item in queue(store, author, 100)}


def put(store, verdicts, author="ann", by=None):
    known = by or keys(store)
    labels = [PeopleLabel(key=known[one], verdict=said) for one, said in verdicts.items()]
    return put_people_labels(store, "geo", labels, metric="right", author=author)


def outcomes(store):
    return sorted(
        (one.query_id, one.author, one.value, one.note)
        for of_model in store.outcomes("geo").values()
        for one in of_model
    )


def test_the_queue_shows_every_answer_once_with_all_a_person_needs(store):
    items = queue(store)
    assert sorted(item.id for item in items) == [f"q{i}" for i in range(6)]
    first = next(item for item in items if item.id == "q0")
    assert (first.question, first.answer) == ("Where is q0?", "answer q0")
    assert first.reference == {"country": "Chad"}
    assert (first.role, first.model, first.truncated, first.labels) == ("weak", "m", False, 0)
    assert len({item.key for item in items}) == 6
    assert len(queue(store, limit=2)) == 2


def test_what_was_judged_or_skipped_is_not_shown_again_to_the_same_person(store):
    put(store, {"q0": "right", "q1": "skip"})
    assert {"q0", "q1"}.isdisjoint(item.id for item in queue(store, "ann"))
    # Ben may judge what Ann skipped; what she judged is for second opinions.
    left = {item.id for item in queue(store, "ben")}
    assert "q1" in left
    assert "q0" not in left


def test_second_opinions_begin_with_what_is_disputed(store):
    put(store, {"q0": "right", "q1": "right", "q2": "wrong"})
    judged = Outcome(
        domain="geo", query_id="q1", role="weak", metric="right", value=0.0, source="judge"
    )
    store.put_outcomes([judged])
    again = queue(store, "ben", second_opinions=True)
    assert again[0].id == "q1"
    assert sorted(item.id for item in again) == ["q0", "q1", "q2"]
    assert [item.labels for item in again] == [1, 1, 1]
    assert queue(store, "ann", second_opinions=True) == []


def test_conversations_are_shown_as_who_said_what(store):
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "In"},
    )
    one = answered("talk")
    store.append([replace(one, query=replace(one.query, messages=messages))])
    (item,) = [item for item in queue(store, limit=100) if item.id == "talk"]
    assert item.question == "system: Be brief.\n\nuser: Where?"


def test_answers_without_their_text_are_not_shown(store):
    store.append([answered("hidden", text="", question="")])
    assert "hidden" not in {item.id for item in queue(store, limit=100)}


def test_the_strong_models_answers_may_be_judged_as_well(store):
    store.append([answered("q0", role="strong", model="big")])
    (item,) = queue(store, role="strong")
    assert (item.role, item.model) == ("strong", "big")
    labels = [PeopleLabel(key=item.key, verdict="wrong")]
    put_people_labels(store, "geo", labels, metric="right", author="ann")
    assert math.isnan(store.load_routing_data("geo").weak[0])
    assert store.load_routing_data("geo").strong[0] == 0


def test_labels_are_stored_with_their_author_and_what_was_skipped_has_no_value(store):
    counts = put(store, {"q0": "right", "q1": "wrong", "q2": "skip"})
    assert (counts.right, counts.wrong, counts.skipped, counts.replaced) == (1, 1, 1, 0)
    assert outcomes(store) == [
        ("q0", "ann", 1.0, ""),
        ("q1", "ann", 0.0, ""),
        ("q2", "ann", None, "skipped"),
    ]
    (event,) = store.events(kind="people_labels")
    assert (event.by, event.subject, event.details["right"]) == ("ann", "geo", 1)


def test_truncated_answers_are_shown_as_such_and_never_failures(store):
    store.append([answered("cut", cut=True), answered("done", cut=True)])
    shown = {item.id: item.truncated for item in queue(store, limit=100)}
    assert (shown["cut"], shown["q0"]) == (True, False)
    counts = put(store, {"cut": "wrong", "done": "right"})
    assert (counts.wrong, counts.right, counts.truncated) == (0, 1, 1)
    assert outcomes(store) == [("cut", "ann", None, "truncated"), ("done", "ann", 1.0, "")]


def test_nobody_overwrites_anybody_else(store):
    known = keys(store)
    put(store, {"q0": "right"}, "ann", known)
    counts = put(store, {"q0": "wrong"}, "ben", known)
    assert counts.replaced == 0
    assert outcomes(store) == [("q0", "ann", 1.0, ""), ("q0", "ben", 0.0, "")]
    assert put(store, {"q0": "right"}, "ben", known).replaced == 1
    assert outcomes(store)[0] == ("q0", "ann", 1.0, "")


def test_labels_of_answers_that_are_gone_or_have_changed_are_counted_not_stored(store):
    before = keys(store)
    store.delete_domain("geo")
    store.append([answered("q0", text="something else"), answered("q1")])
    counts = put(store, {"q0": "right", "q1": "right", "q2": "right"}, by=before)
    assert (counts.right, counts.unknown) == (1, 2)
    assert [row[0] for row in outcomes(store)] == ["q1"]


def test_undo_takes_back_ones_own_labels_and_shows_the_answers_again(store):
    known = keys(store)
    put(store, {"q0": "right", "q1": "wrong"}, "ann", known)
    put(store, {"q0": "wrong"}, "ben", known)

    def undo(*ids, author="ann"):
        return take_back_people_labels(
            store, "geo", [known[one] for one in ids], metric="right", author=author
        )

    assert undo("q0", "q2") == 1
    assert outcomes(store) == [("q0", "ben", 0.0, ""), ("q1", "ann", 0.0, "")]
    assert undo("q1") == 1
    assert "q1" in {item.id for item in queue(store, "ann")}
    assert undo("q1") == 0
    assert [event.details.get("taken_back") for event in store.events(kind="people_labels")] == [
        1, 1, None, None,
    ]  # fmt: skip


def test_people_need_a_name(store):
    with pytest.raises(InputError, match="--author NAME"):
        queue(store, " ")
    with pytest.raises(InputError, match="--author NAME"):
        put(store, {"q0": "right"}, "")


def test_agreement_is_told_pair_by_pair(store):
    known = keys(store)
    ann = {f"q{i}": "right" if i < 3 else "wrong" for i in range(6)}
    ben = ann | {"q0": "wrong"}
    put(store, ann, "ann", known)
    (pair,) = put(store, ben, "ben", known).agreements
    assert (pair.authors, pair.disagreements) == (("ann", "ben"), ("q0 (weak, m)",))
    assert (pair.share.value, pair.share.n) == (5 / 6, 6)
    # chance: (3 · 2 + 3 · 4) / 36 = 1 / 2
    assert pair.kappa.value == pytest.approx((5 / 6 - 1 / 2) / (1 / 2))
    put(store, {"q5": "wrong"}, "eve", known)
    assert [one.authors for one in people_agreement(store, "geo", "right")] == [
        ("ann", "ben"), ("ann", "eve"), ("ben", "eve"),
    ]  # fmt: skip


def pairs(values):
    return [
        (str(i), author, float(value))
        for i, two in enumerate(values)
        for author, value in zip(("a", "b"), two, strict=True)
    ]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_kappa_is_that_of_scikit_learn(values):
    (pair,) = agreement(pairs(values))
    ours, theirs = zip(*values, strict=True)
    if len({*ours, *theirs}) == 1:
        assert pair.kappa.value is None
    else:
        assert pair.kappa.value == pytest.approx(cohen_kappa_score(ours, theirs))


def test_the_interval_of_kappa_is_the_jackknifes():
    values = [(True, True)] * 5 + [(False, False)] * 3 + [(True, False)] * 2
    (pair,) = agreement(pairs(values))
    left_out = [
        agreement(pairs(values[:i] + values[i + 1 :]))[0].kappa.value for i in range(len(values))
    ]
    mean = sum(left_out) / 10
    error = math.sqrt(9 / 10 * sum((one - mean) ** 2 for one in left_out))
    assert pair.kappa.low == pytest.approx(pair.kappa.value - 1.959964 * error)
    assert pair.kappa.high == pytest.approx(min(1.0, pair.kappa.value + 1.959964 * error))


def test_agreeing_on_everything_proves_no_certainty():
    (pair,) = agreement(pairs([(True, True), (False, False)]))
    assert (pair.kappa.value, pair.kappa.low, pair.kappa.high) == (1.0, None, None)
    assert agreement([("1", "a", 1.0), ("1", "b", 0.5)]) == ()
    assert isinstance(pair, Agreement)


def item(**changes):
    values = {
        "key": "key-0",
        "id": "q0",
        "role": "weak",
        "model": "m",
        "question": "?",
        "answer": "!",
        "reference": None,
        "truncated": False,
        "labels": 0,
    }
    return QueueItem(**{**values, **changes})


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\uff1d1", "'=1", "'tis", "\n"]
)
def test_no_cell_is_a_formula(tmp_path, text):
    path = tmp_path / "queue.csv"
    write_queue(path, [item(id=text, question=text, answer=text, reference=text)])
    with path.open(encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    for name in ("id", "question", "answer", "reference"):
        assert row[name] == f"'{text}"


@given(st.text())
def test_the_shield_comes_off_again(text):
    assert _unshielded(_shielded(text)) == text
    assert not _shielded(text).lstrip().startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_comes_back_with_what_a_person_wrote(tmp_path, ending):
    path = tmp_path / f"queue.{ending}"
    long = 'He said "no";\r\n' * 20_000
    items = [
        item(key="key-0", question=long, reference={"a": [1, "é"]}),
        item(key="key-1", truncated=True),
        item(key="key-2"),
        item(key="key-3"),
    ]
    write_queue(path, items)
    assert read_queue(path).blank == 4
    assert "truncated" in path.read_text(encoding="utf-8-sig")
    said = ["Right ", "WRONG", "skip", ""]
    if ending == "csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(10_000_000)
            rows = list(csv.DictReader(file))
            csv.field_size_limit(131_072)
        assert rows[0]["question"] == long
        for row, one in zip(rows, said, strict=True):
            row |= {"your_label": one, "note": "'=cmd"}
        # as a spreadsheet of another country saves it
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert (lines[0]["reference"], lines[0]["question"]) == ({"a": [1, "é"]}, long)
        path.write_text(
            "\n".join(
                json.dumps({**line, "your_label": one, "note": "=cmd"})
                for line, one in zip(lines, said, strict=True)
            ),
            encoding="utf-8",
        )
    filled = read_queue(path)
    assert filled.blank == 1
    assert [(one.key, one.verdict, one.note) for one in filled.labels] == [
        ("key-0", "right", "=cmd"),
        ("key-1", "wrong", "=cmd"),
        ("key-2", "skip", "=cmd"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "", "neither in .csv nor in .jsonl"),
        ("none.csv", None, "cannot read the labels"),
        ("a.csv", "id,answer\n1,2\n", "lacks the columns your_label and key"),
        ("a.csv", "key,your_label\nk1,rihgt\nk2,right\n", "line 2 says 'rihgt'"),
        ("a.csv", b"key,your_label\nk1,\xff\n", "save it as 'CSV UTF-8'"),
        ("a.jsonl", "{\n", "line 1: not valid JSON"),
        ("a.jsonl", "[1]\n", "wanted an object"),
        ("a.jsonl", '{"your_label": "right"}\n', "line 1 has no key"),
        ("a.csv", "key,your_label\n" + "k,no\n" * 9, "and 4 more lines"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_nothing_of_it_counts(tmp_path, name, text, said):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said):
        read_queue(path)
