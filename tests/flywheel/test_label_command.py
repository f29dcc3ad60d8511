"""``foretell label`` as a user types it, over a whole project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from judge_api import judging, said, verdict
from scripted_server import ScriptedServer, error

from foretell.errors import InputError
from foretell.flywheel import Exact, Workshop, compare_with_people
from foretell.records import Outcome
from foretell.runtime import Foretell
from foretell.store import Store, model_key
from toy_project import (
    CONFIG,
    changed,
    foretell,
    refused,
    strong_observations,
    toy_queries,
    write_config,
    write_project,
)

JUDGE = "label --domain toy --labeller judge --option model=critic --json"


@pytest.fixture
def api() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, api: ScriptedServer) -> Path:
    """Queries with stored answers of the strong model alone, and a judge in the configuration."""
    write_project(tmp_path)
    critic = {
        "engine": "openai",
        "base_url": api.url,
        "model": "judge-1",
        "price": {"input": 1, "output": 1},
        "retries": {"attempts": 1},
    }
    write_config(tmp_path, changed(CONFIG, models__critic=critic))
    with Store.open(f"sqlite:///{tmp_path}/foretell.db", tmp_path / "vectors") as store:
        store.append(strong_observations(toy_queries()[:30]))
    return tmp_path


def people_say(project: Path, values: dict[str, int], metric: str = "helpful") -> None:
    with Store.open(f"sqlite:///{project}/foretell.db", project / "vectors") as store:
        store.put_outcomes(
            [
                Outcome(
                    domain="toy",
                    query_id=query_id,
                    role="strong",
                    metric=metric,
                    value=value,
                    source="human",
                )
                for query_id, value in values.items()
            ],
            model_key=model_key("big-1"),
        )


def even_is_right(blocks: dict[str, str]) -> str:
    """The answer is ``town q007``; the judge likes even numbers, and none of the canaries."""
    text = blocks["answer"]
    return "pass" if text.startswith("town q") and int(text[-3:]) % 2 == 0 else "fail"


def test_a_judge_labels_is_counted_and_is_compared_with_people(project, api):
    api.otherwise = judging(even_is_right)
    # People agree but for q001 and q002.
    people_say(project, {f"q{i:03}": int((i % 2 == 0) != (i in (1, 2))) for i in range(10)})
    result = foretell(project, f"{JUDGE} --canaries 10").json()
    assert result["strong"]["labelled"] == 30
    assert result["strong"]["success_rate"] == 0.5
    assert result["strong"]["reasons"] == {"judged a failure": 15}
    assert result["judge"] == {
        "model": "judge-1",
        "usd": pytest.approx(40 * 120 / 1e6),
        "calls": 40,
        "cached": 0,
    }
    assert result["canaries"]["fooled"]["value"] == 0
    (compared,) = result["people"]
    assert (compared["role"], compared["people"]) == ("strong", "helpful")
    quality = compared["honesty"]["quality"]
    assert quality["disagreements"] == ["q001", "q002"]
    assert quality["sensitivity"]["value"] == 4 / 5
    assert quality["specificity"]["value"] == 4 / 5
    assert compared["honesty"]["apparent"]["value"] == 0.5
    assert compared["honesty"]["rogan_gladen"]["value"] == pytest.approx(0.5)

    again = foretell(project, JUDGE.removesuffix(" --json"))
    assert again.code == 0, again.err
    assert "0 calls, 30 verdicts from the cache, 0.0000 USD" in again.out
    assert "15 × judged a failure" in again.out
    assert "corrected (prediction-powered)" in again.out
    assert "they differ on q001, q002" in again.out
    assert len(api.requests) == 40


def test_a_judge_that_fails_now_and_then_is_counted_by_reason(project, api):
    api.script(error(500, "oops"), *[said("prose")] * 2)
    api.otherwise = said(verdict("pass"))
    result = foretell(project, f"{JUDGE} --parallel 1").json()
    assert result["strong"]["labelled"] == 28
    assert result["strong"]["reasons"] == {
        "judge: error": 1,
        "judge: no verdict in the reply": 1,
    }
    assert result["people"] == []


def test_a_judge_in_pairs_finds_the_strong_answers(project, api):
    result = foretell(project, f"{JUDGE} --option mode=pairwise").json()
    assert result["strong"]["success_rate"] == 1  # against itself
    assert api.requests == []


def test_of_several_strong_models_one_is_compared_with(project, api):
    others = [
        replace(one, answer=replace(one.answer, model="big-2", text="nowhere"))
        for one in strong_observations(toy_queries()[:30])
    ]
    with Store.open(f"sqlite:///{project}/foretell.db", project / "vectors") as store:
        store.append(others)
    api.otherwise = judging(lambda blocks: "second" if "q" in blocks["second answer"] else "first")
    result = foretell(project, f"{JUDGE} --option mode=pairwise --strong large").json()
    # Its own answers are as good as themselves, the other model's are worse.
    assert result["strong"]["queries"] == 60
    assert result["strong"]["reasons"] == {"judged worse": 30}
    with (
        Store.open(f"sqlite:///{project}/foretell.db", project / "vectors") as store,
        Foretell.from_config(project / "foretell.yaml") as ft,
        Workshop(ft, store, "toy") as workshop,
        pytest.raises(InputError, match=r"several strong models have answered: .*big-2"),
    ):
        workshop.strong_answers()


def test_a_rubric_is_a_text_or_a_file(project, api):
    api.otherwise = said(verdict("pass"))
    (project / "rubric.md").write_text("Only towns succeed.\n", encoding="utf-8")
    for rubric in ("rubric.md", "Only towns succeed."):
        foretell(project, JUDGE, "--option", f"rubric={rubric}").json()
    # The same rubric, so the same question.
    assert len(api.requests) == 30
    assert "Only towns succeed." in api.requests[0]["messages"][0]["content"]
    refused(foretell(project, f"{JUDGE} --option rubric=rubric.txt"), "cannot read the rubric")


def test_an_ensemble_and_a_model_that_runs_here_may_judge(project, api):
    api.otherwise = said(verdict("pass"))
    words = "label --domain toy --labeller ensemble --option of=judge,regex --json "
    options = "--option judge.model=critic --option regex.pattern=town"
    result = foretell(project, words + options).json()
    assert result["strong"]["success_rate"] == 1
    assert result["people"] == []
    tiny = foretell(project, "label --domain toy --labeller judge --option model=small --json")
    assert tiny.json()["strong"]["labelled"] == 0  # it does not speak JSON
    assert tiny.json()["judge"]["usd"] >= 0


def test_a_schema_and_canaries_need_no_judge(project):
    schema = json.dumps({"type": "object"})
    words = "label --domain toy --labeller json_schema --canaries 10 --json --option"
    result = foretell(project, words, f"schema={schema}").json()
    assert result["strong"]["reasons"] == {"no valid JSON": 30}
    assert result["canaries"]["fooled"]["value"] == 0.3  # those that hold an object


def test_people_who_used_several_metrics_are_asked_which(project, api):
    api.otherwise = said(verdict("pass"))
    people_say(project, {"q000": 1}, "helpful")
    people_say(project, {"q000": 0}, "polite")
    refused(foretell(project, JUDGE), "several metrics: helpful, polite", "--people")
    refused(foretell(project, f"{JUDGE} --people kind"), "nothing by 'kind'", "helpful, polite")
    result = foretell(project, f"{JUDGE} --people polite").json()
    assert result["people"][0]["honesty"]["quality"]["agreement"]["value"] == 0
    people_say(project, {"q000": 1}, "judge")
    assert foretell(project, JUDGE).json()["people"][0]["people"] == "judge"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--labeller judge", ("needs the option 'model'",)),
        ("--labeller judge --option model=vibes", ("no model is called 'vibes'", "critic")),
        ("--labeller code", ("compares answers with references",)),
        ("--labeller sql", ("compares answers with references",)),
        ("--labeller ensemble --option of=exact", ("two labellers or more",)),
        ("--labeller json_schema --option schema={", ("not valid JSON",)),
    ],
)
def test_what_cannot_be_labelled_is_said_in_one_line(project, options, said):
    refused(foretell(project, f"label --domain toy {options}"), *said)


def test_a_key_that_is_refused_stops_the_command(project, api):
    api.otherwise = error(401, "who?")
    refused(foretell(project, JUDGE), "HTTP 401")


def test_labellers_by_code_are_not_compared_with_people(project):
    people_say(project, {"q000": 1})
    with Store.open(f"sqlite:///{project}/foretell.db", project / "vectors") as store:
        assert compare_with_people(store, "toy", Exact()) == []
