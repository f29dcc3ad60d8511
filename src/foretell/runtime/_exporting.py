"""A probe taken out of its folder, to be put into another one."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from foretell.errors import InputError, ProbeFileError
from foretell.probes import load_probe
from foretell.runtime._registry import domain_folder, early_folder, load_version

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every file in an archive, so that the same probe makes the same archive."""


def export_probe(folder: Path, domain: str, version: int, target: Path) -> Path:
    """Copy a version with its early probes to ``target``, and read the copy back to check it.

    What is written is ``domain/version`` and ``domain/version.early``, as in a folder of probes: in
    a ZIP archive when ``target`` ends with ``.zip``, else in that folder. Unpacked into another
    machine's folder of probes it is one of those there.

    Returns:
        Where the copy is: the archive, or the version's folder.

    Raises:
        ProbeFileError: The version is missing or damaged, or the copy cannot be written.
        InputError: The archive, or that version in the folder, is there already.
    """
    load_version(folder, domain, version)
    place = domain_folder(folder, domain) / str(version)
    sources = [path for path in (early_folder(place), place) if path.is_dir()]
    archive = target.suffix == ".zip"
    copy = target if archive else target / domain / place.name
    if copy.exists():
        raise InputError(f"{copy} is there already; name another place, or remove it first")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".export-") as temporary:
            if archive:
                unfinished = Path(temporary) / target.name
                _pack(sources, unfinished, domain)
                _check(unfinished, Path(temporary), domain, version)
                unfinished.replace(target)
            else:
                for (
                    source
                ) in sources:  # the version itself last, so that one that is there is whole
                    fresh = Path(temporary) / source.name
                    shutil.copytree(source, fresh)
                    for path in fresh.rglob("card.json"):
                        load_probe(path.parent)
                    fresh.rename(copy.with_name(source.name))
    except (OSError, shutil.Error) as error:
        raise ProbeFileError(f"cannot write {copy}: {error}") from error
    return copy


def _pack(sources: list[Path], archive: Path, domain: str) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for source in sources:
            for path in sorted(path for path in source.rglob("*") if path.is_file()):
                name = f"{domain}/{source.name}/{path.relative_to(source).as_posix()}"
                entry = zipfile.ZipInfo(name, date_time=_LONG_AGO)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                file.writestr(entry, path.read_bytes())


def _check(archive: Path, temporary: Path, domain: str, version: int) -> None:
    unpacked = temporary / "unpacked"
    with zipfile.ZipFile(archive) as file:
        file.extractall(unpacked)
    load_version(unpacked, domain, version)
    for path in unpacked.rglob("card.json"):
        load_probe(path.parent)
