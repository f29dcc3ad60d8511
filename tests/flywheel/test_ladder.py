from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from foretell import Foretell
from foretell.config import Config
from foretell.errors import InputError, ModelFileError, TrainingDataError
from foretell.flywheel import LadderReport, climb, promote_probe
from foretell.prefill.engines.tiny import TinyEngine
from foretell.records import (
    Answer,
    ModelIdentity,
    Observation,
    Outcome,
    Query,
    ReadPoint,
    RequestRecord,
    Sampling,
    Usage,
)
from foretell.runtime import (
    collect,
    default_read_points,
    engine_key,
    ladder_subject,
    observer_of_engine,
    probe_versions,
    serving_version,
    shadow_version,
)
from foretell.store import Store, model_key
from toy_project import CONFIG, changed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
POINTS = (ReadPoint(1), ReadPoint(2))


def identity(weights: str) -> ModelIdentity:
    return ModelIdentity(
        source="toy",
        weights_sha256=weights * 64,
        chat_template_sha256="b" * 64,
        n_layers=4,
        width=6,
        engine="recorded",
    )


MODEL = identity("a")
KEY = model_key(MODEL)


class TwoWords:
    """A sentence encoder that sees the first two words of a text, and no more."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        seen = [[1, "Which" in text or -1, "apple" in text or -1] for text in texts]
        vectors = np.asarray(seen, dtype=np.float32).reshape(-1, 3)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretell.routers._embedding.shared_sentence_encoder", TwoWords)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path) as store:
        yield store


def opened(folder: Path) -> Store:
    return Store.open(f"sqlite:///{folder / 'foretell.db'}", folder / "vectors")


def configured(folder: Path, *, shadow_labels: int = 0, **changes: Any) -> Config:
    """A route ``auto`` with the router ``auto``; without a trial its first probe serves at once."""
    changes = {
        "routes__auto__router": "auto",
        "routes__auto__goal": {"strong_share": 0.4},
    } | changes
    settings = changed(CONFIG, **changes)
    settings["models"]["large"]["path"] = str(folder / "strong.jsonl.gz")
    settings["store"] = {
        "url": f"sqlite:///{folder / 'foretell.db'}",
        "vectors": str(folder / "vectors"),
    }
    settings["probes"] = {"dir": str(folder / "probes")}
    settings["flywheel"] = {"refit": {"shadow_labels": shadow_labels}}
    return Config(**settings)


class Domain:
    """Queries of which three facts are known, each seen by one kind of router more.

    A rule sees whether the question begins with "Which", an encoder the second word, too, and
    activations the last one besides. ``tells`` is the log-odds that each fact is worth.
    """

    def __init__(
        self,
        n: int,
        *,
        tells: tuple[float, float, float] = (0.0, 0.0, 0.0),
        by_length: float = 0.0,
        seed: int = 0,
        text: bool = True,
        vectors: bool = True,
    ) -> None:
        rng = np.random.default_rng(seed)
        facts = rng.choice([-1.0, 1.0], size=(n, 3))
        self.lengths = rng.integers(10, 200, size=n)
        spread = (np.log(self.lengths) - 4.3) / 0.8
        log_odds = facts @ np.array(tells) + by_length * spread
        self.succeeded = rng.random(n) < 1 / (1 + np.exp(-log_odds))
        self.noise = rng.normal(size=(n, 3))
        self.facts, self.text, self.vectors = facts, text, vectors
        self.queries = [
            Query(
                id=f"q{i:04}",
                messages=({"role": "user", "content": self._asked(i) if text else ""},),
                split="test" if i % 4 == 3 else "train",
            )
            for i in range(n)
        ]

    def _asked(self, i: int) -> str:
        first, second, last = (
            words[0 if fact > 0 else 1]
            for words, fact in zip(
                (("Which", "Could"), ("apple", "stone"), ("north", "south")),
                self.facts[i],
                strict=True,
            )
        )
        return f"{first} {second} is nr {i:04} in the {last}?"

    def observations(self, model: ModelIdentity = MODEL) -> list[Observation]:
        rows = np.hstack([self.facts, self.noise]).astype(np.float32)
        return [
            Observation(
                domain="toy",
                query=query,
                role="weak",
                model=model,
                answer=Answer(
                    text="",
                    model="small",
                    finish_reason="stop",
                    usage=Usage(prompt_tokens=20, completion_tokens=2),
                ),
                activations=dict.fromkeys(POINTS, rows[i]) if self.vectors else {},
                own_tokens=int(self.lengths[i]),
            )
            for i, query in enumerate(self.queries)
        ]

    def label(
        self,
        store: Store,
        start: int,
        stop: int,
        *,
        metric: str = "right",
        source: Literal["code", "judge"] = "code",
    ) -> None:
        store.put_outcomes(
            Outcome(
                domain="toy",
                query_id=self.queries[i].id,
                role="weak",
                metric=metric,
                value=float(self.succeeded[i]),
                source=source,
            )
            for i in range(start, min(stop, len(self.queries)))
        )

    def stored_in(self, store: Store, *, labels: int | None = None) -> Domain:
        store.append(self.observations())
        self.label(store, 0, len(self.queries) if labels is None else labels)
        return self


def look(store: Store, config: Config, **options: Any) -> LadderReport:
    return climb(store, config, "auto", "toy", now=NOON, by="test", **options)


def steps_taken(store: Store) -> list[str]:
    """Oldest first."""
    events = store.events(kind="ladder", subject=ladder_subject("auto", "toy"))
    return [event.details["step"] for event in reversed(events) if event.details["came_from"]]


def test_a_route_climbs_from_the_start_to_the_probe_as_labels_arrive(tmp_path):
    """The whole way, on a real engine, and what a caller is served at each step."""
    domain = Domain(400, tells=(2.6, 1.6, 2.4), seed=1)
    config = configured(tmp_path)
    engine = TinyEngine()
    with Foretell(config) as ft, ft.open_store() as store:
        collect(
            store,
            domain.queries,
            observer_of_engine(engine, default_read_points(engine.identity)[-2:]),
            domain="toy",
            role="weak",
            key=engine_key(engine),
            sampling=Sampling(max_tokens=1),
        )
        served, reports = [], []
        labelled = 0
        for labels in (0, 40, 200, 300, 400):
            domain.label(store, labelled, labels)
            labelled = labels
            reports.append(look(store, config))
            with Foretell(config) as opened_anew:
                opened_anew.open_model = lambda *_, **__: None  # nothing is answered here
                served.append(opened_anew.route(domain.queries[0].messages).router)
    assert served[:2] == ["start", "start"]
    assert served[-1] == "probe toy@1"
    order = ["start", "keyword", "embedding", "probe toy@1"]
    assert [order.index(router) for router in served] == sorted(map(order.index, served))
    assert set(served) == set(order)
    assert [report.step for report in reports] == [router.split()[0] for router in served]
    moves = [(report.came_from, report.step) for report in reports if report.moved]
    assert moves == [("start", "keyword"), ("keyword", "embedding"), ("embedding", "probe")]


def test_what_was_decided_is_noted_with_the_numbers_behind_it(store, tmp_path):
    Domain(120, tells=(3.0, 0.0, 0.0)).stored_in(store)
    report = look(store, configured(tmp_path))
    (event,) = store.events(kind="ladder")
    assert (event.subject, event.by, event.at) == ("auto/toy", "test", NOON.timestamp())
    noted = event.details
    assert (noted["step"], noted["came_from"], noted["looks"]) == ("keyword", "start", 0)
    assert (noted["weak_model"], noted["metric"], noted["labels"]) == (KEY, "right", 90)
    assert noted["words"] == report.words
    keyword = next(one for one in noted["evidence"] if one["step"] == "keyword")
    assert keyword["low"] > 0
    assert report.words.startswith("went up from start to keyword: keyword is ahead of start by 0.")


def test_a_domain_of_which_no_text_tells_anything_goes_straight_to_the_probe(store, tmp_path):
    Domain(320, tells=(0.0, 0.0, 3.0)).stored_in(store)
    report = look(store, configured(tmp_path))
    assert (report.came_from, report.step) == ("start", "probe")
    assert [one.step for one in report.evidence] == ["keyword", "length", "embedding", "probe"]
    assert serving_version(tmp_path / "probes", "toy") == 1


def test_of_one_rung_the_better_step_is_taken(store, tmp_path):
    Domain(200, by_length=2.5, tells=(0.7, 0.0, 0.0)).stored_in(store)
    assert look(store, configured(tmp_path)).step == "length"


def test_coin_tosses_move_nothing(tmp_path):
    """One route in twenty may be moved by chance before it has seen ever so many labels."""
    for seed in range(5):
        with opened(tmp_path / str(seed)) as store:
            Domain(80, seed=seed, vectors=False).stored_in(store)
            report = look(store, configured(tmp_path))
        assert (report.looked, report.step) == (True, "start")


def test_without_texts_the_steps_that_read_them_are_skipped_for_that_reason(store, tmp_path):
    Domain(220, by_length=2.5, tells=(3.0, 0.0, 0.0), text=False).stored_in(store)
    report = look(store, configured(tmp_path))
    assert report.step == "length"
    assert set(report.skipped) == {"keyword", "embedding"}
    assert "only 0 of 165 labelled training queries have theirs" in report.skipped["keyword"]


def test_without_vectors_there_is_no_probe_to_try(store, tmp_path):
    Domain(300, tells=(0.0, 0.0, 3.0), vectors=False).stored_in(store)
    report = look(store, configured(tmp_path))
    assert report.step == "start"
    assert "no activations are kept; set store.traffic.vectors to full" in report.skipped["probe"]
    assert "probe has to wait: no activations" in report.words


def test_a_step_whose_model_cannot_be_fetched_is_passed_over(store, tmp_path, monkeypatch):
    def offline() -> None:
        raise ModelFileError("the weights cannot be fetched")

    monkeypatch.setattr("foretell.routers._embedding.shared_sentence_encoder", offline)
    Domain(320, tells=(0.0, 0.0, 3.0)).stored_in(store)
    report = look(store, configured(tmp_path))
    assert report.step == "probe"
    assert report.skipped["embedding"] == "the weights cannot be fetched"


def test_between_looks_nothing_is_compared_and_what_is_needed_falls(store, tmp_path):
    config = configured(tmp_path)
    domain = Domain(200, tells=(0.9, 0.0, 0.0), seed=2).stored_in(store, labels=72)
    first = look(store, config)
    assert (first.looked, first.moved, first.labels) == (True, False, 54)
    domain.label(store, 72, 88)
    told: list[str] = []
    second = look(store, config, progress=told.append)
    assert (second.looked, second.labels, told) == (False, 66, [])
    assert second.evidence == first.evidence
    assert first.labels_needed is not None
    assert second.labels_needed is not None
    assert second.labels_needed < first.labels_needed
    assert len(store.events(kind="ladder")) == 1
    # Half as many again are 81 for training, which 108 labels are.
    domain.label(store, 88, 108)
    assert look(store, config, progress=told.append).looked
    assert told[0] == "comparing keyword with start"


def test_later_looks_ask_for_more_and_share_their_error_among_the_steps(store, tmp_path):
    config = configured(tmp_path)
    domain = Domain(160, seed=3).stored_in(store, labels=72)
    (keyword, length) = look(store, config).evidence
    assert keyword.level == length.level == pytest.approx(0.05 / 2 / 2)
    domain.label(store, 72, 160)
    assert [one.level for one in look(store, config).evidence] == pytest.approx([0.05 / 6 / 3] * 3)


def test_a_step_that_is_worse_than_the_one_below_is_left(store, tmp_path):
    Domain(260, tells=(3.0, 0.0, 0.0), vectors=False).stored_in(store)
    details = {"step": "embedding", "weak_model": KEY, "metric": "right", "looks": 0, "labels": 60}
    store.note("ladder", "auto/toy", by="test", details=details, at=1.0)

    class Misleading(TwoWords):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            rng = np.random.default_rng(sum(map(len, texts)))
            return rng.normal(size=(len(texts), 60)).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foretell.routers._embedding.shared_sentence_encoder", Misleading)
        report = look(store, configured(tmp_path))
    assert (report.came_from, report.step) == ("embedding", "keyword")
    assert report.words.startswith("went back from embedding to keyword: keyword is ahead of")


def test_another_weak_model_begins_at_the_start(store, tmp_path):
    config = configured(tmp_path)
    domain = Domain(120, tells=(3.0, 0.0, 0.0)).stored_in(store)
    assert look(store, config).step == "keyword"
    other = identity("c")
    store.append(domain.observations(other)[:8])
    swapped = look(store, config)
    assert (swapped.step, swapped.weak_model) == ("start", model_key(other))
    assert look(store, config, weak_model=KEY).step == "keyword"


def test_the_weak_model_is_that_of_the_newest_request(store, tmp_path):
    Domain(80).stored_in(store)
    record = RequestRecord(
        id="r1",
        at=NOON.timestamp(),
        key_id="",
        route="auto",
        domain="toy",
        model="large",
        serve="strong",
        action="escalate",
        cause=None,
        status=200,
        streamed=False,
        weak_model="sha256:new",
    )
    store.append_requests([record])
    report = look(store, configured(tmp_path))
    assert (report.weak_model, report.labels) == ("sha256:new", 0)
    assert report.words == "start: the weak model has answered nothing yet"


@pytest.mark.parametrize(
    ("labels", "said", "needed"),
    [
        (0, "start: nothing is labelled yet", None),
        # 30 for training, 20 short of 50; of four labels three are for training.
        (40, "start: about 27 more labels are needed to compare keyword", 27),
    ],
)
def test_too_few_labels_are_counted_down(store, tmp_path, labels, said, needed):
    Domain(80, vectors=False).stored_in(store, labels=labels)
    report = look(store, configured(tmp_path))
    assert (report.words, report.labels_needed, report.looked) == (said, needed, False)
    assert not store.events(kind="ladder")


def test_an_empty_store_is_the_start(store, tmp_path):
    report = look(store, configured(tmp_path))
    assert (report.step, report.weak_model, report.labels) == ("start", None, 0)
    assert report.words == "start: the weak model has answered nothing yet"


def test_outcomes_that_are_all_alike_compare_nothing(store, tmp_path):
    domain = Domain(120, vectors=False)
    domain.succeeded[:] = True
    domain.stored_in(store)
    report = look(store, configured(tmp_path))
    assert not report.looked
    assert "it takes 10 successes and as many failures" in report.words


def test_a_first_probe_is_taken_once_its_trial_is_over(store, tmp_path):
    config = configured(tmp_path, shadow_labels=50)
    Domain(320, tells=(0.0, 0.0, 3.0)).stored_in(store)
    waits = look(store, config)
    assert (waits.step, waits.next_step, waits.moved) == ("start", "probe", False)
    assert "toy@1 is not promoted yet" in waits.skipped["probe"]
    assert waits.labels_needed is None
    assert serving_version(tmp_path / "probes", "toy") is None
    assert look(store, config).step == "start"
    promote_probe(store, "toy", tmp_path / "probes", 1, by="somebody", now=NOON)
    taken = look(store, config)
    assert (taken.came_from, taken.step, taken.looked) == ("start", "probe", False)
    assert steps_taken(store) == ["probe"]


def test_a_first_probe_is_tried_again_as_soon_as_trusted_labels_can_judge_it(store, tmp_path):
    config = configured(tmp_path)
    domain = Domain(320, tells=(0.0, 0.0, 3.0)).stored_in(store, labels=0)
    domain.label(store, 0, 320, source="judge")
    waits = look(store, config)
    assert (waits.step, waits.next_step) == ("start", "probe")
    assert "0 in 0 groups" in waits.skipped["probe"]
    assert "--labeller people" in waits.skipped["probe"]
    domain.label(store, 0, 80)  # 20 of them for testing, which is too few
    assert not look(store, config).moved
    assert len(store.events(kind="ladder")) == 1  # nothing was tried
    domain.label(store, 80, 160)
    taken = look(store, config)
    assert (taken.came_from, taken.step, taken.looked) == ("start", "probe", False)
    assert taken.evidence == waits.evidence
    assert serving_version(tmp_path / "probes", "toy") == 1


def test_a_first_probe_that_was_tried_again_and_waits_spends_no_look(store, tmp_path):
    config = configured(tmp_path, shadow_labels=50)
    domain = Domain(320, tells=(0.0, 0.0, 3.0)).stored_in(store, labels=0)
    domain.label(store, 0, 280, source="judge")
    look(store, config)
    domain.label(store, 280, 320, source="judge")
    domain.label(store, 0, 160)
    waits = look(store, config)
    assert (waits.moved, waits.looked) == (False, False)
    assert "toy@1 is not promoted yet" in waits.skipped["probe"]
    newest, first = store.events(kind="ladder")
    assert newest.details["words"] == waits.words
    assert [newest.details[name] for name in ("looks", "labels")] == [1, 210]
    assert [first.details[name] for name in ("looks", "labels")] == [1, 210]
    look(store, config)
    assert len(store.events(kind="ladder")) == 2  # it is on trial now


def test_a_later_look_does_not_end_the_trial_of_a_first_probe(store, tmp_path):
    config = configured(tmp_path, shadow_labels=50)
    domain = Domain(640, tells=(0.0, 0.0, 3.0)).stored_in(store, labels=320)
    look(store, config)
    assert shadow_version(tmp_path / "probes", "toy") == 1
    domain.label(store, 320, 640)
    later = look(store, config)
    assert later.looked
    assert later.skipped["probe"] == "it is ahead, and toy@1 is still on trial"
    assert shadow_version(tmp_path / "probes", "toy") == 1
    assert probe_versions(tmp_path / "probes", "toy") == [1]


def test_only_a_route_that_finds_its_own_router_has_a_ladder(store, tmp_path):
    config = configured(tmp_path, routes__auto__router="probe")
    with pytest.raises(InputError, match="route 'auto' has router 'probe'"):
        look(store, config)
    with pytest.raises(InputError, match="no route is called 'other'; known are auto"):
        climb(store, config, "other", "toy", now=NOON, by="test")


def test_of_several_kinds_of_labels_one_must_be_named_until_a_look_has_settled_it(store, tmp_path):
    config = configured(tmp_path)
    domain = Domain(120, tells=(3.0, 0.0, 0.0), vectors=False).stored_in(store)
    domain.label(store, 0, 40, metric="polite")
    with pytest.raises(TrainingDataError, match="polite, right"):
        look(store, config)
    assert look(store, config, metric="right").step == "keyword"
    assert look(store, config).metric == "right"
