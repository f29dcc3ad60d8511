from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretell.errors import InputError, ProbeFileError
from foretell.probes import Provenance, load_probe
from foretell.runtime import (
    Pointers,
    early_probes,
    export_probe,
    load_pointers,
    load_version,
    locked,
    probe_versions,
    promote,
    refitting,
    roll_back,
    served_domains,
    serving_probe,
    serving_version,
    set_shadow,
    shadow_probe,
    shadow_version,
    train_probe,
    trained_domains,
)
from foretell.store import Store

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="session")
def trained_folder(labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of a probe, as they were before there were pointers."""
    folder = tmp_path_factory.mktemp("trained") / "probes"
    vectors = labelled_folder / "vectors"
    with Store.open(f"sqlite:///{labelled_folder / 'foretell.db'}", vectors) as store:
        train_probe(store, "toy", folder, now=NOW, nested=False, kinds=("linear",))
    (folder / "toy" / "serving.json").unlink()
    for version in (2, 3):
        copy = shutil.copytree(folder / "toy" / "1", folder / "toy" / str(version))
        card = json.loads((copy / "card.json").read_text())
        (copy / "card.json").write_text(json.dumps({**card, "version": version}))
    return folder


@pytest.fixture
def folder(trained_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_folder, tmp_path / "probes"))


def test_without_pointers_the_newest_version_serves(folder):
    assert load_pointers(folder, "toy") == Pointers(serving=3)
    assert serving_probe(folder, "toy").card.version == 3
    assert shadow_probe(folder, "toy") is None


def test_what_is_promoted_serves_and_what_served_can_be_gone_back_to(folder):
    assert promote(folder, "toy", 1) == Pointers(serving=1, previous=(3,))
    assert promote(folder, "toy", 2) == Pointers(serving=2, previous=(3, 1))
    assert serving_probe(folder, "toy").card.name == "toy@2"
    assert [roll_back(folder, "toy"), roll_back(folder, "toy")] == [1, 3]
    assert load_pointers(folder, "toy") == Pointers(serving=3)
    with pytest.raises(InputError, match="nothing served domain 'toy' before toy@3"):
        roll_back(folder, "toy")


def test_promoting_what_serves_changes_nothing(folder):
    promote(folder, "toy", 1)
    assert promote(folder, "toy", 1) == Pointers(serving=1, previous=(3,))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from([1, 2, 3]), max_size=6))
def test_rolling_back_undoes_promotions_one_by_one(trained_folder, tmp_path, versions):
    folder = tmp_path / "probes"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained_folder, folder)
    served = [3]
    for version in versions:
        promote(folder, "toy", version)
        if version != served[-1]:
            served.append(version)
    while len(served) > 1:
        served.pop()
        assert roll_back(folder, "toy") == served[-1] == serving_version(folder, "toy")


def test_a_trial_is_beside_what_serves_and_over_once_it_serves_itself(folder):
    promote(folder, "toy", 1)
    set_shadow(folder, "toy", 3)
    trial = shadow_probe(folder, "toy")
    assert trial is not None
    assert (trial.card.version, serving_version(folder, "toy")) == (3, 1)
    promote(folder, "toy", 2)
    assert shadow_version(folder, "toy") == 3
    promote(folder, "toy", 3)
    assert shadow_version(folder, "toy") is None
    set_shadow(folder, "toy", 2)
    assert set_shadow(folder, "toy", None) == Pointers(serving=3, previous=(3, 1, 2))


def test_a_version_that_is_gone_is_missed_by_name_and_no_other_takes_its_place(folder):
    promote(folder, "toy", 2)
    shutil.rmtree(folder / "toy" / "2")
    with pytest.raises(ProbeFileError, match=r"no probe toy@2 .* there are toy@1, toy@3; put"):
        serving_probe(folder, "toy")
    # The domain is still one that is served: its route says what is wrong.
    assert served_domains(folder) == ["toy"]


@pytest.mark.parametrize("change", [promote, set_shadow, load_version])
def test_what_is_not_there_cannot_be_chosen(folder, change):
    with pytest.raises(ProbeFileError, match="no probe toy@9"):
        change(folder, "toy", 9)
    assert load_pointers(folder, "toy") == Pointers(serving=3)


def test_a_damaged_version_is_not_promoted(folder):
    weights = folder / "toy" / "2" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ProbeFileError, match="SHA-256"):
        promote(folder, "toy", 2)
    assert serving_version(folder, "toy") == 3


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"serving": "2"}', '{"serving": 0}', '{"serving": true}', '{"serving": 1',
     '{"serving": 1, "previous": 3}', '{"serving": 1, "shadow": "x"}', "\x00"],
)  # fmt: skip
def test_pointers_that_cannot_be_read_are_named(folder, content):
    (folder / "toy" / "serving.json").write_text(content)
    with pytest.raises(ProbeFileError, match=r"serving\.json does not say which probe serves"):
        serving_probe(folder, "toy")
    assert served_domains(folder) == ["toy"]


def test_a_probe_that_is_trained_serves_even_where_an_older_one_did(labelled_store, folder):
    promote(folder, "toy", 1)
    train_probe(labelled_store, "toy", folder, now=NOW, nested=False, kinds=("linear",))
    assert load_pointers(folder, "toy") == Pointers(serving=4, previous=(3, 1))


def test_a_probe_that_is_not_to_serve_yet_leaves_what_serves(labelled_store, folder):
    train_probe(
        labelled_store, "toy", folder, now=NOW, nested=False, kinds=("linear",), serve=False
    )
    assert probe_versions(folder, "toy") == [1, 2, 3, 4]
    assert serving_version(folder, "toy") == 3


def test_the_first_probe_of_a_domain_may_serve_nobody_yet(labelled_store, tmp_path):
    folder = tmp_path / "probes"
    card = train_probe(
        labelled_store,
        "toy",
        folder,
        now=NOW,
        nested=False,
        kinds=("linear",),
        serve=False,
        by="ann",
    ).card
    # Who labelled what it learnt is on its card.
    assert card.label.source == "code"
    assert card.provenance == Provenance(by="ann", labels={"code": 120}, seen={"collected": 120})
    assert (trained_domains(folder), served_domains(folder)) == (["toy"], [])
    with pytest.raises(ProbeFileError, match="foretell probes promote toy@1"):
        serving_probe(folder, "toy")
    with pytest.raises(InputError, match="nothing served domain 'toy' before, so"):
        roll_back(folder, "toy")


def test_many_that_change_the_pointers_at_once_lose_nothing(folder):
    """Every promotion of another version than the one before is in the history."""
    counts = {1: 0, 2: 0}

    def promote_often(version: int) -> None:
        for _ in range(10):
            with locked(folder, "toy"):
                if serving_version(folder, "toy") != version:
                    counts[version] += 1
                promote(folder, "toy", version)

    threads = [threading.Thread(target=promote_often, args=(version,)) for version in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pointers = load_pointers(folder, "toy")
    assert len(pointers.previous) == sum(counts.values())


def test_a_process_that_is_killed_while_it_promotes_leaves_whole_pointers(folder):
    program = (
        "import sys; from pathlib import Path; from foretell.runtime import promote\n"
        "folder = Path(sys.argv[1])\n"
        "while True:\n"
        "    for version in (1, 2): promote(folder, 'toy', version); print(flush=True)"
    )
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert serving_probe(folder, "toy").card.version in (1, 2)
        promote(folder, "toy", 3)  # the dead one let go of the lock


def test_of_two_refits_at_once_one_is_refused(folder):
    with refitting(folder, "toy"):
        again = refitting(folder, "toy")
        with pytest.raises(InputError, match="'toy' is being trained already"), again:
            pass
        with refitting(folder, "tea"):
            pass
    with refitting(folder, "toy"):
        pass


def test_a_training_that_dies_before_its_end_leaves_what_serves(
    labelled_store, folder, monkeypatch
):
    def die(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foretell.runtime._training.fit_gate", die)
    with pytest.raises(KeyboardInterrupt):
        train_probe(labelled_store, "toy", folder, now=NOW, nested=False, kinds=("linear",))
    assert load_pointers(folder, "toy") == Pointers(serving=3)
    assert probe_versions(folder, "toy") == [1, 2, 3]
    # As a loss of power would leave it.
    (folder / "toy" / ".4.new-x").mkdir()
    monkeypatch.undo()
    train_probe(labelled_store, "toy", folder, now=NOW, nested=False, kinds=("linear",))
    assert serving_version(folder, "toy") == 4
    assert not (folder / "toy" / ".4.new-x").exists()


def test_an_exported_probe_is_read_again_from_another_folder(folder, tmp_path):
    saved = load_version(folder, "toy", 1)
    assert early_probes(folder, saved)
    copy = export_probe(folder, "toy", 1, tmp_path / "other")
    assert copy == tmp_path / "other" / "toy" / "1"
    assert load_probe(copy).card == saved.card
    again = early_probes(tmp_path / "other", load_probe(copy))
    assert [one.card for one in again] == [one.card for one in early_probes(folder, saved)]
    assert serving_version(tmp_path / "other", "toy") == 1


def test_an_archive_unpacks_into_a_folder_of_probes_and_is_the_same_each_time(folder, tmp_path):
    saved = load_version(folder, "toy", 1)
    first, second = (export_probe(folder, "toy", 1, tmp_path / f"{name}.zip") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as file:
        file.extractall(tmp_path / "there")
    there = serving_probe(tmp_path / "there", "toy")
    assert there.card == saved.card
    assert len(early_probes(tmp_path / "there", there)) == len(early_probes(folder, saved))


def test_an_export_overwrites_nothing(folder, tmp_path):
    (tmp_path / "there.zip").touch()
    with pytest.raises(InputError, match=r"there\.zip is there already"):
        export_probe(folder, "toy", 1, tmp_path / "there.zip")
    export_probe(folder, "toy", 1, tmp_path / "other")
    with pytest.raises(InputError, match="is there already"):
        export_probe(folder, "toy", 1, tmp_path / "other")


def test_an_export_that_cannot_be_written_leaves_nothing(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ProbeFileError, match="cannot write"):
        export_probe(folder, "toy", 1, tmp_path / "file" / "a.zip")
