"""Programs that run beside a benchmark: started, pinned to cores, looked at, and ended."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError

from benchmarks.gateway.load import Load, Loaded

SERVER_CORE = 0
"""Where the gateway runs, alone; callers and the upstream share the other core."""
OTHER_CORE = 1

KEY = f"sk-{sha256(b'benchmark').hexdigest()}"
"""What callers show, on loopback."""

_ROOT = Path(__file__).parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")
_FORETELL = "from foretell.cli import main; main()"
_READY_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that serves at ``url``; its log is in ``log``."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def cpu_s(self) -> float:
        """Processor time so far, of all its threads."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mb(self) -> float:
        """Resident memory, in MB of a million bytes."""
        found = re.search(r"VmRSS:\s*(\d+) kB", self._proc("status"))
        assert found is not None
        return int(found[1]) * 1024 / 1e6

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Threads."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text()


@contextmanager
def on_core(core: int) -> Generator[None]:
    """Keep this thread, and those it starts, on one core meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def mock_upstream(folder: Path) -> Generator[Program]:
    """The upstream of ``mock_upstream.py``."""
    log = folder / "mock.log"
    command = [sys.executable, "-m", "benchmarks.gateway.mock_upstream"]
    with _started(command, log, core=OTHER_CORE) as process:
        yield Program(process=process, url=_said(process, log, r"http://\S+"), log=log)


@contextmanager
def gateway(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    core: int | None = SERVER_CORE,
) -> Generator[Program]:
    """``foretell serve`` in ``folder``, once its models are loaded; ``None``: on all cores."""
    log = folder / "gateway.log"
    command = [sys.executable, "-c", _FORETELL, "serve", "--port", "0"]
    with _started(command, log, core=core, cwd=folder, environment=environment) as process:
        url = _said(process, log, r"serves on (http://\S+)")
        _wait_for(f"{url}/readyz", process, log)
        yield Program(process=process, url=f"{url}/v1", log=log)


@contextmanager
def litellm(python: Path, folder: Path, upstream: str, port: int) -> Generator[Program]:
    """LiteLLM's proxy, one worker, in the virtual environment of ``python``.

    Set up as its page on production asks for, as far as that concerns one worker without a
    database: a key (it refuses to start without one), errors alone in the log, no debugging, no
    spend logs, no telemetry.
    """
    config = folder / "litellm.json"  # JSON is YAML, too
    model = {"model": "openai/mock-1", "api_base": upstream, "api_key": "none"}
    settings = {
        "model_list": [{"model_name": "large", "litellm_params": model}],
        "litellm_settings": {
            "set_verbose": False,
            "json_logs": True,
            "request_timeout": 600,
            "telemetry": False,
        },
        "general_settings": {"disable_spend_logs": True, "disable_error_logs": True},
    }
    config.write_text(json.dumps(settings))
    log = folder / "litellm.log"
    program = python.parent / "litellm"
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_DOCS": "True",
        "DISABLE_ADMIN_UI": "True",
    }
    command += ["--num_workers", "1", "--telemetry", "False"]
    with _started(command, log, core=SERVER_CORE, environment=environment) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/health/liveliness", process, log)
        yield Program(process=process, url=f"{url}/v1", log=log)


def run_load(load: Load) -> Loaded:
    """Run ``load.py`` on the core beside the server's."""
    options: list[str] = []
    for name, value in asdict(load).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            options.append(flag)
        elif value not in (None, False, ""):
            options += [flag, str(value)]
    with TemporaryDirectory() as folder:
        raw = Path(folder) / "loaded.json"
        command = [sys.executable, "-m", "benchmarks.gateway.load", "--raw", str(raw), *options]
        subprocess.run(_pinned(command, OTHER_CORE), cwd=_ROOT, check=True)
        return Loaded(**json.loads(raw.read_text()))


def foretell(folder: Path, *arguments: str) -> None:
    """Run one verb of the command in ``folder``; raises ``RuntimeError`` with what it said."""
    command = [sys.executable, "-c", _FORETELL, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"foretell {' '.join(arguments)}: {done.stderr[-2000:]}")


def get_json(url: str, *, token: str | None = None) -> dict[str, object]:
    """What is at ``url``."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - our own address
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


@contextmanager
def _started(
    command: Sequence[str],
    log: Path,
    *,
    core: int | None,
    cwd: Path = _ROOT,
    environment: Mapping[str, str] | None = None,
) -> Generator[subprocess.Popen[str]]:
    with log.open("w") as output:
        process = subprocess.Popen(
            _pinned(command, core),
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pinned(command: Sequence[str], core: int | None) -> list[str]:
    return [*command] if core is None else ["taskset", "-c", str(core), *command]


def _said(process: subprocess.Popen[str], log: Path, pattern: str) -> str:
    """What of the log matches, once it does: the first group, or all of it."""
    for _ in _moments(process, log):
        if found := re.search(pattern, log.read_text()):
            return found[found.lastindex or 0].rstrip()
    raise AssertionError


def _wait_for(url: str, process: subprocess.Popen[str], log: Path) -> None:
    for _ in _moments(process, log):
        with suppress(URLError, ConnectionError, TimeoutError):
            get_json_or_text(url)
            return


def get_json_or_text(url: str) -> bytes:
    """The bytes at ``url``; raises ``URLError`` for a status that is not 200."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own address
        return answer.read()


def _moments(process: subprocess.Popen[str], log: Path) -> Generator[None]:
    """Time and again, until the program ends or has taken too long."""
    give_up = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < give_up:
        yield
        time.sleep(0.05)
    raise RuntimeError(f"{process.args} did not start: {log.read_text()[-2000:]}")
