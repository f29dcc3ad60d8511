"""Running what a model wrote in a process that can do no harm."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, Literal, cast

from foretell.errors import EngineUnavailableError, InputError

Isolation = Literal["strict", "process"]
"""How much a sandbox must be able to promise.

``strict`` runs nothing unless the kernel locks it in: no files of others, no network, no other
processes. ``process`` makes do with a process of its own and its limits where the kernel cannot;
what runs may then read what you can read, and use the network.
"""

_HERE = Path(__file__).parent
_LARGEST_REPORT_BYTES: Final = 16 << 20
_CLOCK_SECONDS: Final = 3  # for each of the processor
_POLL_S: Final = 0.001
_LOCKS: Final = ("landlock", "seccomp")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What one run may use.

    ``seconds`` is processor time; by the clock a run may take three times as long, so that a busy
    machine does not fail what is right. ``memory_mb`` is address space.
    """

    seconds: int = 10
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        if self.seconds < 1:
            raise InputError(f"seconds is {self.seconds}; wanted at least 1")
        if self.memory_mb < 64:
            raise InputError(f"memory_mb is {self.memory_mb}; wanted at least 64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a run ended.

    ``proven`` says that it came to its end: it handed over a nonce that it was given only then.
    ``problem`` says in a few words why not, when the process did not say so itself. ``said`` are
    the facts that it reported on its way.
    """

    proven: bool
    problem: str
    said: Mapping[str, Any]


def run_sandboxed(
    program: str, task: Mapping[str, Any], limits: SandboxLimits, isolation: Isolation
) -> Finished:
    """Run one of our programs for the sandbox, by its file's name, on a task.

    The process has no environment, an empty folder that it cannot write to, nothing on standard
    input, and nobody reads what it prints. Whatever happens, it is gone when this returns.

    Raises:
        EngineUnavailableError: This machine cannot isolate as asked; then nothing was run.
    """
    if sys.platform != "linux":
        raise EngineUnavailableError(
            "what a model wrote is run on Linux only; label there, or choose another labeller"
        )
    nonce = secrets.token_hex(16)
    job = {
        **task,
        "limits": {"cpu_s": limits.seconds, "memory_bytes": limits.memory_mb << 20},
        "needs": _LOCKS if isolation == "strict" else (),
    }
    with ExitStack() as release:
        folder = release.enter_context(tempfile.TemporaryDirectory(prefix="foretell-sandbox-"))
        given = release.enter_context(tempfile.TemporaryFile())
        given.write(json.dumps(job).encode())
        given.seek(0)
        report, report_to = _pipe(release)
        nonce_in, nonce_to = _pipe(release)
        nonce_to.write(nonce.encode())
        nonce_to.close()
        give_up_at = time.monotonic() + _CLOCK_SECONDS * limits.seconds
        process = subprocess.Popen(  # noqa: S603 (our own interpreter, our own program)
            # No environment reaches it but ours, no folder of the caller, no site-packages.
            [
                *(sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8"),
                *(str(_HERE / "_confined.py"), str(_HERE / program)),
                *(str(report_to.fileno()), str(nonce_in.fileno())),
            ],
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(report_to.fileno(), nonce_in.fileno()),
            env={"PYTHONHASHSEED": "0"},
            cwd=folder,
            start_new_session=True,
        )
        release.callback(_end, process)
        report_to.close()
        heard, problem = _listen(report, give_up_at)
        if not problem and not _has_ended(process, give_up_at):
            problem = "time limit"
    said = _facts(heard)
    if said.get("lacks"):
        raise EngineUnavailableError(
            f"this machine lacks {' and '.join(said['lacks'])}, so what a model wrote could read "
            "your files or use the network; label on Linux 5.13 or newer (x86-64 or 64-bit ARM), "
            "or accept that with the option sandbox=process"
        )
    proven = said.get("done") == nonce
    return Finished(
        proven=proven, problem="" if proven else problem or _ending(process.returncode), said=said
    )


def check_sandbox(limits: SandboxLimits, isolation: Isolation) -> None:
    """Raise ``EngineUnavailableError`` unless a harmless program runs here as it should."""
    # A module that nothing has loaded so far: the library must be there to be read.
    task = {"code": "import colorsys", "tests": "", "entry_point": None}
    finished = run_sandboxed("_run_code.py", task, limits, isolation)
    if not finished.proven:
        raise EngineUnavailableError(
            f"nothing runs in the sandbox on this machine ({finished.problem}); as root, Python's "
            "library must be readable by everybody; more memory_mb may help, too"
        )


def _pipe(release: ExitStack) -> tuple[FileIO, FileIO]:
    """Ends to read from and to write to, closed at the latest with ``release``."""
    reading, writing = os.pipe()
    return (
        release.enter_context(FileIO(reading, "rb")),
        release.enter_context(FileIO(writing, "wb")),
    )


def _listen(report: FileIO, give_up_at: float) -> tuple[bytes, str]:
    """All that comes until the other side closes, and why it was not waited for."""
    heard = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(report, selectors.EVENT_READ)
        while True:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0 or not selector.select(left_s):
                return bytes(heard), "time limit"
            piece = report.read(1 << 16)
            if not piece:
                return bytes(heard), ""
            heard += piece
            if len(heard) > _LARGEST_REPORT_BYTES:
                return b"", "too much output"


def _facts(heard: bytes) -> dict[str, Any]:
    """What the lines say, a later one before an earlier one; who broke in is not believed."""
    facts = dict[str, Any]()
    for line in heard.splitlines():
        try:
            said: Any = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(said, dict):
            facts.update(cast("dict[str, Any]", said))
    return facts


def _has_ended(process: subprocess.Popen[bytes], give_up_at: float) -> bool:
    """Whether the process ends in time; its number stays taken, so that nobody else gets it."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, process.pid, flags) is None:
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(_POLL_S)
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it is left, nor of what it may have started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _ending(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "time limit"
    return "ended early" if code >= 0 else f"killed by {signal.Signals(-code).name}"
