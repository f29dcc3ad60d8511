from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest

from foretell.errors import InputError, ProbeFileError, TrainingDataError
from foretell.probes import load_probe
from foretell.records import Outcome, ReadPoint
from foretell.runtime import (
    Bar,
    early_looks,
    early_probes,
    probe_versions,
    serving_probe,
    the_metric,
    train_probe,
    trained_domains,
)

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def train(store, folder, **options):
    return train_probe(store, "toy", folder, now=NOW, nested=False, **options)


def test_the_first_probe_is_version_one_and_each_further_one_the_next(labelled_store, tmp_path):
    folder = tmp_path / "probes"
    first, second = train(labelled_store, folder), train(labelled_store, folder, seed=1)
    assert (first.card.name, second.card.name) == ("toy@1", "toy@2")
    assert probe_versions(folder, "toy") == [1, 2]
    assert serving_probe(folder, "toy").card == second.card
    assert load_probe(folder / "toy" / "1").card == first.card
    assert trained_domains(folder) == ["toy"]


def test_a_probe_carries_the_evidence_that_goals_need(labelled_store, tmp_path, engine):
    trained = train(labelled_store, tmp_path / "probes")
    saved = serving_probe(tmp_path / "probes", "toy")
    assert saved.card.created.startswith("2030-01-02")
    assert saved.card.model == engine.identity
    assert len(saved.held_out.p_success) == 120
    # Numbers 0, 5, 10, … fail: one in five.
    assert saved.held_out.strong.mean() == pytest.approx(0.8)
    np.testing.assert_array_equal(saved.held_out.p_success, trained.selection.p_success)


def test_the_same_seed_makes_the_same_probe(labelled_store, tmp_path):
    first, again = (train(labelled_store, tmp_path / name, seed=3) for name in "ab")
    assert first.card.weights_sha256 == again.card.weights_sha256


def test_progress_is_told_to_the_end(labelled_store, tmp_path):
    told = []
    train(labelled_store, tmp_path / "probes", progress=lambda *counts: told.append(counts))
    assert told[-1][0] == told[-1][1]


def test_early_probes_lie_below_the_chosen_one_and_rarely_stop_a_keep(labelled_store, tmp_path):
    folder = tmp_path / "probes"
    trained = train(labelled_store, folder)
    saved = serving_probe(folder, "toy")
    early = early_probes(folder, saved)
    assert [probe.card for probe in early] == sorted(
        trained.early, key=lambda card: card.read_point
    )
    for probe in early:
        assert probe.card.read_point.layer < saved.card.read_point.layer
    keep_at = float(np.median(saved.held_out.p_success))
    bar = Bar(keep_at=keep_at, reason="for the test")
    kept = bar.keeps(saved.held_out)
    stopped = np.zeros(len(kept), dtype=bool)
    for look, probe in zip(early_looks(saved.held_out, early, bar), early, strict=True):
        stopped |= probe.held_out.p_success < look.bar
    assert (stopped & kept).sum() <= 0.04 * kept.sum()


def test_looks_are_by_gain_where_the_bar_is(labelled_store, tmp_path):
    folder = tmp_path / "probes"
    train(labelled_store, folder)
    saved = serving_probe(folder, "toy")
    early = early_probes(folder, saved)
    bar = Bar(keep_at=0.9, least_gain=0.1, reason="for the test")
    kept = bar.keeps(saved.held_out)
    stopped = np.zeros(len(kept), dtype=bool)
    for look, probe in zip(early_looks(saved.held_out, early, bar), early, strict=True):
        assert look.strong is probe.heads.strong
        stopped |= probe.held_out.p_success - probe.held_out.p_strong < look.bar
    assert stopped.any()
    assert (stopped & kept).sum() <= 0.04 * kept.sum()


def test_what_a_crash_left_of_a_version_is_not_taken_for_a_part_of_it(labelled_store, tmp_path):
    folder = tmp_path / "probes"
    trained = train(labelled_store, folder)
    # As if the first training had died before the version itself was written, and had chosen
    # another early read point than the second one will.
    shutil.rmtree(trained.folder)
    (folder / "toy" / "1.early" / "layer0_last").mkdir(parents=True, exist_ok=True)
    again = train(labelled_store, folder)
    assert again.card.version == 1
    names = {probe.card.read_point for probe in early_probes(folder, serving_probe(folder, "toy"))}
    assert names == {card.read_point for card in again.early}


def test_there_is_no_probe_before_training(tmp_path):
    assert probe_versions(tmp_path, "toy") == []
    assert trained_domains(tmp_path / "nowhere") == []
    with pytest.raises(ProbeFileError, match="foretell train --domain toy"):
        serving_probe(tmp_path, "toy")


@pytest.mark.parametrize("domain", ["", ".", "..", "../toy", "a/b", "/etc", ".hidden"])
def test_a_domain_never_leads_out_of_the_folder(domain, tmp_path):
    with pytest.raises(InputError, match="cannot name a folder"):
        serving_probe(tmp_path, domain)


def test_the_only_metric_need_not_be_named(labelled_store):
    assert the_metric(labelled_store, "toy", None) == "right"
    assert the_metric(labelled_store, "toy", "right") == "right"


def test_a_choice_of_metrics_is_the_callers(labelled_store):
    labelled_store.put_outcomes(
        [
            Outcome(
                domain="toy",
                query_id="q000",
                role="weak",
                metric="taste",
                value=1.0,
                source="human",
            )
        ]
    )
    with pytest.raises(TrainingDataError, match="right, taste; name one"):
        the_metric(labelled_store, "toy", None)
    with pytest.raises(TrainingDataError, match="not by 'colour' but by right, taste"):
        the_metric(labelled_store, "toy", "colour")


def test_without_labels_there_is_nothing_to_train_on(store, tmp_path):
    with pytest.raises(TrainingDataError, match="run foretell label first"):
        train(store, tmp_path / "probes")
    assert not (tmp_path / "probes").exists()


def test_the_chosen_read_point_is_one_that_was_collected(labelled_store, tmp_path):
    chosen = train(labelled_store, tmp_path / "probes").card.read_point
    assert chosen in labelled_store.load_routing_data("toy").activations
    assert isinstance(chosen, ReadPoint)
