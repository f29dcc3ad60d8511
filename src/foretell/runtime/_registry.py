"""Which of a domain's saved probes serves, which is on trial, and which served before.

``folder/domain`` holds numbered versions and ``serving.json``. Where that file is absent, as in a
folder that was only ever trained into, the newest version serves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from foretell.errors import InputError, ProbeFileError
from foretell.probes import SavedProbe, load_probe

_POINTERS: Final = "serving.json"
_LOCK: Final = ".lock"
_REFIT_LOCK: Final = ".refit.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointers:
    """What ``serving.json`` says: version numbers, ``None`` for none.

    ``serving`` answers for the domain, ``shadow`` foretells beside it without deciding anything.
    ``previous`` served before, the latest last; rolling back takes from its end.
    """

    serving: int | None
    shadow: int | None = None
    previous: tuple[int, ...] = ()


def probe_versions(folder: Path, domain: str) -> list[int]:
    """Saved versions of a domain's probe, oldest first."""
    place = domain_folder(folder, domain)
    if not place.is_dir():
        return []
    return sorted(int(path.name) for path in place.iterdir() if path.name.isdigit())


def trained_domains(folder: Path) -> list[str]:
    """Domains that have a probe in ``folder``, whether it serves or not."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and probe_versions(folder, path.name)
    )


def served_domains(folder: Path) -> list[str]:
    """Domains for which a probe in ``folder`` serves.

    One whose ``serving.json`` cannot be read is among them: opening its probe says why.
    """

    def served(domain: str) -> bool:
        try:
            return serving_version(folder, domain) is not None
        except ProbeFileError:
            return True

    return [domain for domain in trained_domains(folder) if served(domain)]


def load_pointers(folder: Path, domain: str) -> Pointers:
    """Which versions serve, are on trial, and served before.

    Raises ``ProbeFileError`` when ``serving.json`` cannot be read.
    """
    path = domain_folder(folder, domain) / _POINTERS
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Pointers(serving=max(probe_versions(folder, domain), default=None))
    except OSError as error:
        raise ProbeFileError(f"cannot read {path}: {error.strerror}") from error
    return _parsed(path, content)


def serving_version(folder: Path, domain: str) -> int | None:
    """The version that serves; ``None`` when none does."""
    return load_pointers(folder, domain).serving


def shadow_version(folder: Path, domain: str) -> int | None:
    """The version on trial; ``None`` when none is."""
    return load_pointers(folder, domain).shadow


def serving_probe(folder: Path, domain: str) -> SavedProbe:
    """The probe that routes of a domain serve.

    Raises ``ProbeFileError`` when there is none, none of those there serves, or the one that is
    to serve is missing: no other one takes its place unasked.
    """
    version = serving_version(folder, domain)
    if version is None:
        if waiting := probe_versions(folder, domain):
            raise ProbeFileError(
                f"no probe of domain {domain!r} serves yet; of those in {folder} let one serve: "
                f"foretell probes promote {domain}@{waiting[-1]}"
            )
        raise ProbeFileError(
            f"there is no probe for domain {domain!r} in {folder}; train one: "
            f"foretell train --domain {domain}"
        )
    return load_version(folder, domain, version)


def shadow_probe(folder: Path, domain: str) -> SavedProbe | None:
    """The probe that is on trial beside the serving one, if any.

    Raises ``ProbeFileError`` when it is missing or damaged.
    """
    version = shadow_version(folder, domain)
    return None if version is None else load_version(folder, domain, version)


def load_version(folder: Path, domain: str, version: int) -> SavedProbe:
    """A probe by its version; raises ``ProbeFileError`` when it is not there, or damaged."""
    _require(folder, domain, version)
    return load_probe(domain_folder(folder, domain) / str(version))


def early_probes(folder: Path, saved: SavedProbe) -> list[SavedProbe]:
    """The early probes that were saved with a probe, lowest layer first."""
    place = early_folder(domain_folder(folder, saved.card.domain) / str(saved.card.version))
    found = [load_probe(path) for path in place.iterdir()] if place.is_dir() else []
    return sorted(found, key=lambda early: early.card.read_point)


def promote(folder: Path, domain: str, version: int) -> Pointers:
    """Let a version serve; what served until now can be rolled back to. Its trial is over.

    Raises ``ProbeFileError`` for a version that cannot be loaded: it would serve nobody.
    """
    load_version(folder, domain, version)
    with locked(folder, domain):
        before = load_pointers(folder, domain)
        replaced = () if before.serving in (None, version) else (before.serving,)
        after = Pointers(
            serving=version,
            shadow=None if before.shadow == version else before.shadow,
            previous=(*before.previous, *replaced),
        )
        return _write(folder, domain, after)


def roll_back(folder: Path, domain: str) -> int:
    """Let the version that served before serve again, and return its number.

    Whatever is on trial stays there. Raises ``InputError`` when nothing served before, and
    ``ProbeFileError`` when there is no probe, or that version cannot be loaded.
    """
    require_probes(folder, domain)
    with locked(folder, domain):
        before = load_pointers(folder, domain)
        if not before.previous:
            raise InputError(
                f"nothing served domain {domain!r} before"
                + ("" if before.serving is None else f" {domain}@{before.serving}")
                + ", so there is nothing to go back to; see foretell probes ls, and name one: "
                f"foretell probes promote {domain}@1"
            )
        *earlier, last = before.previous
        load_version(folder, domain, last)
        _write(folder, domain, replace(before, serving=last, previous=tuple(earlier)))
        return last


def set_shadow(folder: Path, domain: str, version: int | None) -> Pointers:
    """Put a version on trial beside the serving one, or end the trial with ``None``."""
    if version is not None:
        load_version(folder, domain, version)
    with locked(folder, domain):
        return _write(folder, domain, replace(load_pointers(folder, domain), shadow=version))


def require_probes(folder: Path, domain: str) -> None:
    """Raises ``ProbeFileError`` when a domain has no probe: its name is wrong, or none is trained.

    To be asked before ``locked``, which makes a folder for the domain.
    """
    if not probe_versions(folder, domain):
        known = ", ".join(trained_domains(folder)) or "none"
        raise ProbeFileError(
            f"there are no probes of domain {domain!r} in {folder}; of these domains there are: "
            f"{known}; train one: foretell train --domain {domain}"
        )


@contextmanager
def locked(folder: Path, domain: str) -> Generator[None]:
    """Alone among all threads and processes in changing a domain's probes; waits for the others.

    Who holds the lock may ask for it again, and a process that dies lets go. Reading needs no
    lock: every file appears whole.
    """
    from filelock import FileLock

    place = domain_folder(folder, domain)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / _LOCK, is_singleton=True)
        lock.acquire()
    except OSError as error:
        raise ProbeFileError(f"cannot lock {place}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def refitting(folder: Path, domain: str) -> Generator[None]:
    """Alone in training a probe for a domain with a view to promoting it.

    Raises ``InputError`` when another thread or process is at it: one that waited would train on
    the same labels again.
    """
    from filelock import FileLock, Timeout

    place = domain_folder(folder, domain)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / _REFIT_LOCK)
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"a probe for domain {domain!r} is being trained already; wait for it (foretell "
            "flywheel jobs), or stop it first"
        ) from None
    except OSError as error:
        raise ProbeFileError(f"cannot lock {place}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def fix_serving(folder: Path, domain: str) -> None:
    """Write down what serves now, so that a newer version does not serve by being there."""
    with locked(folder, domain):
        _write(folder, domain, load_pointers(folder, domain))


def domain_folder(folder: Path, domain: str) -> Path:
    """Where a domain's probes are; raises ``InputError`` for a name that would lead elsewhere."""
    # A domain may come from a request, so it must not lead out of the folder.
    if not domain or domain.startswith(".") or Path(domain).name != domain:
        raise InputError(
            f"domain {domain!r} cannot name a folder of probes; use a name without '/' that does "
            "not begin with a dot"
        )
    return folder / domain


def early_folder(version: Path) -> Path:
    """Where the early probes of the version saved at ``version`` are."""
    return version.with_name(f"{version.name}.early")


def _require(folder: Path, domain: str, version: int) -> None:
    known = probe_versions(folder, domain)
    if version not in known:
        names = ", ".join(f"{domain}@{number}" for number in known) or "none"
        raise ProbeFileError(
            f"there is no probe {domain}@{version} in {folder}; of {domain!r} there are {names}; "
            "put its folder back, or name another one: foretell probes promote "
            f"{domain}@{known[-1] if known else 1}"
        )


def _parsed(path: Path, content: bytes) -> Pointers:
    def number(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(value)
        return value

    try:
        fields: Any = json.loads(content)
        return Pointers(
            serving=None if fields["serving"] is None else number(fields["serving"]),
            shadow=None if (shadow := fields.get("shadow")) is None else number(shadow),
            previous=tuple(number(value) for value in fields.get("previous", ())),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProbeFileError(
            f"{path} does not say which probe serves; it should read like "
            '{"serving": 2, "shadow": null, "previous": [1]}; correct it, or delete it so that '
            "the newest version serves"
        ) from error


def _write(folder: Path, domain: str, pointers: Pointers) -> Pointers:
    place = domain_folder(folder, domain)
    unfinished = place / f".{_POINTERS}.new"
    text = json.dumps(
        {
            "serving": pointers.serving,
            "shadow": pointers.shadow,
            "previous": list(pointers.previous),
        }
    )
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(place / _POINTERS)
    except OSError as error:
        raise ProbeFileError(f"cannot write {place / _POINTERS}: {error.strerror}") from error
    return pointers
