"""More than two models on the command line, a limit of the depth, and explanations."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretell.prefill.engines.recorded import write_recording
from foretell.records import Query
from toy_project import (
    CONFIG,
    changed,
    foretell,
    refused,
    strong_observations,
    write_config,
    write_lines,
    write_project,
)

COLLECT = "collect --domain toy --input queries.jsonl --with-pool --max-tokens 4 --json"
IMPORT = "label --domain toy --labeller import --option file=outcomes.jsonl --json"
TRAIN = "train --domain toy --no-nested --kind linear --json"


def recorded(path: str) -> dict[str, Any]:
    return {"engine": "recorded", "path": path, "price": {"input": 0.5, "output": 2}}


def pooled_config() -> dict[str, Any]:
    config = changed(CONFIG, routes__auto__pool=["mid"], routes__auto__strong=["large", "spare"])
    config["models"] |= {"mid": recorded("mid.jsonl.gz"), "spare": recorded("spare.jsonl.gz")}
    return config


def record(path: Path, name: str, queries: list[Query]) -> None:
    """A model of that name, which says ``town`` of the north and nothing of the rest."""
    write_recording(
        path,
        [
            replace(
                seen,
                answer=replace(
                    seen.answer, model=name, text="town" if "north" in seen.query.text else "?"
                ),
            )
            for seen in strong_observations(queries)
        ],
    )


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    folder = tmp_path_factory.mktemp("pooled")
    queries = write_project(folder, pooled_config())
    for name in ("mid", "spare"):
        record(folder / f"{name}.jsonl.gz", f"{name}-1", queries)
    return folder, foretell(folder, COLLECT).json()


@pytest.fixture
def project(collected: tuple[Path, Mapping[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(collected[0], tmp_path / "project"))


def label_mid(project: Path) -> None:
    """Outcomes of the middle model: it is right about the north."""
    lines = [
        {"id": f"q{i:03}", "role": "strong", "metric": "right", "value": int(i % 3 == 0)}
        | {"source": "code"}
        for i in range(180)
    ]
    write_lines(project / "mid-outcomes.jsonl", lines)
    foretell(
        project,
        "label --domain toy --labeller import --option file=mid-outcomes.jsonl --strong mid --json",
    ).json()


def test_every_model_of_the_pool_is_asked(collected):
    counts = {"new": 180, "skipped": 0}
    assert collected[1] == {
        "domain": "toy",
        "queries": 180,
        "weak": counts,
        "strong": counts,
        "pool": {"spare": counts, "mid": counts},
    }


def test_what_is_imported_is_about_the_first_strong_model(project):
    """Though another one answered last."""
    foretell(project, IMPORT).json()
    trained = foretell(project, TRAIN).json()
    assert trained["heads"]["strong"]["auroc"]["n"] == 120
    assert trained["pool"] == {}
    assert "known for 0 of 120" in trained["heads"]["reasons"]["pool.mid"]


def test_a_member_of_the_pool_is_foretold_once_its_answers_are_labelled(project):
    foretell(project, IMPORT).json()
    label_mid(project)
    trained = foretell(project, TRAIN).json()
    assert set(trained["pool"]) == {"mid"}
    assert trained["pool"]["mid"]["auroc"]["n"] == 120
    # The direction is in the prompt, and nothing else decides about mid.
    assert trained["pool"]["mid"]["auroc"]["value"] > trained["auroc"]["value"]
    said = foretell(project, TRAIN.removesuffix(" --json")).out
    assert "foretells mid, too: AUROC" in said


def test_another_strong_model_may_be_named(project):
    foretell(project, IMPORT).json()
    label_mid(project)
    by_default = foretell(project, TRAIN).json()["heads"]["strong"]["auroc"]
    by_name = foretell(project, f"{TRAIN} --strong large --weak small").json()
    assert by_name["heads"]["strong"]["auroc"] == by_default
    mid = foretell(project, f"{TRAIN} --strong mid").json()
    assert mid["heads"]["strong"]["auroc"]["value"] > by_default["value"]
    assert mid["pool"] == {}
    refused(foretell(project, f"{TRAIN} --strong nobody"), "nobody", "large, mid, small, spare")
    refused(foretell(project, f"{TRAIN} --weak large"), "big-1", "no activations")


def test_evaluate_takes_the_first_strong_model_of_several(project):
    foretell(project, IMPORT).json()
    label_mid(project)
    words = "evaluate --domain toy --router length --no-learning-curve --json"
    default = foretell(project, words).json()
    large = foretell(project, f"{words} --strong large").json()
    mid = foretell(project, f"{words} --strong mid").json()
    assert default["apgr"] == large["apgr"]
    assert default["apgr"] != mid["apgr"]


def test_without_a_route_of_the_domain_the_choice_is_the_users(project):
    foretell(project, IMPORT).json()
    label_mid(project)
    write_config(project, changed(pooled_config(), routes__auto__domain="elsewhere"))
    refused(foretell(project, TRAIN), "several models", "big-1", "mid-1")
    assert foretell(project, f"{TRAIN} --route auto").json()["heads"]["strong"]
    assert foretell(project, f"{TRAIN} --strong large").json()["heads"]["strong"]


def test_a_limit_of_the_depth_is_kept_and_its_cost_printed(project):
    foretell(project, IMPORT).json()
    trained = foretell(project, f"{TRAIN} --max-depth 0.5").json()
    depth = trained["depth"]
    assert trained["read_point"].startswith("layer1_")  # the second of four
    assert depth["share"] == 0.5
    assert depth["auroc"] <= depth["unlimited_auroc"]
    said = foretell(project, f"{TRAIN.removesuffix(' --json')} --max-depth 0.5").out
    assert f"AUROC {depth['auroc']:.3f}; without the limit" in " ".join(said.split())
    refused(foretell(project, f"{TRAIN} --max-depth 0.1"), "first 0.1", "--read-point")


def test_a_decision_is_explained_to_programs_and_to_people(project):
    foretell(project, IMPORT).json()
    label_mid(project)
    foretell(project, TRAIN).json()
    asked = "Which town in the north is nr 4?"
    routed = foretell(project, "route --json", asked).json()
    explained = routed["explanation"]
    assert routed["p_pool"]["mid"] - routed["p_success"] == explained["pool_gains"]["mid"]
    assert explained["threshold"]["reason"] == routed["keep_at_reason"]
    assert explained["probe"]["name"] == "toy@1"
    assert len(explained["neighbours"]) == 10
    assert {near["text"] for near in explained["neighbours"]} == {None}
    assert {near["strong"] for near in explained["neighbours"]} <= {0.0, 1.0}
    assert {change["name"] for change in explained["changes"]} >= {"p_success", "strong_share"}
    assert explained["estimate"]["n"] >= 50
    said = " ".join(foretell(project, "route --with-text", asked).out.split())
    assert "held-out queries with chances from" in said
    assert "mid is " in said
    assert "most alike in training" in said
    assert "Which town in the" in said
    assert "if the goal were a strong share of" in said


def test_a_router_that_reads_the_text_is_explained_as_far_as_it_goes(project):
    foretell(project, IMPORT).json()
    write_config(project, changed(pooled_config(), routes__auto__router="length"))
    explained = foretell(project, "route --json", "Which town in the north is nr 4?").json()
    assert explained["explanation"]["estimate"]["n"] > 0
    assert set(explained["explanation"]["missing"]) == {"probe", "neighbours", "tokens"}
    said = foretell(project, "route", "Which town in the north is nr 4?").out
    assert "held-out queries" in said
