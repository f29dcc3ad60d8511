from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from toy_project import CONFIG, changed, foretell, refused, write_config

ROUTERS = {"probe", "embedding", "tfidf", "length", "keyword", "domain", "random"}


@pytest.fixture
def printed(finished_project: tuple[Path, Mapping[str, Any]]) -> Mapping[str, Any]:
    return finished_project[1]


def test_collect_counts_the_answers_of_both_models(printed):
    assert printed["collect"] == {
        "domain": "toy",
        "queries": 180,
        "weak": {"new": 180, "skipped": 0},
        "strong": {"new": 180, "skipped": 0},
    }


def test_a_second_collect_answers_nothing_again(project):
    again = foretell(
        project,
        "collect --domain toy --input queries.jsonl --with-strong --max-tokens 4 --json",
    ).json()
    assert (again["weak"], again["strong"]) == ({"new": 0, "skipped": 180},) * 2


def test_rollouts_are_answers_of_their_own(project):
    words = "collect --domain toy --input queries.jsonl --max-tokens 2 --rollouts 2 --json"
    assert foretell(project, words).json()["weak"] == {"new": 180, "skipped": 180}


def test_imported_labels_are_counted(printed):
    assert printed["label"] == {"domain": "toy", "imported": 360}


def test_train_prints_where_the_probe_reads_and_how_well(printed, finished_project):
    trained = printed["train"]
    assert trained["probe"] == "toy@1"
    assert trained["train_size"] == 120
    assert (finished_project[0] / trained["folder"] / "card.json").is_file()
    assert trained["auroc"]["low"] <= trained["auroc"]["value"] <= trained["auroc"]["high"]
    # The direction is in the prompt and the noise is one in ten: far better than chance.
    assert trained["auroc"]["value"] > 0.75
    assert trained["nested"] is False


@pytest.mark.parametrize("metric", ["auroc", "apgr", "cpt50", "cpt80"])
def test_evaluate_prints_every_router_with_its_interval(printed, metric):
    leaves = printed["evaluate"][metric]
    assert set(leaves) >= ROUTERS
    for leaf in leaves.values():
        assert set(leaf) >= {"value", "low", "high", "n"}


def test_evaluate_writes_a_report_that_needs_no_network(finished_project):
    page = (finished_project[0] / "toy.html").read_text(encoding="utf-8")
    assert "foretell" in page
    assert 'src="http' not in page


def test_evaluate_tries_promises_gate_and_fewer_labels_on_the_test_queries(printed):
    evaluated = printed["evaluate"]
    assert [row["quality"] for row in evaluated["guarantees"]] == [0.9, 0.95, 1.0]
    assert all(row["promise"] for row in evaluated["guarantees"])
    assert 0 <= evaluated["gate"]["own"]["value"] <= 1
    learnt = evaluated["learning_curve"]["routers"]
    assert set(learnt) == {"probe", "tfidf", "embedding"}
    assert [point["labels"] for point in learnt["probe"]["points"]][-1] == 120


def test_train_tells_which_kind_won_and_what_stands_beside_it(printed):
    trained = printed["train"]
    assert trained["kind"] in {"linear", "several", "mix", "fusion"}
    assert trained["read_points"][-1] == trained["read_point"]
    assert trained["calibration"] in {"platt", "temperature", "beta", "isotonic"}
    assert 0 <= trained["gate"]["value"] <= 1
    assert set(trained["heads"]) == {"strong", "tokens", "reasons"}


def test_train_fits_the_kinds_that_are_asked_for(project):
    words = "train --domain toy --no-nested --kind linear --json"
    assert foretell(project, words).json()["kind"] == "linear"
    refused(foretell(project, "train --domain toy --kind cubic"), "cubic", "linear")


def test_evaluate_compares_the_routers_that_are_asked_for_and_attacks_the_probe(project):
    words = (
        "evaluate --domain toy --router tfidf --router cascade --no-learning-curve "
        "--robustness 12 --json"
    )
    evaluated = foretell(project, words).json()
    assert set(evaluated["auroc"]) == {"probe", "tfidf", "cascade"}
    assert evaluated["learning_curve"] is None
    assert {"typos", "upper", "whitespace", "confounder"} <= set(evaluated["robustness"])
    assert evaluated["robustness"]["typos"]["flipped"]["n"] == 12
    assert evaluated["confounder"]["text"]


def test_evaluate_refuses_what_it_cannot_compare(project):
    refused(foretell(project, "evaluate --domain toy --router astrology"), "astrology", "tfidf")
    refused(foretell(project, "evaluate --domain toy --router tfidf --ask judge"), "judge", "small")
    # The toy model cannot even read the question.
    refused(foretell(project, "evaluate --domain toy --router tfidf --ask small"), "context")
    words = "evaluate --domain toy --router tfidf --no-learning-curve --robustness 60"
    refused(foretell(project, words), "robustness", "72", "60")


def test_route_explains_one_decision(project):
    decision = foretell(project, "route", "Which town in the north is nr 1?", "--json").json()
    assert decision["action"] == "keep"
    assert decision["serve"] == "weak"
    assert decision["p_success"] >= decision["keep_at"]
    assert decision["router"] == "probe toy@1"
    assert decision["stopped_at"] is None
    assert decision["prefill_ms"] > 0
    assert "40%" in decision["keep_at_reason"]


def test_route_in_words_says_the_same(project):
    said = foretell(project, "route", "Which town in the north is nr 1?").out
    assert said.startswith("keep: the weak model would answer")
    assert "estimated by probe toy@1" in said


def test_a_kept_query_is_answered_by_the_weak_model(project):
    reply = foretell(
        project, "chat", "Which town in the north is nr 1?", "--max-tokens", "4", "--json"
    ).json()
    assert reply["model"] == "small"
    assert reply["decision"]["action"] == "keep"
    assert reply["usage"]["completion_tokens"] == 4
    assert reply["cost_usd"] > 0


def test_an_escalated_query_is_answered_by_the_strong_model(project):
    reply = foretell(project, "chat", "Which town in the south is nr 1?", "--json").json()
    assert reply["decision"]["action"] == "escalate"
    assert (reply["model"], reply["text"]) == ("large", "town q001")


def test_chat_streams_the_answer_alone_on_stdout(project):
    chat = foretell(project, "chat", "Which town in the south is nr 1?")
    assert chat.out == "town q001\n"
    assert "escalate: answered by large" in chat.err


def test_earlier_messages_come_from_a_file(project):
    (project / "before.json").write_text('[{"role": "system", "content": "Be brief."}]')
    words = "route 'Which town in the north is nr 1?' --messages before.json --json"
    assert foretell(project, words).json()["p_success"] is not None


@pytest.mark.parametrize("router", ["tfidf", "length", "keyword", "random", "weak", "strong"])
def test_a_route_takes_other_routers_too(project, router):
    write_config(project, changed(CONFIG, routes__auto__router=router))
    decision = foretell(project, "route", "Which town in the north is nr 1?", "--json").json()
    assert decision["router"] == router
    assert decision["prefill_ms"] is None


def test_labels_by_code_are_counted_by_role_and_reason(project):
    words = "label --domain toy --labeller regex --option pattern=town --json"
    labelled = foretell(project, words).json()
    assert labelled["strong"] == {
        "queries": 180,
        "labelled": 180,
        "success_rate": 1.0,
        "reasons": {},
    }
    assert labelled["weak"]["success_rate"] is None  # all cut off after four tokens
    assert labelled["weak"]["reasons"] == {"truncated": 180}


def test_training_again_makes_the_next_version_and_both_are_listed(project):
    foretell(project, "train --domain toy --no-nested --json").json()
    listed = foretell(project, "probes", "ls", "--json").json()["probes"]
    assert [probe["probe"] for probe in listed] == ["toy@1", "toy@2"]
    assert foretell(project, "probes", "show", "toy").json()["version"] == 2
    assert foretell(project, "probes", "show", "toy@1").json()["version"] == 1
    assert "toy@2" in foretell(project, "probes", "ls").out


def test_nested_training_measures_the_selection_too(project):
    trained = foretell(project, "train --domain toy --nested --seed 1 --json").json()
    assert trained["nested"] is True


def test_what_is_stored_can_be_counted_and_erased(project):
    (row,) = foretell(project, "data", "stats", "--json").json()["domains"]
    assert row == {"domain": "toy", "queries": 180, "weak": 180, "strong": 180, "outcomes": 360}
    assert "180 queries erased" in foretell(project, "data delete --domain toy --yes").out
    assert foretell(project, "data", "stats", "--json").json()["domains"] == []
    assert not list((project / "vectors").rglob("*.parquet"))


def test_doctor_finds_that_the_probe_fits(project):
    report = foretell(project, "doctor", "-c", "foretell.yaml", "--json").json()
    assert report["ok"] is True
    details = {finding["subject"]: finding["detail"] for finding in report["findings"]}
    assert "the probe fits the served model" in details["routes.auto"]


def test_doctor_names_what_is_wrong_and_the_cure(fresh_project):
    examined = foretell(fresh_project, "doctor", "-c", "foretell.yaml")
    assert examined.code == 1
    assert "foretell train --domain toy" in examined.out


def test_the_configuration_can_be_checked_and_shown(project):
    assert foretell(project, "config", "validate").out == "foretell.yaml is fine\n"
    shown = foretell(project, "config", "show").json()
    assert shown["routes"]["auto"]["goal"] == {"strong_share": 0.4}
    assert shown["server"]["port"] == 8400
    assert foretell(project, "config", "schema").json()["properties"]["routes"]


def test_the_cache_is_listed_and_emptied(tmp_path, monkeypatch):
    monkeypatch.setenv("FORETELL_CACHE", str(tmp_path / "cache"))
    assert foretell(tmp_path, "models", "ls", "--json").json() == {"models": []}
    assert "empty" in foretell(tmp_path, "models", "ls").out


def test_numbers_that_are_not_defined_are_null(project):
    weak_only = [
        line
        for line in (project / "outcomes.jsonl").read_text().splitlines()
        if json.loads(line)["role"] == "weak"
    ]
    foretell(project, "data delete --domain toy --yes")
    foretell(project, "collect --domain toy --input queries.jsonl --max-tokens 2")
    (project / "weak.jsonl").write_text("\n".join(weak_only) + "\n")
    foretell(project, "label --domain toy --labeller import --option file=weak.jsonl")
    evaluated = foretell(project, "evaluate --domain toy --json").json()
    assert evaluated["auroc"]["probe"]["value"] is not None
    # Without a strong model there is no gap to win back.
    assert {leaf["value"] for leaf in evaluated["apgr"].values()} == {None}
