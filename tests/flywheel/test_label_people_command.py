"""``foretell label`` with a budget, for people and for callers, as a user types it."""

from __future__ import annotations

import csv
import re
from contextlib import chdir
from pathlib import Path

import pytest

from foretell.records import Answer, Feedback, Observation, Query, RequestRecord, Usage
from foretell.store import Store
from toy_project import CONFIG, changed, foretell, refused, write_config, write_project

PEOPLE = "label --domain geo --labeller people"


def opened(project: Path) -> Store:
    return Store.open(f"sqlite:///{project}/foretell.db", project / "vectors")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Thirty answered questions, half of them right, with a request record for each."""
    write_project(tmp_path)
    with opened(tmp_path) as store:
        store.append(
            [
                Observation(
                    domain="geo",
                    query=Query(
                        id=f"q{i:02}",
                        messages=({"role": "user", "content": f"=HYPERLINK({i}) where?"},),
                        reference="here",
                        split="train",
                    ),
                    role="weak",
                    answer=Answer(
                        text="here" if i % 2 else "nowhere",
                        model="m",
                        finish_reason="length" if i == 0 else "stop",
                        usage=Usage(prompt_tokens=1, completion_tokens=1),
                    ),
                )
                for i in range(30)
            ]
        )
        store.append_requests(
            [
                RequestRecord(
                    id=f"q{i:02}", at=float(i), key_id="k1", route="auto", domain="geo", model="m",
                    serve="weak", action="keep", cause=None, status=200, streamed=False,
                    finish_reason="stop",
                )
                for i in range(30)
            ]
        )  # fmt: skip
    return tmp_path


def fill(path: Path, verdicts: dict[str, str]) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["your_label"] = verdicts.get(row["id"], "")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_budget_labels_so_many_queries_and_says_how_they_were_chosen(project):
    words = "label --domain geo --labeller exact --budget 12"
    result = foretell(project, f"{words} --json").json()
    assert result["budget"] == {"chosen": 12, "at_random": 3, "basis": "text", "waiting": 30}
    assert result["weak"]["queries"] == 12
    assert result["sample"]["success_rate"]["n"] == result["sample"]["queries"] >= 2
    said = foretell(project, f"{words} --strategy random").out
    assert "12 of 18 unlabelled queries: 12 drawn by lot, 0 chosen by nothing" in said
    assert "that are a random sample" in " ".join(said.split())
    rest = foretell(project, f"{words} --random-share 0.5 --json").json()
    assert rest["budget"]["chosen"] == 6
    refused(foretell(project, f"{words} --strategy clever"), "wanted helpful or random")


def test_people_get_a_file_fill_it_in_and_may_take_it_back(project):
    queue = project / "queue.csv"
    exported = foretell(project, f"{PEOPLE} --export queue.csv --author ann --budget 30")
    assert "30 answers to judge (metric right, 1 of them truncated)" in exported.out
    assert "'=HYPERLINK" in queue.read_text(encoding="utf-8-sig")
    fill(queue, {"q00": "wrong", "q01": "right", "q02": "wrong", "q03": "skip"})
    taken = foretell(project, f"{PEOPLE} --import queue.csv --author ann")
    assert "1 right, 1 wrong, 1 skipped, 26 still blank (metric right)" in taken.out
    assert "1 called wrong had been cut" in taken.out
    assert "no two people have judged the same answer" in taken.out

    left = foretell(project, f"{PEOPLE} --export rest.jsonl --author ann --budget 99 --json").json()
    assert left["exported"] == 26
    again = f"{PEOPLE} --export again.csv --author ben --second-opinions"
    assert "2 answers to judge" in foretell(project, again).out
    fill(project / "again.csv", {"q01": "right", "q02": "right"})
    result = foretell(project, f"{PEOPLE} --import again.csv --author ben --json").json()
    assert result["agreements"][0]["share"]["value"] == 0.5
    said = foretell(project, PEOPLE).out
    assert "ann and ben agree on 0.500" in said
    assert "q02 (weak, m)" in said

    assert "2 labels taken back" in foretell(project, f"{PEOPLE} --undo again.csv --author ben").out
    assert foretell(project, f"{PEOPLE} --json").json()["agreements"] == []


def test_callers_feedback_becomes_labels_within_the_cap(project):
    words = "label --domain geo --labeller feedback"
    refused(foretell(project, words), "no caller has given feedback")
    with opened(project) as store:
        for i in range(5):
            store.put_feedback(
                Feedback(request_id=f"q{i:02}", metric="thumbs", value=1, source="client"),
                key_id="k1",
            )
    said = foretell(project, words).out
    assert "0 labels by thumbs, of 5 votes and 0 keys: 0 new, 0 changed, 0 taken back" in said
    assert "5 votes of key k1 set aside: it gave too many" in said
    write_config(project, changed(CONFIG, flywheel={"influence_cap": 1.0}))
    result = foretell(project, f"{words} --json").json()
    assert (result["labels"], result["created"], result["over_cap"]) == (5, 5, {})
    other = foretell(project, f"{words} --option metric=right --option votes=thumbs --json").json()
    assert (other["metric"], other["labels"]) == ("right", 5)
    assert "5 votes by thumbs left alone" in foretell(project, f"{words} --option metric=x").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"{PEOPLE} --export a.csv", "--author NAME"),
        (f"{PEOPLE} --export a.csv --import b.csv --author ann", "at a time"),
        (f"{PEOPLE} --export a.txt --author ann", "neither in .csv nor in .jsonl"),
        (f"{PEOPLE} --export a.csv --author ann --role judge", "wanted weak or strong"),
        (f"{PEOPLE} --option file=a.csv", "has no option 'file'"),
        ("label --domain geo --labeller feedback --option cap=1", "has no option 'cap'"),
        ("label --domain geo --labeller exact --export a.csv", "give --labeller people"),
    ],
)
def test_what_does_not_fit_together_is_said(project, words, said):
    refused(foretell(project, words), said)


def test_what_the_page_tells_to_do_works_in_its_order(project, capsys):
    page = (Path(__file__).parents[2] / "docs" / "labelling.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL)
    with opened(project) as store:
        store.put_feedback(
            Feedback(request_id="q00", metric="thumbs", value=1, source="client"), key_id="k1"
        )
    commands = [line for name, text in blocks if name == "sh" for line in text.strip().splitlines()]
    assert len(commands) == 7
    for command in commands:
        finished = foretell(project, command.removeprefix("foretell "))
        assert finished.code == 0, (command, finished.err)
    (example,) = (text for name, text in blocks if name == "python")
    with chdir(project):
        exec(compile(example, "labelling.md", "exec"), {})  # noqa: S102 - our own page
    assert "Interval(" in capsys.readouterr().out
